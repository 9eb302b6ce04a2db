package interop

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// harbour is a server to which mail is relayed. It counts what arrives, and the
// transactions that were under way when a connection broke.
type harbour struct {
	addr string

	mu       sync.Mutex
	arrived  map[string]int // Message-ID and recipient to how often
	inFlight int
}

func startHarbour(t testing.TB) *harbour {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &harbour{addr: l.Addr().String(), arrived: make(map[string]int)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return h
}

// serve takes mail from one connection. A transaction is under way from MAIL until
// the sender's next command after our 250 shows that it has read that.
func (h *harbour) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	underWay := 0
	defer func() {
		h.mu.Lock()
		h.inFlight += underWay
		h.mu.Unlock()
	}()
	say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
	say("220 harbour.test ESMTP")
	var to []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line[:min(4, len(line))]); verb {
		case "EHLO":
			say("250-harbour.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN")
		case "MAIL":
			underWay, to = 1, nil
			say("250 2.1.0 OK")
		case "RCPT":
			to = append(to, line[strings.IndexByte(line, '<'):strings.IndexByte(line, '>')+1])
			say("250 2.1.5 OK")
		case "DATA":
			say("354 go on")
			id := ""
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				if value, ok := strings.CutPrefix(line, "Message-ID: "); ok && id == "" {
					id = strings.TrimSpace(value)
				}
			}
			time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
			h.mu.Lock()
			for _, rcpt := range to {
				h.arrived[id+rcpt]++
			}
			h.mu.Unlock()
			say("250 2.0.0 OK")
		case "QUIT":
			underWay = 0
			say("221 2.0.0 bye")
			return
		default:
			underWay = 0
			say("250 2.0.0 OK")
		}
	}
}

func (h *harbour) count(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrived[key]
}

// TestRelayCrash kills the server 20 times while it relays. Every message whose 250
// was seen arrives for each recipient, and no more arrive twice than transactions
// were under way when it died (invariant I3).
func TestRelayCrash(t *testing.T) {
	rounds := 20
	if testing.Short() || raceEnabled {
		rounds = 7
	}
	if n, err := strconv.Atoi(os.Getenv("INTEROP_ROUNDS")); err == nil {
		rounds = n
	}
	h := startHarbour(t)
	s := newSite(t, fmt.Sprintf(`
[relay."*"]
hosts = [%q]
[pipeline.inbound.queue]
retry = "1s"
retry_max = "2s"
`, h.addr))
	s.inConfig("[listener.mx]\n", "[listener.mx]\ntrusted = [\"127.0.0.0/8\"]\n")
	var mu sync.Mutex
	acked := make(map[string][]string)
	for round := range rounds {
		s.start()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for worker := range loadWorkers {
			wg.Go(func() {
				c, err := dialSMTP(s.addr("mx"), time.Minute)
				if err != nil {
					return
				}
				defer c.close()
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					id := fmt.Sprintf("r%d.w%d.n%d@example.org", round, worker, n)
					to := [][]string{{"a@one.test"}, {"b@two.test", "c@two.test"}, {"d@one.test", "e@three.test"}}[n%3]
					if _, err := c.send(stranger, to, letter(id, "relay", 2000)); err != nil {
						return
					}
					mu.Lock()
					acked[id] = to
					mu.Unlock()
				}
			})
		}
		time.Sleep(100*time.Millisecond + time.Duration(rand.Int64N(int64(700*time.Millisecond))))
		s.crash()
		close(stop)
		wg.Wait()
	}
	s.start()
	defer s.stop()
	mu.Lock()
	defer mu.Unlock()
	var missing string
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		missing = ""
		for id, to := range acked {
			for _, rcpt := range to {
				if h.count("<"+id+"><"+rcpt+">") == 0 {
					missing = id + " for " + rcpt
				}
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("never arrived: %s; the queue has\n%.3000s", missing, s.sluice("", "queue", "list"))
		}
	}
	eventually(t, 20*time.Second, "an empty queue", func() bool { return strings.TrimSpace(s.sluice("", "queue", "list", "--json")) == "" })
	h.mu.Lock()
	defer h.mu.Unlock()
	twice := 0
	for _, n := range h.arrived {
		twice += n - 1
	}
	// A transaction has one or two recipients here.
	t.Logf("%d kills: %d messages acknowledged, %d copies arrived, %d of them again; %d transactions were under way when it died",
		rounds, len(acked), len(h.arrived), twice, h.inFlight)
	if twice > 2*h.inFlight {
		t.Errorf("%d copies came again, with %d transactions under way", twice, h.inFlight)
	}
	if len(acked) < 20*rounds {
		t.Errorf("only %d messages were acknowledged", len(acked))
	}
}
