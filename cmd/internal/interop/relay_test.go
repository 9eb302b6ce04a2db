package interop

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// sinkServer takes every message that anybody sends it, and remembers who was to get which.
type sinkServer struct {
	addr string

	mu       sync.Mutex
	messages []sunk
}

// sunk is a message that has arrived at a sinkServer.
type sunk struct {
	from, content string
	to            []string
}

func startSink(t testing.TB) *sinkServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &sinkServer{addr: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *sinkServer) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	say("220 sink.test ESMTP")
	var m sunk
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, arg, _ := strings.Cut(line, ":")
		switch word, _, _ := strings.Cut(strings.ToUpper(verb), " "); word {
		case "EHLO":
			say("250-sink.test")
			say("250-8BITMIME")
			say("250-SMTPUTF8")
			say("250 PIPELINING")
		case "MAIL":
			m = sunk{from: pathOf(arg)}
			say("250 2.1.0 OK")
		case "RCPT":
			m.to = append(m.to, pathOf(arg))
			say("250 2.1.5 OK")
		case "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				b.WriteString(line)
			}
			m.content = b.String()
			s.mu.Lock()
			s.messages = append(s.messages, m)
			s.mu.Unlock()
			say("250 2.0.0 OK")
		case "QUIT":
			say("221 2.0.0 bye")
			return
		default:
			say("250 2.0.0 OK")
		}
	}
}

// pathOf takes an address out of its angle brackets and drops parameters.
func pathOf(arg string) string {
	arg = strings.TrimPrefix(strings.TrimSpace(arg), "<")
	return arg[:max(strings.LastIndexByte(arg, '>'), 0)]
}

// recipients returns whom messages with a text in them were for, sorted.
func (s *sinkServer) recipients(text string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, m := range s.messages {
		if strings.Contains(m.content, text) {
			list = append(list, m.to...)
		}
	}
	slices.Sort(list)
	return list
}

// waitSunk waits until messages with a text in them have arrived for so many recipients.
func (s *sinkServer) waitSunk(t testing.TB, text string, n int) []string {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if got := s.recipients(text); len(got) >= n || time.Now().After(end) {
			return got
		}
	}
}

// Origins by which a trick is tried, and what may come of it.
const (
	endRefused = "refused" // 5yz for everybody
	endOurs    = "ours"    // taken from everybody, and stays here
	endPassed  = "passed"  // taken from everybody, and passed on, as the configuration says
	endRelayed = "relayed" // taken from login and trusted, and leaves; refused for strangers and lmtp
)

// relayTricks are paths after RCPT TO: as they are on the wire.
var relayTricks = []struct{ path, end string }{
	{"<victim@leave.test>", endRelayed},
	{"<VICTIM@LEAVE.test>", endRelayed},
	{"<victim@leave.test.>", endRefused}, // no domain of RFC 5321 section 4.1.2
	{" <victim@leave.test>", endRelayed},
	{"<victim@sub.example.test>", endRelayed},
	{"<victim@example.test.leave.test>", endRelayed},
	{"<victim@notexample.test>", endRelayed},
	{"<victim@mx.example.test>", endRelayed},
	{"<victim@localhost>", endRelayed},
	{"<victim@leave>", endRelayed},
	{"<victim@xn--exmple-4nf.test>", endRelayed},
	{"<victim@ex\u0430mple.test>", endRelayed}, // Cyrillic
	{"<victim@sub.backup.test>", endRelayed},
	{`<"victim"@leave.test>`, endRelayed},
	{`<"vic tim"@leave.test>`, endRelayed},
	{`<"victim@leave.test"@leave.test>`, endRelayed},
	{`<victim%example.test@leave.test>`, endRelayed},
	{"<@example.test:victim@leave.test>", endRelayed},
	{"<@example.test,@mx.example.test:victim@leave.test>", endRelayed},
	{"<@leave.test:alice@example.test>", endOurs},
	{"<@leave.test,@example.test:alice@example.test>", endOurs},
	{"<alice@EXAMPLE.TEST>", endOurs},
	{"<alice+victim=leave.test@example.test>", endOurs},
	{`<"alice"@example.test>`, endOurs},
	{"<alice@example\u3002test>", endOurs},
	{"<alice@\uff45xample.test>", endOurs},
	{"<Postmaster>", endOurs},
	{"<team@example.test>", endOurs},
	{"<victim%leave.test@example.test>", endRefused},
	{"<victim%leave.test%other.test@example.test>", endRefused},
	{"<victim%leave.test>", endRefused},
	{"<leave.test!victim@example.test>", endRefused},
	{"<leave.test!victim>", endRefused},
	{"<victim@leave.test@example.test>", endRefused},
	{`<"victim@leave.test"@example.test>`, endRefused},
	{`<"victim@leave.test">`, endRefused},
	{`<"victim%leave.test"@example.test>`, endRefused},
	{`<"leave.test!victim"@example.test>`, endRefused},
	{"<victim=leave.test@example.test>", endRefused},
	{"<victim/leave.test@example.test>", endRefused},
	{"<smtp:victim@leave.test>", endRefused},
	{"<victim@leave.test,alice@example.test>", endRefused},
	{"<alice@example.test,victim@leave.test>", endRefused},
	{"<alice@example.test> <victim@leave.test>", endRefused},
	{"<alice@example.test><victim@leave.test>", endRefused},
	{"<<victim@leave.test>>", endRefused},
	{"victim@leave.test", endRefused},
	{"<victim@leave.test", endRefused},
	{"<victim>", endRefused},
	{"<>", endRefused},
	{"<@leave.test>", endRefused},
	{"<victim@>", endRefused},
	{"<victim@[127.0.0.1]>", endRefused},
	{"<alice@[127.0.0.1]>", endRefused},
	{"<victim@[IPv6:::1]>", endRefused},
	{"<victim@[leave.test]>", endRefused},
	{"<victim@127.0.0.1>", endRefused},
	{"<victim@2130706433>", endRefused},
	{"<victim@#2130706433>", endRefused},
	{"<victim@leave..test>", endRefused},
	{"<victim@leave.test:25>", endRefused},
	{"<victim@leave.test\x00>", endRefused},
	{"<vic\x00tim@leave.test>", endRefused},
	{"<victim@example.test\u200b>", endRefused},
	{"<SRS0=AAAAAAAA=RA=leave.test=victim@example.test>", endRefused},
	{"<SRS1=AAAAAAAA=leave.test==x=y=z=victim@example.test>", endRefused},
	{"<nobody@example.test>", endRefused},
	{"<someone@backup.test>", endPassed},
	{"<SOMEONE%leave.test@Backup.Test>", endPassed},
	{"<away@forward.test>", endPassed},
}

