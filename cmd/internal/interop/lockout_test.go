package interop

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// behindProxy has a listener of each protocol that people log in by, which believes the client addresses that a proxy tells.
const behindProxy = `
[login]
trusted = ["198.51.100.5"]
[listener.admin]
protocol = "admin"
address = "127.0.0.1:0"
[listener.psubmission]
protocol = "submission"
address = "127.0.0.1:0"
tls = "none"
allow_plaintext_login = true
proxy_from = ["127.0.0.1"]
[listener.pimap]
protocol = "imap"
address = "127.0.0.1:0"
tls = "none"
allow_plaintext_login = true
proxy_from = ["127.0.0.1"]
[listener.ppop]
protocol = "pop3"
address = "127.0.0.1:0"
tls = "none"
allow_plaintext_login = true
proxy_from = ["127.0.0.1"]
`

// loginWays are the commands of a login by each protocol, up to the one whose answer decides, and what the answers mean.
// The words are those that clients see, whole: whoever exists must not be told from whoever does not.
var loginWays = map[string]struct {
	listener string
	before   func(user string) []string
	last     func(user, secret string) string
	said     map[string]string
}{
	"smtp": {
		listener: "psubmission",
		before:   func(string) []string { return []string{"EHLO client.example.org"} },
		last: func(user, secret string) string {
			return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+secret))
		},
		said: map[string]string{
			"235 2.0.0 Authentication succeeded": "in", "535 5.7.8 Authentication failed": "wrong",
			"454 4.7.0 Authentication is not possible now, please try again later": "later",
		},
	},
	"imap": {
		listener: "pimap",
		before:   func(string) []string { return nil },
		last:     func(user, secret string) string { return fmt.Sprintf("t1 LOGIN %q %q", user, secret) },
		said: map[string]string{
			"t1 OK": "in", "t1 NO [AUTHENTICATIONFAILED] Authentication failed": "wrong",
			"t1 NO [UNAVAILABLE] Login is not possible now, try again later": "later",
		},
	},
	"pop3": {
		listener: "ppop",
		before:   func(user string) []string { return []string{"USER " + user} },
		last:     func(_, secret string) string { return "PASS " + secret },
		said: map[string]string{
			"+OK maildrop is locked and ready": "in", "-ERR [AUTH] wrong user or password": "wrong",
			"-ERR [SYS/TEMP] too many failed logins, please wait": "later",
		},
	},
}

var (
	protocols = []string{"smtp", "imap", "pop3"}
	// lastLine is an answer's last or only line.
	lastLine = regexp.MustCompile(`^([0-9]{3} |t1 |\+OK|-ERR)`)
)

// loginFrom logs in as a client of that address and returns in, wrong or later; anything else is what was seen.
func (s *site) loginFrom(client, protocol, user, secret string) string {
	way := loginWays[protocol]
	conn, err := net.DialTimeout("tcp", s.addr(way.listener), 5*time.Second)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	family, us := "TCP4", "192.0.2.250"
	if strings.Contains(client, ":") {
		family, us = "TCP6", "2001:db8:ffff::1"
	}
	r := bufio.NewReader(conn)
	fmt.Fprintf(conn, "PROXY %s %s %s 40000 25\r\n", family, client, us)
	answer := func() (string, error) {
		for {
			line, err := r.ReadString('\n')
			if err != nil || lastLine.MatchString(line) {
				return strings.TrimRight(line, "\r\n"), err
			}
			if strings.HasPrefix(line, "* OK") && protocol == "imap" {
				return line, nil // the greeting
			}
		}
	}
	if _, err := answer(); err != nil {
		return "greeting: " + err.Error()
	}
	for _, command := range way.before(user) {
		fmt.Fprintf(conn, "%s\r\n", command)
		if _, err := answer(); err != nil {
			return command + ": " + err.Error()
		}
	}
	fmt.Fprintf(conn, "%s\r\n", way.last(user, secret))
	line, err := answer()
	if err != nil {
		return "login: " + err.Error()
	}
	if strings.HasPrefix(line, "t1 OK") {
		line = "t1 OK"
	}
	outcome, ok := way.said[line]
	if !ok {
		return line
	}
	if outcome == "in" { // the maildrop is free again when the connection has ended
		fmt.Fprintf(conn, "%sQUIT\r\n", map[string]string{"imap": "t2 NOOP\r\n"}[protocol])
		if protocol == "pop3" {
			for err == nil {
				_, err = r.ReadString('\n')
			}
		}
	}
	return outcome
}

// lockout is the script of TestLockout.
type lockout struct {
	*site
	t    *testing.T
	held int // logins that were held back so far
}

func (l *lockout) want(outcome, client, protocol, user, secret string) {
	l.t.Helper()
	if got := l.loginFrom(client, protocol, user, secret); got != outcome {
		l.t.Errorf("%s by %s from %s with %q: %q, want %q", user, protocol, client, secret, got, outcome)
	}
}

