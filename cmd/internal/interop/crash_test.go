package interop

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

const (
	queueLimit   = 30 * time.Second // for the queue to empty after a start
	loadWorkers  = 12
	ackedAtLeast = 2000
)

// aim says when a round's kill -9 comes.
type aim struct {
	name string
	size int // octets of a message
	// arm calls fire when it is time; it may return at once and fire later. stop is
	// closed when the round is over anyway.
	arm func(l *load, fire func(), stop <-chan struct{})
}

// load is clients that send as fast as the server answers.
type load struct {
	s      *site
	book   *ledger
	round  int
	size   int
	dotted atomic.Int64 // final dots sent
	onDot  func(n int64)
}

// run sends until stop is closed or the server is gone.
func (l *load) run(stop <-chan struct{}) {
	var wg sync.WaitGroup
	addr := l.s.addr("mx")
	for worker := range loadWorkers {
		wg.Go(func() {
			for n := 0; ; {
				c, err := dialSMTP(addr, time.Minute)
				if err != nil {
					return // it was killed
				}
				for {
					select {
					case <-stop:
						c.close()
						return
					default:
					}
					id := fmt.Sprintf("r%d.w%d.n%d@example.org", l.round, worker, n)
					n++
					if err := l.one(c, id, n); err != nil {
						if code := replyCode(err); code != 0 {
							l.book.note(fmt.Sprint("reply ", code))
						}
						c.close()
						break
					}
				}
			}
		})
	}
	wg.Wait()
}

// one sends a message to alice, to bob or to both.
func (l *load) one(c *smtpClient, id string, n int) error {
	to := [][]string{{alice}, {bob}, {alice, bob}}[n%3]
	if _, err := c.command(250, "MAIL FROM:<%s>", stranger); err != nil {
		return err
	}
	for _, rcpt := range to {
		if _, err := c.command(250, "RCPT TO:<%s>", rcpt); err != nil {
			return err
		}
	}
	if _, err := c.command(354, "DATA"); err != nil {
		return err
	}
	if _, err := c.conn.Write([]byte(dotStuff(letter(id, "crash", l.size)) + ".\r\n")); err != nil {
		return err
	}
	if l.onDot != nil {
		l.onDot(l.dotted.Add(1))
	}
	_, err := c.reply(250)
	if err == nil {
		l.book.ack(id, to)
	}
	return err
}

// aims of the rounds, in turn.
var aims = []aim{
	{"random moment", 2000, func(_ *load, fire func(), stop <-chan struct{}) {
		after(time.Duration(rand.Int64N(int64(900*time.Millisecond))), fire, stop)
	}},
	{"right after a 250", 2000, func(l *load, fire func(), _ <-chan struct{}) {
		at := l.book.total() + 1 + rand.IntN(200)
		l.book.onAck = func(total int) {
			if total >= at {
				fire()
			}
		}
	}},
	{"right after a final dot", 4000, func(l *load, fire func(), _ <-chan struct{}) {
		at := 1 + rand.Int64N(200)
		l.onDot = func(n int64) {
			if n >= at {
				fire()
			}
		}
	}},
	{"during a flush", 48 << 10, func(l *load, fire func(), stop <-chan struct{}) { watchTables(l.s, false, fire, stop) }},
	{"larger messages, in files", 200 << 10, func(_ *load, fire func(), stop <-chan struct{}) {
		after(100*time.Millisecond+time.Duration(rand.Int64N(int64(500*time.Millisecond))), fire, stop)
	}},
	{"during a compaction", 48 << 10, func(l *load, fire func(), stop <-chan struct{}) { watchTables(l.s, true, fire, stop) }},
	{"as soon as it is ready", 1000, func(_ *load, fire func(), stop <-chan struct{}) { after(0, fire, stop) }},
}

func after(d time.Duration, fire func(), stop <-chan struct{}) {
	go func() {
		select {
		case <-time.After(d):
			fire()
		case <-stop:
		}
	}()
}

