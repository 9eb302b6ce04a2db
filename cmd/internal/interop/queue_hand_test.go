package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// handConfig has a destination that is down (%d), one that knows nobody (%q), and what is queued is tried at once.
const handConfig = `
[relay."dead.test"]
hosts = ["127.0.0.1:%d"]
tls = "none"
[relay."gone.test"]
hosts = [%q]
tls = "none"
[pipeline.outbound.deliver]
tls = "none"
`

// startUnknown is a server that knows no user.
func startUnknown(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprint(conn, "220 gone.test ESMTP\r\n")
		for in := bufio.NewScanner(conn); in.Scan(); {
			switch verb, _, _ := strings.Cut(strings.ToUpper(in.Text()), " "); verb {
			case "RCPT":
				fmt.Fprint(conn, "550 5.1.1 No such user here\r\n")
			case "DATA":
				fmt.Fprint(conn, "554 5.5.1 no valid recipients\r\n")
			default:
				fmt.Fprint(conn, "250 2.0.0 OK\r\n")
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// ownLetter is a message of alice's.
func ownLetter(id, subject string) string {
	return fmt.Sprintf("From: <%s>\r\nSubject: %s\r\nMessage-ID: <%s>\r\n\r\nhello\r\n", alice, subject, id)
}

// summaryOf is the last line of what a verb has printed as JSON.
func summaryOf(t *testing.T, out string) (s struct {
	Action                             string
	DryRun                             bool `json:"dry_run"`
	Messages, Recipients, Busy, Failed int
}) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

// TestQueueByHand does by hand what an administrator does with a destination that is down, while the server runs.
func TestQueueByHand(t *testing.T) {
	sink := startSink(t)
	s := newSite(t, fmt.Sprintf(handConfig, freePorts(t, 1)[0], startUnknown(t)))
	s.start()
	c := s.relayClient("submission")
	const n = 20
	for i := range n {
		if _, err := c.send(alice, []string{fmt.Sprintf("u%d@dead.test", i)}, ownLetter(fmt.Sprintf("hand%d@example.test", i), "by hand")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "a suspended next hop", func() bool {
		out := s.sluice("", "queue", "sites", "--json")
		return strings.Contains(out, `"state":"suspended"`) && strings.Contains(out, `"key":"127.0.0.1:`)
	})
	if out := s.sluice("", "queue", "list", "--summary"); !strings.Contains(out, "20 messages to 20 recipients") || !strings.Contains(out, "127.0.0.1:") {
		t.Error(out)
	}
	if out := s.sluice("", "trace", "u5@dead.test"); !strings.Contains(out, "<u5@dead.test> to remote u5@dead.test, ") ||
		!strings.Contains(out, "waits for its next hop: its next hop can't be reached (127.0.0.1:") || !strings.Contains(out, ", until ") || !strings.Contains(out, "last reply: ") {
		t.Error(out)
	}
	if out := s.sluice("", "queue", "list", "--to", "U1?@dead.test", "--json"); strings.Count(out, "\n") != 10 {
		t.Error(out)
	}
	if got := summaryOf(t, s.sluice("", "queue", "hold", "--to", "u1?@*", "--dry-run", "--json")); got.Messages != 10 || !got.DryRun {
		t.Errorf("%+v", got)
	}
	if got := summaryOf(t, s.sluice("", "queue", "hold", "--to", "u1?@*", "--json")); got.Messages != 10 || got.Action != "held" {
		t.Errorf("%+v", got)
	}
	if out, err := s.trySluice("", "queue", "remove"); err == nil || !strings.Contains(out, "--all") {
		t.Errorf("%v: %s", err, out)
	}
	if out := s.sluice("", "queue", "bounce", "--state", "held", "--text", "they have closed"); !strings.Contains(out, "10 messages (10 recipients) were bounced") {
		t.Error(out)
	}
	eventually(t, 10*time.Second, "ten reports to the sender", func() bool {
		return strings.Count(s.logText(), "msg=delivered") == 10 && strings.Count(s.sluice("", "queue", "list", "--json"), "\n") == 10
	})
	mail, err := s.pop3Login(alice)
	if err != nil {
		t.Fatal(err)
	}
	report, err := mail.multi("RETR 1")
	if err != nil || !strings.Contains(report, "they have closed") || !strings.Contains(report, "Action: failed") || !strings.Contains(report, "Status: 5.0.0") {
		t.Errorf("%v\n%s", err, report)
	}
	mail.conn.Close()
	if out, err := s.trySluice("", "queue", "reroute", "--all", "--via", "ftp://x"); err == nil || !strings.Contains(out, "smtp://host:port") {
		t.Errorf("%v: %s", err, out)
	}
	out := s.sluice("", "queue", "reroute", "--domain", "dead.test", "--via", "smtp://"+sink.addr)
	if !strings.Contains(out, "10 messages (10 recipients) were rerouted") {
		t.Error(out)
	}
	if got := sink.waitSunk(t, "by hand", 10); len(got) != 10 || got[0] != "u0@dead.test" {
		t.Errorf("arrived for %v", got)
	}
}

// TestSuppressionList: who is said twice not to exist gets nothing more, the sender's program is told at once, and an
// administrator can lift it, with and without a server.
func TestSuppressionList(t *testing.T) {
	s := newSite(t, fmt.Sprintf(handConfig, freePorts(t, 1)[0], startUnknown(t)))
	s.start()
	c := s.relayClient("submission")
	for i := range 2 {
		if _, err := c.send(alice, []string{"nobody@gone.test"}, ownLetter(fmt.Sprintf("lost%d@example.test", i), "lost")); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the end", func() bool { return strings.TrimSpace(s.sluice("", "queue", "list", "--json")) == "" })
	}
	if out := s.sluice("", "suppress", "list"); !strings.Contains(out, "nobody@gone.test  suppressed by answers") || !strings.Contains(out, "No such user here") {
		t.Error(out)
	}
	_, err := c.send(alice, []string{"Nobody@gone.test"}, ownLetter("lost3@example.test", "lost"))
	if replyCode(err) != 550 || !strings.Contains(err.Error(), "suppression list") {
		t.Errorf("the third message: %v", err)
	}
	c.close()
	s.stop()
	if out := s.sluice("", "suppress", "remove", "nobody@gone.test"); !strings.Contains(out, "removed") {
		t.Error(out)
	}
	s.sluice("", "suppress", "add", "other@gone.test", "--reason", "has left", "--for", "90d")
	if out, err := s.trySluice("", "suppress", "add", "postmaster@gone.test"); err == nil {
		t.Error(out)
	}
	if out, err := s.trySluice("", "queue", "sites"); err == nil || !strings.Contains(out, "sluice serve") {
		t.Errorf("%v: %s", err, out)
	}
	s.start()
	c = s.relayClient("submission")
	if _, err := c.send(alice, []string{"nobody@gone.test"}, ownLetter("lost4@example.test", "lost")); err != nil {
		t.Error(err)
	}
	if _, err := c.send(alice, []string{"other@gone.test"}, ownLetter("lost5@example.test", "lost")); replyCode(err) != 550 || !strings.Contains(err.Error(), "has left") {
		t.Error(err)
	}
}
