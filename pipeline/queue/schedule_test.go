package queue

import (
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// newSchedule returns a schedule whose clock the test sets.
func newSchedule(window int) (*schedule, *time.Time) {
	now := time.Unix(600, 0)
	s := new(schedule)
	s.init(func() time.Time { return now }, window, Limits{Connections: 10, Memory: 20})
	s.remote.settings = func(string, string) timetable {
		return timetable{connections: 20, retry: time.Minute, retryMax: time.Hour}
	}
	s.remote.carry, s.remote.find = func(*trip) {}, func(*hop) {}
	return s, &now
}

// entryOf returns an entry with one recipient, due now.
func entryOf(n byte, now time.Time, hop pipeline.Hop) *live {
	e := &live{Entry: Entry{ID: storage.ID{n}, Sender: "a@example.test"}}
	e.addRecipient(&Recipient{Hop: hop, Next: now})
	return e
}

var mailbox = pipeline.Hop{Kind: pipeline.HopMailbox}

// TestCommitBesideAFullWindow: an entry that finds no place and is applied after the loader has gone by is not
// forgotten.
func TestCommitBesideAFullWindow(t *testing.T) {
	s, now := newSchedule(1)
	first, second := entryOf(1, *now, mailbox), entryOf(2, *now, mailbox)
	s.claim(first)
	s.launch(first, 0)
	s.claim(second)
	s.read(minuteOf(*now))
	if low, local := s.pass(minuteOf(*now)); low > second.floor || local > second.floor {
		t.Error("the mark passed the entry that is being committed")
	}
	s.launch(second, 0)
	if in, more := s.depth(); in != 1 || !more {
		t.Errorf("%d entries in memory, more: %v", in, more)
	}
	if s.local.from != (place{minuteOf(*now), second.ID}) {
		t.Errorf("the loader goes on at %v", s.local.from)
	}
	p := s.pop()
	s.rest(p, left{})
	select {
	case <-s.refill:
	default:
		t.Error("nobody asks for it when there is room")
	}
}

// TestNothingIsDueBeforeTheMark: a due key below the low-water mark would never be read again after a restart. Clocks are
// set back, and a commit may take its time between two minutes.
func TestNothingIsDueBeforeTheMark(t *testing.T) {
	s, now := newSchedule(10)
	s.read(10)
	if low, local := s.pass(10); low != 10 || local != 10 {
		t.Fatalf("the marks stand at %d and %d", low, local)
	}
	*now = time.Unix(5*60, 0)
	e := entryOf(1, *now, mailbox)
	s.claim(e)
	if e.floor != 10 || e.recipients[0].at != 10 || s.dueMinute(localHop, *now) != 10 {
		t.Errorf("due in minute %d", e.floor)
	}
	s.read(20)
	if low, local := s.pass(20); low != 10 || local != 10 {
		t.Errorf("the marks passed an entry: %d, %d", low, local)
	}
	s.release(e)
	if low, _ := s.pass(30); low != 10 {
		t.Errorf("the mark passed minutes that were not read: %d", low)
	}
	if low, local := s.pass(20); low != 20 || local != 20 {
		t.Errorf("the marks stand still at %d and %d", low, local)
	}
}

// TestLocalMarkIsItsOwn: what waits for another server for days does not keep the minutes of local mail.
func TestLocalMarkIsItsOwn(t *testing.T) {
	s, now := newSchedule(10)
	e := entryOf(1, *now, pipeline.Hop{Kind: pipeline.HopRemote, Address: "a@example.net"})
	s.claim(e)
	s.launch(e, 0)
	s.read(50)
	if low, local := s.pass(50); low != 10 || local != 50 {
		t.Errorf("the marks stand at %d and %d", low, local)
	}
}

// TestClockThatIsSetBack: what is due in a minute that was read already stays in memory.
func TestClockThatIsSetBack(t *testing.T) {
	s, now := newSchedule(10)
	s.read(100)
	*now = time.Unix(50*60, 0)
	e := entryOf(1, *now, mailbox)
	s.claim(e)
	s.launch(e, 0)
	p := s.pop()
	s.rest(p, left{any: true, due: now.Add(20 * time.Minute), floor: 70})
	if in, _ := s.depth(); in != 1 {
		t.Error("forgotten, and its minute is not read again")
	}
}

// TestOurOwnWaitStaysInMemory: after a failure of the store a part waits in memory alone, however long.
func TestOurOwnWaitStaysInMemory(t *testing.T) {
	s, now := newSchedule(10)
	e := entryOf(1, *now, mailbox)
	s.claim(e)
	s.launch(e, 0)
	s.read(minuteOf(*now))
	p := s.pop()
	s.rest(p, left{any: true, due: now.Add(horizon + time.Minute), floor: minuteOf(*now)})
	if in, _ := s.depth(); in != 1 {
		t.Error("forgotten, and its due key stands in a minute that is not read again")
	}
}

// TestReadingThatFailedIsTriedAgain: a queue that rests with entries on disk would rest for ever.
func TestReadingThatFailedIsTriedAgain(t *testing.T) {
	s, now := newSchedule(10)
	s.mu.Lock()
	s.note(s.local, place{minute: minuteOf(*now)})
	s.mu.Unlock()
	s.wake()
	select {
	case <-s.refill:
	default:
		t.Error("nobody reads what is on disk")
	}
}

// TestClassesLeaveRoom: neither proven, new nor failing next hops can take all connections.
func TestClassesLeaveRoom(t *testing.T) {
	for _, most := range []int{4, 8, 500} {
		r := remote{most: most}
		fill := func(c class) int {
			for r.room(c) {
				r.begun[c]++
			}
			return r.begun[c]
		}
		if f := fill(failing); f != most/4 {
			t.Errorf("of %d, failing ones take %d", most, f)
		}
		if n := fill(unknown); n+r.begun[failing] != most/2 {
			t.Errorf("of %d, unknown ones take %d", most, n)
		}
		if n := fill(recent); n+most/2 != most*3/4 {
			t.Errorf("of %d, recent ones take %d", most, n)
		}
		if g := fill(good); g != most-most*3/4 {
			t.Errorf("of %d, %d are left for good ones", most, g)
		}
		r.begun = [classes]int{}
		if g := fill(good); g >= most {
			t.Errorf("good ones take all of %d", most)
		}
		if !r.room(recent) || !r.room(unknown) || !r.room(failing) {
			t.Errorf("good ones leave nothing of %d", most)
		}
	}
}

// TestFreshMailComesIn: whatever fills the memory, a destination with nothing there is admitted at once.
func TestFreshMailComesIn(t *testing.T) {
	s, now := newSchedule(10)
	add := func(n byte, address string) *live {
		e := entryOf(n, *now, pipeline.Hop{Kind: pipeline.HopRemote, Address: address})
		s.claim(e)
		s.launch(e, 0)
		return e
	}
	for n := range byte(100) {
		add(n+1, "a@backlog.example")
	}
	if s.memory.total > 20 {
		t.Errorf("%d in memory", s.memory.total)
	}
	for n := range byte(15) {
		e := add(n+101, "a@"+string('a'+rune(n))+".example")
		if e.parts[0].state != ready {
			t.Errorf("destination %d waits on disk", n)
		}
	}
	if s.memory.total > 40 {
		t.Errorf("%d in memory", s.memory.total)
	}
}

func TestTimetables(t *testing.T) {
	at := func(clock string) time.Time {
		c, err := time.ParseInLocation("2006-01-02 15:04", "2026-05-04 "+clock, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct{ window, now, want string }{
		{"22:00-06:00", "23:10", "23:10"}, {"22:00-06:00", "05:59", "05:59"}, {"22:00-06:00", "06:00", "22:00"}, {"22:00-06:00", "12:30", "22:00"},
		{"08:00-10:30", "07:00", "08:00"}, {"08:00-10:30", "10:29", "10:29"},
	} {
		var tt timetable
		tt.override(Destination{Windows: []string{c.window}})
		if got := tt.open(at(c.now)); !got.Equal(at(c.want)) {
			t.Errorf("%s at %s: %s", c.window, c.now, got)
		}
	}
	for text, want := range map[Rate]float64{"": 0, "60/m": 1, "10/s": 10, "3600/h": 1, "86400/d": 1, "x": -1, "0/m": -1, "5": -1, "5/y": -1, "-5/m": -1} {
		got, err := text.PerSecond()
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	d := Destination{Connections: -1, Rate: "x", Retry: 1, RetryMax: 1, Windows: []string{"x", "25:00-26:00", "10:00-10:00"}}
	if err := d.Validate(); err == nil {
		t.Error("nothing is wrong")
	}
	if err := new(Destination).Validate(); err != nil {
		t.Error(err)
	}
	l := DefaultLimits()
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
}

func TestHopNames(t *testing.T) {
	for _, c := range []struct {
		hop  pipeline.Hop
		want string
	}{
		{mailbox, "local"}, {pipeline.Hop{Kind: pipeline.HopBounce}, "local"},
		{pipeline.Hop{Kind: pipeline.HopRemote, Address: "a@Local"}, "@local"},
		{pipeline.Hop{Kind: pipeline.HopRemote, Address: "a@münchen.example"}, "@xn--mnchen-3ya.example"},
		{pipeline.Hop{Kind: pipeline.HopRemote, Address: "a@b", Via: "lmtp:///run/x/y"}, "@b>lmtp:|||run|x|y"},
	} {
		if got := hopOf(&c.hop); got != c.want {
			t.Errorf("%+v: %q", c.hop, got)
		}
		label, p, number, ok := parseDue(dueKey(7, c.want, storage.ID{'/', '/'}, 9))
		if label != c.want || p != (place{7, storage.ID{'/', '/'}}) || number != 9 || !ok {
			t.Errorf("%q comes back as %q %v %d %v", c.want, label, p, number, ok)
		}
	}
}
