package interop

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// greylister is a policy server as Postfix asks them (SMTPD_POLICY_README): who it
// has not seen is to come again.
type greylister struct {
	mu   sync.Mutex
	seen map[string]int // sender and recipient to how often
}

func (g *greylister) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	attributes := make(map[string]string)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if line != "\n" {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			attributes[name] = value
			continue
		}
		g.mu.Lock()
		key := attributes["sender"] + " " + attributes["recipient"]
		g.seen[key]++
		action := "DUNNO"
		if g.seen[key] <= 2 {
			action = "DEFER_IF_PERMIT Greylisted, come again"
		}
		g.mu.Unlock()
		fmt.Fprintf(conn, "action=%s\n\n", action)
	}
}

// TestGreylisting: a Postfix that asks everybody to come again gets the message when we do,
// once; and what is larger than it takes comes back without having been sent.
func TestGreylisting(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:10023")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g := &greylister{seen: make(map[string]int)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(conn)
		}
	}()
	w := newWorld(t, quickRetry, "")
	m := startPostfixWith(t, postfixAddr, `smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:10023, permit_mynetworks, reject
smtpd_relay_restrictions =
message_size_limit = 300000
`)
	w.start()
	defer w.stop()
	box := "box@" + m.domain()
	w.post([]string{box}, "grey@example.test", "greylisted", 2000)
	m.await("grey@example.test")
	w.awaitTrace("grey@example.test", "Greylisted, come again", "delivered")
	if n := len(m.received()); n != 1 {
		t.Errorf("%d messages arrived", n)
	}

	w.post([]string{box}, "huge@example.test", "huge", 400_000)
	dsn := w.awaitInbox(alice, "huge@example.test", "Action: failed")
	if !strings.Contains(dsn, "Status: 5.3.4") {
		t.Errorf("the DSN is\n%.3000s", dsn)
	}
	if all := m.allLogs(); strings.Contains(all, "exceeds size limit") {
		t.Errorf("the message was sent although the peer had said its limit:\n%s", m.log())
	}
}

// quickRetry lets the queue try again at once.
const quickRetry = `
[pipeline.outbound.queue]
retry = "1s"
retry_max = "1s"
`

// TestPace: a server that is busy (421) gets its mail later and less at a time, and one that
// takes 20 s for each answer holds up nobody else's mail.
func TestPace(t *testing.T) {
	if !inside(t) {
		return
	}
	w := newWorld(t, quickRetry, `
busy.test.         IN MX 10 mx.busy.test.
mx.busy.test.      IN A 127.0.1.21
tar.test.          IN MX 10 mx.tar.test.
mx.tar.test.       IN A 127.0.1.22
quick.test.        IN MX 10 mx.quick.test.
mx.quick.test.     IN A 127.0.1.23
`)
	var contents atomic.Int64
	busy := startScripted(t, "127.0.1.21:25", func(s *scripted) {
		s.answer = func(c *scriptedConn, line string) string {
			switch {
			case c.number == 1 && line == "greeting":
				return "421 4.7.0 too many connections"
			case c.number == 2 && line == "DATA":
				return "421 4.3.2 shutting down"
			case line == "." && contents.Add(1) == 1:
				return "451 4.3.0 no disk"
			}
			return ""
		}
	})
	stop := make(chan struct{})
	defer close(stop)
	tar := startScripted(t, "127.0.1.22:25", func(s *scripted) {
		s.answer = func(*scriptedConn, string) string {
			select {
			case <-time.After(20 * time.Second):
			case <-stop:
			}
			return ""
		}
	})
	quick := startScripted(t, "127.0.1.23:25", nil)
	w.start()

	for i := range 30 {
		w.post([]string{fmt.Sprintf("r%d@tar.test", i)}, fmt.Sprintf("tar.%d@example.test", i), "slowly", 1000)
	}
	eventually(t, 10*time.Second, "a connection to the tarpit", func() bool { return tar.connections() > 0 })
	w.post([]string{"a@busy.test"}, "busy@example.test", "busy", 1000)
	begin := time.Now()
	for i := range 20 {
		// One of each pair goes to both: the slow half does not hold up the other.
		to := []string{fmt.Sprintf("r%d@quick.test", i), fmt.Sprintf("s%d@tar.test", i)}[:1+i%2]
		w.post(to, fmt.Sprintf("quick.%d@example.test", i), "quickly", 1000)
	}
	for i := range 20 {
		quick.await(fmt.Sprintf("quick.%d@example.test", i))
	}
	took := time.Since(begin)
	t.Logf("20 messages beside the tarpit arrived within %v of the first one's posting", took)
	if limit := 10 * time.Second; took > limit {
		t.Errorf("that is more than %v", limit)
	}
	busy.await("busy@example.test")
	if n := busy.connections(); n < 3 {
		t.Errorf("the busy server was asked %d times", n)
	}
	w.awaitTrace("busy@example.test", "too many connections", "shutting down", "no disk", "delivered")
	if n := len(busy.took("busy@example.test")); n != 1 {
		t.Errorf("it took the message %d times", n)
	}
	if n := tar.connections(); n > 20 {
		t.Errorf("%d connections to the tarpit at once", n)
	}
	w.stop() // does not wait for the tarpit
}
