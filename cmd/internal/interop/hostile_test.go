package interop

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestHostileClients throws at every port what DRILLS E1 and E7 list. The server
// hangs up or says no, remembers nothing of it, and serves the next client.
func TestHostileClients(t *testing.T) {
	s := newSite(t, "")
	s.start()
	s.cleanMail("before", 5)
	s.waitMail(bob, "INBOX", "before.4@example.org")
	before := s.usage()

	ports := []string{"mx", "submission", "lmtp", "imap", "pop3"}
	start := map[string]string{"mx": "STARTTLS", "submission": "STARTTLS", "imap": "a STARTTLS", "pop3": "STLS"}
	for _, port := range ports {
		t.Run(port, func(t *testing.T) {
			s.t = t
			t.Run("injection", func(t *testing.T) {
				if start[port] != "" {
					injectBeforeTLS(t, s.addr(port), start[port])
				}
			})
			attacks := map[string]io.Reader{
				"endless line":  endless('A', 64<<20),
				"endless lines": io.LimitReader(repeat("NOOP nonsense\r\n"), 4<<20),
				"nul":           endless(0, 4<<20),
				"http":          strings.NewReader("POST / HTTP/1.1\r\nHost: mx.example.test\r\nContent-Length: 30\r\n\r\nMAIL FROM:<a@example.org>\r\nQUIT\r\n"),
				"tls hello":     bytes.NewReader([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x42", 500))),
				"literal":       strings.NewReader("a LOGIN {4294967295}\r\n" + strings.Repeat("x", 1<<16)),
				"literal plus":  io.MultiReader(strings.NewReader("a LOGIN {99999999+}\r\n"), endless('x', 32<<20)),
				"proxy":         strings.NewReader("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nEHLO x\r\n"),
			}
			for name, attack := range attacks {
				t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) { throw(t, s.addr(port), attack) })
			}
		})
	}
	s.t = t
	s.cleanMail("after", 5)
	s.demandUsage(before)
	if text := s.logText(); strings.Contains(text, "panic") || containsRace(text) {
		t.Errorf("the log speaks of a panic or a race:\n%s", s.logTail(40))
	}
	s.stop()
}

// injectBeforeTLS sends a command behind STARTTLS in the same segment. It must
// never be answered, neither in clear nor behind the handshake (CVE-2011-0411).
func injectBeforeTLS(t *testing.T, addr, starttls string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(starttls, "a ") && starttls != "STLS" {
		if err := converse(conn, r, []exchange{{"EHLO mx.example.org", "250 "}}); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(conn, starttls+"\r\nb NOOP\r\nNOOP\r\nNOOP\r\n")
	line, err := r.ReadString('\n')
	if err != nil || !strings.Contains(line, "220") && !strings.Contains(line, "OK") || strings.Contains(line, "-ERR") {
		return // refused or dropped
	}
	c := tls.Client(&buffered{conn, r}, &tls.Config{InsecureSkipVerify: true})
	if c.Handshake() != nil {
		return // dropped
	}
	c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	answer := make([]byte, 1024)
	if n, _ := c.Read(answer); n > 0 {
		t.Errorf("the server answers what was sent before TLS: %q", answer[:n])
	}
}

type buffered struct {
	net.Conn
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// throw sends an attack and reads what comes back until the server hangs up or
// the attack is over.
func throw(t *testing.T, addr string, attack io.Reader) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	answers := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, conn)
		answers <- n
	}()
	io.Copy(conn, attack)
	conn.(*net.TCPConn).CloseWrite()
	select {
	case n := <-answers:
		if n > 4<<20 {
			t.Errorf("the server answered with %d octets", n)
		}
	case <-time.After(20 * time.Second):
		t.Error("the server neither answers nor hangs up after the client's end")
	}
}

// endless is n octets c.
func endless(c byte, n int64) io.Reader {
	return io.LimitReader(repeat(strings.Repeat(string(rune(c)), 4096)), n)
}

// repeat repeats text for ever.
func repeat(text string) io.Reader { return &repeater{text: text} }

type repeater struct {
	text string
	at   int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}