const relayConfig = `
[listener.inside]
protocol = "smtp"
address = "127.0.0.1:0"
trusted = ["127.0.0.1"]
[domain."backup.test"]
accept = "relay"
[domain."forward.test".aliases]
away = "Far.Away@leave.test"
[relay."*"]
hosts = [%q]
tls = "none"
[pipeline.inbound.receive]
max_refused = 1000
max_errors = 1000
refuse_delay = "0s"
[pipeline.outbound.receive]
max_refused = 1000
max_errors = 1000
refuse_delay = "0s"
[forward]
srs_domain = "example.test"
srs_secrets = ["a secret for the test"]
`

// relayClient is a connection of one origin.
func (s *site) relayClient(listener string) *smtpClient {
	s.t.Helper()
	var c *smtpClient
	var err error
	if listener == "lmtp" {
		var conn net.Conn
		if conn, err = net.Dial("tcp", s.addr(listener)); err == nil {
			conn.SetDeadline(time.Now().Add(time.Minute))
			c = &smtpClient{conn: conn, r: bufio.NewReader(conn)}
			if _, err = c.reply(220); err == nil {
				_, err = c.command(250, "LHLO mx.example.org")
			}
		}
	} else if c, err = dialSMTP(s.addr(listener), time.Minute); err == nil && listener == "submission" {
		if err = c.startTLS(); err == nil {
			_, err = c.command(235, "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+alice+"\x00"+password)))
		}
	}
	if err != nil {
		s.t.Fatal(listener, ": ", err)
	}
	s.t.Cleanup(c.close)
	return c
}

// TestNoOpenRelay tries every trick from every origin, one by one, takes each message that is accepted to its end, and looks
// at what has reached the server that everything leaves for (DRILLS E2.1).
func TestNoOpenRelay(t *testing.T) {
	if len(relayTricks) < 50 {
		t.Fatalf("%d tricks", len(relayTricks))
	}
	sink := startSink(t)
	s := newSite(t, fmt.Sprintf(relayConfig, sink.addr))
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", "postmaster = \"alice@example.test\"\n"+string(text))
	s.start()
	defer s.stop()
	for _, origin := range []struct {
		listener, sender string
		relays           bool
	}{{"mx", stranger, false}, {"mx", alice, false}, {"mx", "", false}, {"lmtp", stranger, false}, {"submission", alice, true}, {"inside", stranger, true}} {
		c := s.relayClient(origin.listener)
		mark := "mark-" + origin.listener + "-" + strings.ReplaceAll(origin.sender, "@", "-at-") + "-end"
		leave := 0
		for _, trick := range relayTricks {
			if _, err := c.command(250, "MAIL FROM:<%s> SMTPUTF8", origin.sender); err != nil {
				t.Fatal(origin, err)
			}
			_, err := c.command(250, "RCPT TO:%s", trick.path)
			taken := trick.end == endOurs || trick.end == endPassed || trick.end == endRelayed && origin.relays
			code := replyCode(err)
			switch {
			case taken && err != nil, !taken && code/100 != 5:
				t.Errorf("%s from <%s>: RCPT TO:%s: %v, want it %s", origin.listener, origin.sender, trick.path, err, trick.end)
			}
			var unexpected *smtpReply
			if err != nil && !errors.As(err, &unexpected) {
				t.Fatalf("%s: RCPT TO:%s: %v", origin.listener, trick.path, err)
			}
			if err != nil {
				_, err = c.command(250, "RSET")
			} else {
				if _, err = c.command(354, "DATA"); err == nil {
					_, err = c.command(250, "From: <%s>\r\nSubject: %s\r\nDate: Sat, 21 Nov 2026 20:00:00 +0000\r\n\r\nbody\r\n.", alice, mark)
				}
				if trick.end != endOurs {
					leave++
				}
			}
			if err != nil {
				t.Fatalf("%s: after RCPT TO:%s: %v", origin.listener, trick.path, err)
			}
		}
		got := sink.waitSunk(t, mark, leave)
		want := []string{"Far.Away@leave.test", `SOMEONE%leave.test@backup.test`, "someone@backup.test"}
		if origin.sender == alice { // a stranger under our name, which we do not lend him: the forward waits in quarantine
			want = want[1:]
		}
		if !origin.relays && !slices.Equal(got, want) {
			t.Errorf("%s from <%s>: the server outside got mail for %q, want %q", origin.listener, origin.sender, got, want)
		}
		if origin.relays && (len(got) != leave || !slices.Contains(got, "victim@leave.test") || !slices.Contains(got, `"vic tim"@leave.test`)) {
			t.Errorf("%s: the server outside got %d of %d: %q", origin.listener, len(got), leave, got)
		}
	}
	if out := s.sluice("", "route", "away@forward.test", "--from", stranger); !strings.Contains(out, "Far.Away@leave.test at another server, from <SRS0=") || !strings.Contains(out, "sluice.toml:") {
		t.Errorf("sluice route says:\n%s", out)
	}
	for _, m := range sink.messages {
		if slices.Contains(m.to, "Far.Away@leave.test") && strings.Contains(m.content, "mark-mx-stranger") && !strings.HasPrefix(m.from, "SRS0=") {
			t.Errorf("a forward has the sender %q", m.from)
		}
	}
}

