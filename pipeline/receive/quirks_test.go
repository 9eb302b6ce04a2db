package receive

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestNoTickets (DRILLS E5.5): whoever comes again makes a whole handshake; senders whose libraries fail on our tickets get none.
func TestNoTickets(t *testing.T) {
	s := serve(t, func(o *Options) { o.TLS, o.ImplicitTLS = testTLS(), true })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		kept := &sessions{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		config := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ServerName: "mx.example.test", ClientSessionCache: kept}
		for range 2 {
			conn, err := tls.Dial("tcp", s.addr, config)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			hears(t, bufio.NewReader(conn), "220 ") // with TLS 1.3 tickets come behind the handshake
			if conn.ConnectionState().DidResume {
				t.Errorf("version %x: the session was resumed", version)
			}
			conn.Close()
		}
		if kept.put > 0 {
			t.Errorf("version %x: %d tickets", version, kept.put)
		}
	}
}

type sessions struct {
	tls.ClientSessionCache
	put int
}

func (s *sessions) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		s.put++
	}
	s.ClientSessionCache.Put(key, state)
}

// TestOddServerNames (DRILLS E5.5, CVE-2019-15846): whatever name a client asks for, or none, it is served, and nothing of the
// name is in the log or in what the pipeline is told.
func TestOddServerNames(t *testing.T) {
	s := serve(t, func(o *Options) { o.TLS = testTLS() })
	for i, name := range []string{
		"", "mx.example.test", "other.example.test", "MX.EXAMPLE.TEST", "localhost", "192.0.2.1", `mx.example.test\`, `x\` + "\x00", "../../etc/passwd",
		"${run{/bin/touch x}}", "a b\r\nRSET\r\n", "\xff\xfe\x1b[31m", strings.Repeat("a.", 126) + "b", strings.Repeat("x", 10_000),
	} {
		conn, in := greet(t, s, false)
		fmt.Fprint(conn, "STARTTLS\r\n")
		hears(t, in, "220 ")
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		fmt.Fprintf(client, "EHLO client.example.org\r\nMAIL FROM:<%d@example.org>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n", i)
		secure := bufio.NewReader(client)
		for _, code := range []string{"250 ", "250 ", "250 ", "354 "} {
			hears(t, secure, code)
		}
		fmt.Fprint(client, "Subject: x\r\n\r\n.\r\n")
		hears(t, secure, "250 ")
		conn.Close()
		list := s.pipeline.messages()
		if m := list[len(list)-1]; len(list) != i+1 || i > 4 && strings.Contains(fmt.Sprintf("%+v", m), name) {
			t.Errorf("%.40q: the pipeline is told %+v", name, m)
		}
	}
	for line := range strings.Lines(s.log.String()) {
		if strings.ContainsAny(line, "\x1b\x00\xff") || len(line) > 1000 || strings.Contains(line, "passwd") || strings.Contains(line, "touch") {
			t.Errorf("the log has what a client asked for: %.300q", line)
		}
	}
}
