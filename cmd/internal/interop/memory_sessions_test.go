package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The bar is 400 MB with 5,000 sessions of each kind (TestMemory). With fewer there
// is less, but garbage up to the soft limits of server and plugins is always allowed.
const (
	withoutSessions = 300 << 20
	perPair         = (memoryLimit - withoutSessions) / 5000 // an SMTP and an IMAP session
	perPairTLS      = perPair + 12<<10                       // crypto/tls, for both; 450 MB with 5,000
	sessionUsers    = 20                                     // who share the IMAP sessions
)

// TestMemorySessions is the mix of TestMemory for every run: 1,000 sessions of each
// kind, or SESSIONS, on a program that has no race detector even where the tests
// have it. TLS, of which the bar does not speak, is measured and held as well.
func TestMemorySessions(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections")
	}
	n := 1000
	if text := os.Getenv("SESSIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			t.Fatalf("SESSIONS=%q: a number is expected", text)
		}
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < uint64(2*n+1000) {
		t.Skipf("needs %d open files, the limit is %d", 2*n+1000, files.Max)
	}
	for _, kind := range []security{clear, startTLS, implicitTLS} {
		t.Run(kind.String(), func(t *testing.T) {
			limit := withoutSessions + int64(n)*perPair
			if kind != clear {
				limit = withoutSessions + int64(n)*perPairTLS
			}
			if most := memoryOfSessions(t, kind, n); most > limit {
				t.Errorf("%d MB were resident, the limit for %d sessions of each kind is %d MB", most>>20, n, limit>>20)
			}
		})
	}
}

// memoryOfSessions returns the most that was resident.
func memoryOfSessions(t *testing.T, kind security, n int) int64 {
	s := newSite(t, `
[listener.plain]
protocol = "imap"
address = "127.0.0.1:0"
tls = "none"
allow_plaintext_login = true

[pipeline.inbound.anti-spam]
plugins = ["gtube"]

[pipeline.inbound.anti-virus]
plugins = ["eicar"]
`)
	s.program = plainProgram(t)
	s.start()
	for i := range sessionUsers {
		s.addUser(fmt.Sprintf("user%d@%s", i, domain))
		// The first login of an account computes a hash, and few do so at a time.
		openSessions(t, 1, s.addr("plain"), func(c net.Conn, r *bufio.Reader, _ int) error {
			defer c.Close()
			return converse(c, r, []exchange{{"", "* OK"}, {loginOf(i), "a OK"}})
		})
	}
	samples := startSampling(s)
	atRest := samples.take()
	smtp, imap := "mx", "plain"
	switch kind {
	case startTLS:
		imap = "imap"
	case implicitTLS:
		smtp, imap = "submissions", "imaps"
	}
	conns := openSessions(t, n, s.addr(smtp), func(c net.Conn, _ *bufio.Reader, _ int) error {
		return kind.begin(c, "220 ", exchange{"STARTTLS", "220 "}, []exchange{{"EHLO mx.example.org", "250 "}})
	})
	withSMTP := samples.take()
	conns = append(conns, openSessions(t, n, s.addr(imap), func(c net.Conn, _ *bufio.Reader, i int) error {
		return kind.begin(c, "* OK", exchange{"s STARTTLS", "s OK"},
			[]exchange{{loginOf(i), "a OK"}, {"b SELECT INBOX", "b OK"}, {"c IDLE", "+ "}})
	})...)
	withIMAP := samples.take()
	sendAtOnce(t, s)
	withMail := samples.take()
	samples.stop()
	for _, p := range append(childrenOf(s.pid), process{pid: s.pid, command: "the server"}) {
		t.Logf("%v: %s", readMemory(p.pid), p.command)
	}
	t.Logf("%v at rest", atRest)
	t.Logf("%v with %d SMTP sessions", withSMTP, n)
	t.Logf("%v with %d in IDLE beside them", withIMAP, n)
	t.Logf("%v after the mail", withMail)
	t.Logf("%v at most", samples.most)
	for _, c := range conns {
		c.Close()
	}
	eventually(t, 20*time.Second, "the sessions' end", func() bool { return s.usage().files < 500 })
	s.stop()
	return samples.most.proportional
}

func loginOf(i int) string {
	return fmt.Sprintf("a LOGIN user%d@%s \"%s\"", i%sessionUsers, domain, password)
}

// sendAtOnce sends 64 messages of 64 KiB and one of 50 MB.
func sendAtOnce(t *testing.T, s *site) {
	small, large := letter("small@example.org", "memory", 64<<10), letter("large@example.org", "memory", 50_000_000)
	var senders sync.WaitGroup
	for i := range 65 {
		senders.Go(func() {
			c, err := dialSMTP(s.addr("mx"), 2*time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			text := small
			if i == 0 {
				text = large
			}
			if _, err := c.send(stranger, []string{fmt.Sprintf("user%d@%s", i%sessionUsers, domain)}, text); err != nil {
				t.Errorf("message of %d octets: %v", len(text), err)
			}
		})
	}
	senders.Wait()
	time.Sleep(time.Second) // they are delivered
}

// security is how a session is encrypted.
type security int

const (
	clear security = iota
	startTLS
	implicitTLS
)

func (k security) String() string { return [...]string{"clear", "STARTTLS", "implicit TLS"}[k] }

// begin brings a session to where it should be. What it needs for TLS is garbage
// afterwards: the client only keeps the socket open.
func (k security) begin(c net.Conn, greeting string, upgrade exchange, rest []exchange) error {
	r := bufio.NewReaderSize(c, 1024)
	if k == startTLS {
		if err := converse(c, r, []exchange{{"", greeting}, upgrade}); err != nil {
			return err
		}
	}
	if k != clear {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		r = bufio.NewReaderSize(c, 1024)
	}
	if k != startTLS {
		rest = append([]exchange{{"", greeting}}, rest...)
	}
	return converse(c, r, rest)
}

// sampling keeps the most that a server and its plugins held at any moment.
type sampling struct {
	site  *site
	mu    sync.Mutex
	most  memory
	done  chan struct{}
	group sync.WaitGroup
}

func startSampling(s *site) *sampling {
	p := &sampling{site: s, done: make(chan struct{})}
	p.group.Go(func() {
		for {
			p.take()
			select {
			case <-p.done:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	return p
}

func (p *sampling) stop() {
	close(p.done)
	p.group.Wait()
}

func (p *sampling) take() memory {
	var sum memory
	for _, pid := range append(childrenOf(p.site.pid), process{pid: p.site.pid}) {
		m := readMemory(pid.pid)
		sum.resident += m.resident
		sum.proportional += m.proportional
		sum.anonymous += m.anonymous
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most.resident = max(p.most.resident, sum.resident)
	p.most.proportional = max(p.most.proportional, sum.proportional)
	p.most.anonymous = max(p.most.anonymous, sum.anonymous)
	return sum
}

// String implements fmt.Stringer.
func (m memory) String() string {
	return fmt.Sprintf("RSS %3d MB, PSS %3d, anonymous %3d", m.resident>>20, m.proportional>>20, m.anonymous>>20)
}

// plainProgram builds the program without the race detector.
func plainProgram(t *testing.T) string {
	t.Helper()
	if !raceEnabled || os.Getenv("SLUICE_BIN") != "" {
		return sluicePath(t)
	}
	path := filepath.Join(binDir, "sluice-without-race")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if out, err := exec.Command("go", "build", "-o", path, "github.com/sluicemail/sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build the program without the race detector: %v\n%s", err, out)
	}
	return path
}