func (l *lockout) wantAll(outcome, client, user, secret string) {
	l.t.Helper()
	for _, protocol := range protocols {
		l.want(outcome, client, protocol, user, secret)
	}
}

// slow begins five logins that are held back, and returns when the next one is too many. wait ends with them.
func (l *lockout) slow(client, user string) (wait func()) {
	l.t.Helper()
	begun := time.Now()
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			l.want("wrong", client, "imap", strings.Replace(user, "%d", fmt.Sprint("s", i), 1), fmt.Sprint("slow", i))
		})
	}
	l.held += 5
	eventually(l.t, 10*time.Second, fmt.Sprint(l.held, " logins that are held back"), func() bool {
		return slices.Contains(l.metrics(), fmt.Sprint("sluice_logins_delayed_total ", l.held))
	})
	l.want("later", client, "imap", strings.Replace(user, "%d", "t", 1), "one too many")
	return func() {
		wg.Wait()
		if took := time.Since(begun); took < 15*time.Second {
			l.t.Errorf("five logins from %s over the limit took %v together, want 16s for the last", client, took)
		}
	}
}

// TestLockout (DRILLS E4.6): who is refused for wrong passwords and who is not, by SMTP, IMAP and POP3, whose logins are
// counted together.
func TestLockout(t *testing.T) {
	t.Parallel()
	l := &lockout{site: newSite(t, behindProxy), t: t}
	const carol, nobody = "carol@example.test", "nobody@example.test"
	l.addUser(carol)
	l.start()

	// A phone with an old password asks all day, and nobody else in the office has any harm.
	const office = "203.0.113.10"
	for range 10 {
		l.wantAll("wrong", office, alice, "old")
	}
	l.wantAll("in", office, alice, password)
	l.want("in", office, "imap", bob, password)

	// Nineteen names, and the phone is the twentieth; then five more: the office is refused, but those who have been there are not.
	for i := range 19 {
		l.want("wrong", office, protocols[i%3], fmt.Sprintf("n%d@example.test", i), "x")
	}
	waitOffice := l.slow(office, "n%d@example.test")
	l.wantAll("later", office, carol, password)
	l.wantAll("later", office, nobody, "x")
	l.wantAll("later", office, alice, "guess") // is told no more than any other
	l.wantAll("in", office, alice, password)
	l.wantAll("in", office, bob, password)
	l.wantAll("wrong", office, alice, "old")
	l.wantAll("in", "203.0.113.11", carol, password)

	// One account is guessed at, in its owner's house and elsewhere: the owner is let in, the others there too.
	const house = "203.0.113.20"
	l.want("in", house, "pop3", bob, password)
	var waits []func()
	for _, client := range []string{house, "2001:db8:1::20"} {
		for i := range 5 {
			l.want("wrong", client, protocols[i%3], bob, fmt.Sprint("guess", i))
		}
		waits = append(waits, l.slow(client, bob))
	}
	l.wantAll("later", house, bob, "another")
	l.wantAll("in", house, bob, password)
	l.wantAll("in", house, carol, password)
	l.wantAll("later", "2001:db8:1::77", bob, password) // a /64 is one client
	l.wantAll("in", "2001:db8:1:1::20", bob, password)
	l.wantAll("in", "203.0.113.21", bob, password)

	// A webmail that says that its clients share its address.
	for i := range 30 {
		l.want("wrong", "198.51.100.5", protocols[i%3], fmt.Sprintf("w%d@example.test", i), "x")
	}
	l.wantAll("in", "198.51.100.5", carol, password)

	waitOffice()
	for _, wait := range waits {
		wait()
	}
	l.numbers()
}

// numbers looks at what the administrator sees.
func (l *lockout) numbers() {
	log, lines := l.logText(), l.metrics()
	for _, want := range []string{
		`client=203.0.113.10 account=[^ ]+ of="every account from this address, but those that logged in from it before"`,
		`client=203.0.113.20 account=bob@example.test of="this account from this address"`,
		`client=2001:db8:1:: account=bob@example.test of="this account from this address"`,
	} {
		line := regexp.MustCompile(`level=WARN msg="logins refused" action=refuse ` + want + ` why="too many different wrong passwords"`)
		if n := len(line.FindAllString(log, -1)); n != 1 {
			l.t.Errorf("the log has %d lines %s, want 1", n, want)
		}
	}
	for _, want := range []string{`sluice_logins_total{outcome="repeated"} 32`, `sluice_logins_delayed_total 15`,
		`sluice_login_refusals_total{of="account"} 2`, `sluice_login_refusals_total{of="address"} 1`} {
		if !slices.Contains(lines, want) {
			l.t.Errorf("the metrics do not have %s", want)
		}
	}
	if l.t.Failed() {
		l.t.Log(slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "sluice_login") }))
	}
}

// metrics returns the lines that the server shows to Prometheus.
func (l *lockout) metrics() []string {
	client := http.Client{Timeout: 10 * time.Second}
	r, err := client.Get("http://" + l.addr("admin") + "/metrics")
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}
