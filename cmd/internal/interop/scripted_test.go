package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is a mail server that a test can make odd: it has the extensions, the
// certificate and the answers that it is told to have, and keeps what it took.
type scripted struct {
	t      testing.TB
	addr   string
	hello  []string                                  // extensions beside STARTTLS
	cert   *tls.Certificate                          // nil: no STARTTLS
	answer func(c *scriptedConn, line string) string // "": what a good server says
	mu     sync.Mutex
	mail   []scriptedMail
	opened int
}

// scriptedMail is a message that a scripted server took.
type scriptedMail struct {
	mail string   // the MAIL command
	rcpt []string // the RCPT commands
	text string
	tls  bool
	at   time.Time
}

// scriptedConn is one connection to a scripted server.
type scriptedConn struct {
	number int // of the connection, from 1
	conn   net.Conn
	r      *bufio.Reader
	tls    bool
	mail   string
	rcpt   []string
}

// startScripted lets a scripted server listen at an address of loopback until the test ends. set
// makes it odd, before anybody can connect; nil leaves it as it is.
func startScripted(t testing.TB, addr string, set func(*scripted)) *scripted {
	t.Helper()
	s := &scripted{t: t, addr: addr, hello: []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 30000000"}}
	if set != nil {
		set(s)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.opened++
			c := &scriptedConn{number: s.opened, conn: conn, r: bufio.NewReader(conn)}
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
	return s
}

func (s *scripted) serve(c *scriptedConn) {
	defer func() { c.conn.Close() }()
	if !s.say(c, "greeting", "220 scripted.test ESMTP") {
		return
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		usual := "250 2.0.0 OK"
		switch verb {
		case "EHLO":
			extensions := slices.Clone(s.hello)
			if s.cert != nil && !c.tls {
				extensions = append(extensions, "STARTTLS")
			}
			usual = "250 " + strings.Join(append([]string{"scripted.test"}, extensions...), "\n250 ")
		case "STARTTLS":
			usual = "220 2.0.0 go on"
		case "DATA":
			usual = "354 go on"
		case "QUIT":
			usual = "221 2.0.0 bye"
		}
		good := s.say(c, line, usual)
		switch {
		case !good && verb == "QUIT":
			return
		case !good:
			if c.r == nil {
				return
			}
		case verb == "QUIT":
			return
		case verb == "STARTTLS":
			secure := tls.Server(c.conn, &tls.Config{Certificates: []tls.Certificate{*s.cert}})
			if secure.Handshake() != nil {
				return
			}
			c.conn, c.r, c.tls = secure, bufio.NewReader(secure), true
		case verb == "MAIL":
			c.mail, c.rcpt = line, nil
		case verb == "RCPT":
			c.rcpt = append(c.rcpt, line)
		case verb == "DATA":
			if !s.content(c) {
				return
			}
		}
	}
}

// say answers a line, and reports whether that was the usual answer. Answer 421
// ends the connection.
func (s *scripted) say(c *scriptedConn, line, usual string) bool {
	text := ""
	if s.answer != nil {
		text = s.answer(c, line)
	}
	good := text == ""
	if good {
		text = usual
	}
	lines := strings.Split(text, "\n")
	for i := range lines[:len(lines)-1] {
		lines[i] = strings.Replace(lines[i], " ", "-", 1)
	}
	fmt.Fprintf(c.conn, "%s\r\n", strings.Join(lines, "\r\n"))
	if strings.HasPrefix(text, "421") {
		c.conn.Close()
		c.r = nil
	}
	return good
}

// content reads a message to its end.
func (s *scripted) content(c *scriptedConn) bool {
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	if s.say(c, ".", "250 2.0.0 taken") {
		s.mu.Lock()
		s.mail = append(s.mail, scriptedMail{mail: c.mail, rcpt: c.rcpt, text: b.String(), tls: c.tls, at: time.Now()})
		s.mu.Unlock()
	}
	return c.r != nil
}

// connections returns how many there were.
func (s *scripted) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// took returns what it took with that Message-ID.
func (s *scripted) took(id string) []scriptedMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []scriptedMail
	for _, m := range s.mail {
		if strings.Contains(m.text, "<"+id+">") {
			found = append(found, m)
		}
	}
	return found
}

// await waits for a message with that Message-ID.
func (s *scripted) await(id string) scriptedMail {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "the message "+id+" at the scripted server "+s.addr, func() bool { return len(s.took(id)) > 0 })
	return s.took(id)[0]
}

// awaitTrace waits until the trace of a message tells all of the words.
func (s *site) awaitTrace(id string, words ...string) (trace string) {
	s.t.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		trace, _ = s.trySluice("", "trace", id)
		lacking := ""
		for _, w := range words {
			if !strings.Contains(trace, w) {
				lacking = w
			}
		}
		if lacking == "" {
			return trace
		}
		if time.Now().After(end) {
			s.t.Errorf("the trace of %s never tells %q:\n%s", id, lacking, trace)
			return trace
		}
		time.Sleep(250 * time.Millisecond)
	}
}
