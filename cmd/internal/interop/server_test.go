package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

const (
	domain   = "example.test" // ours
	alice    = "alice@example.test"
	bob      = "bob@example.test"
	password = "correct horse" // of every account
	stranger = "stranger@example.org"

	startLimit = 5 * time.Second // from exec to msg=ready; also after a crash
	stopLimit  = 20 * time.Second
)

// zone is what the world's DNS says.
const zone = `
example.org.                 IN MX 10 mx.example.org.
example.org.                 IN A 127.0.0.1
example.org.                 IN TXT "v=spf1 ip4:127.0.0.1 -all"
mx.example.org.              IN A 127.0.0.1
example.test.                IN MX 10 mx.example.test.
example.test.                IN TXT "v=spf1 -all"
mx.example.test.             IN A 127.0.0.1
1.0.0.127.in-addr.arpa.      IN PTR mx.example.org.
`

// site is a directory with a configuration, certificates and accounts, and the
// server that runs on it, if it does. It may be started again and again.
type site struct {
	t       testing.TB
	program string
	dir     string
	config  string   // path
	ca      string   // path of the certificate, which signed itself
	wrap    []string // a command line to put before the program's: strace and its flags
	env     []string

	mu    sync.Mutex
	addrs map[string]string // listener's name to address, of the running server
	log   bytes.Buffer      // standard error of all runs

	cmd    *exec.Cmd
	pid    int           // of the server itself, also below wrap
	exited chan struct{} // closed when cmd has ended
}

// baseConfig is the configuration of newSite; %s is the DNS server.
const baseConfig = `
hostname = "mx.example.test"
data_dir = "data"

[tls]
certificate = "cert.pem"
key = "key.pem"

[log]
level = "info"

[dns]
servers = ["%s"]

[domain."example.test"]
aliases = { postmaster = "alice@example.test", team = ["alice@example.test", "bob@example.test"] }

[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"

[listener.submission]
protocol = "submission"
address = "127.0.0.1:0"

[listener.submissions]
protocol = "submission"
address = "127.0.0.1:0"
tls = "implicit"

[listener.lmtp]
protocol = "lmtp"
address = "127.0.0.1:0"
tls = "none"

[listener.imap]
protocol = "imap"
address = "127.0.0.1:0"

[listener.imaps]
protocol = "imap"
address = "127.0.0.1:0"
tls = "implicit"

[listener.pop3]
protocol = "pop3"
address = "127.0.0.1:0"

[listener.pop3s]
protocol = "pop3"
address = "127.0.0.1:0"
tls = "implicit"
`

// newSite makes a site with two accounts, alice and bob. extra is more
// configuration.
func newSite(t testing.TB, extra string) *site {
	t.Helper()
	dns, stop, err := resolvertest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	dir, err := os.MkdirTemp("", "sluice-site-")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, program: sluicePath(t), dir: dir, config: filepath.Join(dir, "sluice.toml"), ca: filepath.Join(dir, "cert.pem")}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", s.logTail(60))
		}
		if os.Getenv("INTEROP_KEEP") != "" {
			t.Logf("the server's directory is %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	if err := writeCertificate(dir); err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", fmt.Sprintf(baseConfig, dns)+extra)
	s.addUser(alice)
	s.addUser(bob)
	return s
}

func (s *site) writeFile(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// sluice runs a subcommand and returns what it printed; a failure ends the test.
func (s *site) sluice(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.trySluice(stdin, args...)
	if err != nil {
		s.t.Fatalf("sluice %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *site) trySluice(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, append(args, "--config", s.config)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *site) addUser(address string) {
	s.t.Helper()
	s.sluice(password+"\n", "user", "add", address, "--password-stdin")
}

// start starts the server and waits for msg=ready. It returns how long that took.
func (s *site) start() time.Duration {
	s.t.Helper()
	took, err := s.tryStart()
	if err != nil {
		s.t.Fatal(err)
	}
	return took
}

func (s *site) tryStart() (time.Duration, error) {
	args := append(append([]string(nil), s.wrap...), s.program, "serve", "--config", s.config)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // kill reaches the plugins too
	stderr, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	s.cmd.Stderr = w
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the server: %w", err)
	}
	w.Close()
	ready := make(chan map[string]string, 1)
	go s.follow(stderr, ready)
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)

	limit := 2 * startLimit // startLimit itself is asserted by those who care
	if raceEnabled || len(s.wrap) > 0 {
		limit = 6 * startLimit
	}
	select {
	case addrs := <-ready:
		s.mu.Lock()
		s.addrs = addrs
		s.mu.Unlock()
		s.pid = s.cmd.Process.Pid
		if len(s.wrap) > 0 {
			s.pid = childOf(s.pid)
		}
		return time.Since(begin), nil
	case <-s.exited:
		return 0, fmt.Errorf("the server ended by itself: %v\n%s", s.cmd.ProcessState, s.logTail(30))
	case <-time.After(limit):
		return 0, fmt.Errorf("no msg=ready within %v\n%s", limit, s.logTail(30))
	}
}

// addressPattern finds a listener's name and address in the line msg=ready,
// however its attributes are grouped: imap=127.0.0.1:143, listener.imap=..., or
// JSON.
var addressPattern = regexp.MustCompile(`([a-z0-9]+)"?[=:]"?(127\.0\.0\.1:[0-9]+)`)

// follow keeps the server's log and watches for msg=ready. The reader outlives
// the process only as long as a plugin holds the other end.
func (s *site) follow(r io.ReadCloser, ready chan<- map[string]string) {
	defer r.Close()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		s.mu.Lock()
		if s.log.Len() < 32<<20 {
			s.log.WriteString(line)
		}
		s.mu.Unlock()
		if strings.Contains(line, "msg=ready") || strings.Contains(line, `"msg":"ready"`) {
			addrs := make(map[string]string)
			for _, m := range addressPattern.FindAllStringSubmatch(line, -1) {
				addrs[m[1]] = m[2]
			}
			select {
			case ready <- addrs:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *site) logText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *site) logTail(n int) string {
	lines := strings.Split(strings.TrimSpace(s.logText()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// addr returns a listener's host:port.
func (s *site) addr(listener string) string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.addrs[listener]
	if !ok {
		s.t.Fatalf("msg=ready names no listener %q, only %v", listener, maps.Clone(s.addrs))
	}
	return a
}

// port returns the port of a listener's address.
func (s *site) port(listener string) string {
	s.t.Helper()
	_, port, _ := strings.Cut(s.addr(listener), ":")
	return port
}

func (s *site) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// kill ends the server and what it started as kill -9 does.
func (s *site) kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.exited
}

// crash ends the server alone with SIGKILL, as an out-of-memory killer would.
func (s *site) crash() {
	syscall.Kill(s.pid, syscall.SIGKILL)
	<-s.exited
}

// stop ends the server with SIGTERM and demands status 0 in time.
func (s *site) stop() {
	s.t.Helper()
	syscall.Kill(s.pid, syscall.SIGTERM)
	select {
	case <-s.exited:
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			s.t.Errorf("the server ended with status %d after SIGTERM", code)
		}
	case <-time.After(stopLimit):
		s.kill()
		s.t.Errorf("the server did not end within %v after SIGTERM", stopLimit)
	}
}