// TestForwardLoop: two servers that forward to each other stop in one round, and say so.
func TestForwardLoop(t *testing.T) {
	ports := freePorts(t, 2)
	config := func(own, other int, domain, local, target string) string {
		return fmt.Sprintf(`
[listener.loop]
protocol = "smtp"
address = "127.0.0.1:%d"
[domain.%q.aliases]
%s = %q
[relay."*"]
hosts = ["127.0.0.1:%d"]
tls = "none"
`, own, domain, local, target, other)
	}
	here := newSite(t, config(ports[0], ports[1], "here.test", "a", "b@there.test"))
	there := newSite(t, config(ports[1], ports[0], "there.test", "b", "a@here.test"))
	text, err := os.ReadFile(there.config)
	if err != nil {
		t.Fatal(err)
	}
	there.writeFile("sluice.toml", strings.Replace(string(text), `hostname = "mx.example.test"`, `hostname = "mx.there.test"`, 1))
	here.start()
	defer here.stop()
	there.start()
	defer there.stop()
	c, err := dialSMTP(here.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{"a@here.test"}, letter("loop@example.org", "round", 200)); err != nil {
		t.Fatal(err)
	}
	const says = "forwarded from a@here.test before"
	for end := time.Now().Add(15 * time.Second); !strings.Contains(here.logText(), says); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it has not come round\n%s\n%s", here.logTail(20), there.logTail(20))
		}
	}
	time.Sleep(500 * time.Millisecond) // for a second round, if there were one
	for name, s := range map[string]*site{"here": here, "there": there} {
		if n := strings.Count(s.logText(), "action=accept"); n != 1 {
			t.Errorf("%s has taken it %d times\n%s", name, n, s.logTail(20))
		}
	}
	if out := here.sluice("", "trace", "loop@example.org"); !strings.Contains(out, "554 5.4.6") {
		t.Errorf("the trace does not say why:\n%s", out)
	}
}

// freePorts returns ports that nobody listens on.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