// watchTables fires when the engine writes a table, which is a flush, or else when
// it removes one, which a compaction does at its end, while the next one runs.
// Messages of 48 KiB bring that about quickly; if it takes too long all the same,
// the round's time limit kills.
func watchTables(s *site, removed bool, fire func(), stop <-chan struct{}) {
	tables := func() map[string]bool {
		found := make(map[string]bool)
		names, _ := filepath.Glob(filepath.Join(s.dir, "data", "store", "*.sst"))
		for _, name := range names {
			found[name] = true
		}
		return found
	}
	before := tables()
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			now := tables()
			was, is := before, now
			if !removed {
				was, is = now, before
			}
			for name := range was {
				if !is[name] {
					fire()
					return
				}
			}
			before = now
		}
	}()
}

// TestCrash kills the real process under load, again and again, at random and at
// chosen moments. After each restart, which takes less than five seconds, every
// message whose 250 was seen is in its mailbox once, none is there twice, and
// every UID that a reader was told names the same message (invariants I1 to I4).
func TestCrash(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 7
	}
	if n, err := strconv.Atoi(os.Getenv("INTEROP_ROUNDS")); err == nil {
		rounds = n
	}
	s := newSite(t, "")
	book := newLedger()
	slowest := s.start()
	var restarts []time.Duration
	for round := 0; round < rounds || rounds >= 20 && round < 2*rounds && book.total() < ackedAtLeast; round++ {
		a := aims[round%len(aims)]
		before := book.total()
		crashRound(s, book, round, a)
		took := s.start()
		restarts = append(restarts, took)
		slowest = max(slowest, took)
		if limit := startLimit; took > limit && !raceEnabled {
			t.Errorf("round %d (%s): the restart took %v, more than %v", round, a.name, took, limit)
		}
		book.check(s, alice, bob)
		t.Logf("round %2d, %-26s %4d acknowledged (%d in all), ready again after %v", round, a.name+":", book.total()-before, book.total(), took.Round(time.Millisecond))
	}
	if total := book.total(); total < ackedAtLeast && !testing.Short() && rounds >= 20 {
		t.Errorf("only %d messages were acknowledged, want %d", total, ackedAtLeast)
	}
	t.Logf("%d kills, %d messages acknowledged, slowest start %v, other answers %v", len(restarts), book.total(), slowest.Round(time.Millisecond), book.notes)
	s.stop()
	s.start()
	book.check(s, alice, bob)
	if text := s.logText(); containsRace(text) {
		t.Errorf("the race detector has something to say:\n%.4000s", raceReport(text))
	}
	s.stop()
}

// crashRound loads the server, watches it as a reader, and kills it.
func crashRound(s *site, book *ledger, round int, a aim) {
	const roundLimit = 20 * time.Second
	stop, dead := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fire := func() { once.Do(func() { s.crash(); close(dead) }) }
	l := &load{s: s, book: book, round: round, size: a.size}
	book.onAck = nil
	a.arm(l, fire, stop)

	var wg sync.WaitGroup
	wg.Go(func() { l.run(stop) })
	wg.Go(func() { watchInbox(s, book, bob, stop) })
	select {
	case <-dead:
	case <-time.After(roundLimit):
		fire()
	}
	close(stop)
	wg.Wait()
}

// watchInbox reads what comes into an INBOX until the server is gone. What a
// reader is told just before a crash must be true behind it (RULES B1).
func watchInbox(s *site, book *ledger, user string, stop <-chan struct{}) {
	c, err := s.wireLogin(user)
	if err != nil {
		return // killed before that
	}
	defer c.conn.Close()
	_, validity, err := c.examine("INBOX")
	if err != nil {
		return
	}
	for from := imap.UID(1); ; {
		if _, err := c.do("NOOP"); err != nil {
			return
		}
		news, err := c.fetchFrom(from)
		if err != nil {
			return
		}
		if wrong := book.tell(user, validity, news); len(wrong) > 0 {
			s.t.Errorf("while loaded: %q", wrong)
			return
		}
		if len(news) > 0 {
			from = news[len(news)-1].uid + 1
		}
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
