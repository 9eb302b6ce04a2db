package interop

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scanner is a daemon that a shipped plugin asks: a real one, in a directory of its own, that can
// be killed, frozen and started again.
type scanner struct {
	t      testing.TB
	dir    string
	args   []string
	answer func() error // nil once it answers
	cmd    *exec.Cmd
	ended  chan struct{}
}

// scannerDir makes a directory that daemons which change their user can work in.
func scannerDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "scanner-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// scannerPort returns a TCP port that nobody uses just now, for daemons that want a number.
func scannerPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// gtubeLine is the test for spam filters, put together here so that they leave this source alone.
func gtubeLine() string {
	return "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE" + "-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
}

func (d *scanner) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *scanner) start() {
	d.t.Helper()
	out, err := os.OpenFile(filepath.Join(d.dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = d.dir, out, out
	d.cmd.Env = append(os.Environ(), "HOME="+d.dir, "LC_ALL=C", "TMPDIR="+d.dir)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { cmd.Wait(); close(ended) }(d.cmd, d.ended)
	d.t.Cleanup(d.kill)
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := d.answer()
		if err == nil {
			return
		}
		select {
		case <-d.ended:
			err = fmt.Errorf("it ended: %v", d.cmd.ProcessState)
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		text, _ := os.ReadFile(filepath.Join(d.dir, "output"))
		d.t.Fatalf("%s does not answer: %v\n%s", d.args[0], err, text)
	}
}

// family returns the process and those that it started, itself first.
func (d *scanner) family() []int {
	pids := []int{d.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		for _, c := range childrenOf(pids[i]) {
			pids = append(pids, c.pid)
		}
	}
	return pids
}

// signal reaches every process of the daemon.
func (d *scanner) signal(sig syscall.Signal) {
	for _, pid := range d.family() {
		syscall.Kill(pid, sig)
	}
}

func (d *scanner) kill() {
	select {
	case <-d.ended:
	default:
		d.signal(syscall.SIGKILL)
		<-d.ended
	}
}

// twoPolicies is a site with two listeners: mail to "mx" passes when the scanner fails, mail to
// "strict" waits, and mail to "unasked" goes by the scanner.
func twoPolicies(t *testing.T, builtin, openConfig, strictConfig string) *site {
	return newSite(t, fmt.Sprintf(`
[listener.strict]
protocol = "smtp"
address = "127.0.0.1:0"
pipeline = "strict"

[listener.unasked]
protocol = "smtp"
address = "127.0.0.1:0"
pipeline = "unasked"

[plugin.open]
builtin = %[1]q
timeout = "3s"
on_failure = "accept"
[plugin.open.config]
%[2]s

[plugin.closed]
builtin = %[1]q
timeout = "3s"
on_failure = "defer"
[plugin.closed.config]
%[3]s

[pipeline.inbound.anti-spam]
plugins = ["open"]
[pipeline.strict.anti-spam]
plugins = ["closed"]
[pipeline.unasked.anti-spam]
plugins = []
`, builtin, openConfig, strictConfig))
}

// sendTo sends a message to a listener and returns its reply's text, or the *smtpReply.
func (s *site) sendTo(listener, message string) (string, error) {
	c, err := dialSMTP(s.addr(listener), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	return c.send(stranger, []string{alice}, message)
}

// outcomes sends a message to both listeners and says what became of it there. wait is the least
// time that a reply takes, limit the longest.
func (s *site) outcomes(name string, wait, limit time.Duration) (open, strict outcome) {
	s.t.Helper()
	one := func(listener string) outcome {
		id := fmt.Sprintf("%s.%s@example.org", name, listener)
		begin := time.Now()
		_, err := s.sendTo(listener, letter(id, name, 2000))
		if took := time.Since(begin); took > limit || took < wait {
			s.t.Errorf("%s: the reply of %s took %v, expected between %v and %v", name, listener, took, wait, limit)
		}
		switch {
		case replyCode(err) == 451:
			return deferred
		case err != nil:
			s.t.Fatalf("%s: %v", name, err)
		}
		s.waitMail(alice, "INBOX", id)
		text, err := s.message(alice, id)
		if err != nil {
			s.t.Fatal(err)
		}
		if header, _, _ := strings.Cut(text, "\r\n\r\n"); strings.Contains(header, "X-Sluice-Unscanned:") {
			return unscanned
		}
		return scanned
	}
	return one("mx"), one("strict")
}

// drill takes a scanner away in three ways. Mail passes unscanned and stamped, or waits, as the
// policy says; and it is scanned again when the scanner is back.
func (s *site) drill(d *scanner) {
	t := s.t
	t.Helper()
	n := 0
	demand := func(name string, wait, limit time.Duration) {
		t.Helper()
		if open, strict := s.outcomes(name, wait, limit); open != unscanned || strict != deferred {
			t.Errorf("%s: on_failure accept: %v, defer: %v; expected unscanned and deferred", name, open, strict)
		}
	}
	back := func(after string) {
		t.Helper()
		eventually(t, 40*time.Second, "scanned again after "+after, func() bool {
			n++
			open, strict := s.outcomes(fmt.Sprintf("back.%d", n), 0, 20*time.Second)
			return open == scanned && strict == scanned
		})
	}
	d.kill()
	demand("down", 0, 2900*time.Millisecond)
	d.start()
	back("down")

	d.signal(syscall.SIGSTOP)
	demand("frozen", 2900*time.Millisecond, 10*time.Second)
	d.signal(syscall.SIGCONT)
	back("frozen")

	// Killed while it has a question: with the daemon frozen the question is surely there.
	d.signal(syscall.SIGSTOP)
	killed := make(chan struct{})
	go func() {
		time.Sleep(600 * time.Millisecond)
		d.kill()
		close(killed)
	}()
	id := "killed.mx@example.org"
	begin := time.Now()
	_, err := s.sendTo("mx", letter(id, "killed", 2000))
	if took := time.Since(begin); err != nil || took < 500*time.Millisecond || took > 2900*time.Millisecond {
		t.Errorf("killed in the middle: %v after %v, expected 250 right after the kill", err, took)
	} else if got := s.whereIs(id); got != unscanned {
		t.Errorf("killed in the middle: %v", got)
	}
	<-killed
	d.start()
	back("killed")
	d.signal(syscall.SIGSTOP)
	killed = make(chan struct{})
	go func() {
		time.Sleep(600 * time.Millisecond)
		d.kill()
		close(killed)
	}()
	if _, err = s.sendTo("strict", letter("killed.strict@example.org", "killed", 2000)); replyCode(err) != 451 {
		t.Errorf("killed in the middle, strict: %v, expected 451", err)
	}
	<-killed
}

// pace sends messages to a listener and returns how long one took in the middle when it was
// alone, and how many a second went over eight connections.
func (s *site) pace(listener string, alone, together int) (time.Duration, float64) {
	s.t.Helper()
	send := func(c *smtpClient, n int) error {
		for i := range n {
			if _, err := c.send(stranger, []string{bob}, letter(fmt.Sprintf("pace.%d.%p@example.org", i, c), "the minutes of our meeting", 4096)); err != nil {
				return err
			}
		}
		return nil
	}
	open := func() *smtpClient {
		c, err := dialSMTP(s.addr(listener), time.Minute)
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	c := open()
	defer c.close()
	begin := time.Now()
	if err := send(c, alone); err != nil {
		s.t.Fatal(err)
	}
	one := time.Since(begin) / time.Duration(alone)
	const clients = 8
	errs := make(chan error, clients)
	begin = time.Now()
	for range clients {
		c := open()
		go func() {
			defer c.close()
			errs <- send(c, together/clients)
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			s.t.Fatal(err)
		}
	}
	return one, float64(together) / time.Since(begin).Seconds()
}

// rspamdConfig is rspamd with its own rules and symbols, and without what needs the network,
// redis or minutes to compile. %[1]s is its directory.
const rspamdConfig = `
options {
  disable_hyperscan = true;
  filters = "regexp";
  url_tld = "%[1]s/tld";
  pidfile = "%[1]s/rspamd.pid";
  cache_file = "%[1]s/symbols.cache";
  hs_cache_dir = "%[1]s/";
  history_file = "%[1]s/history";
  dynamic_conf = "%[1]s/dynamic";
  control_socket = "%[1]s/control.sock mode=0600";
  tempdir = "%[1]s";
  explicit_modules = ["settings"];
  dns { nameserver = ["127.0.0.1:1:1"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "file"; filename = "%[1]s/rspamd.log"; level = "notice"; }
worker "normal" {
  bind_socket = "%[1]s/normal.sock mode=0600";
  bind_socket = "127.0.0.1:%[2]s";
  count = 2;
}
lua = "${RULESDIR}/rspamd.lua";
.include "$CONFDIR/metrics.conf"
.include "$CONFDIR/actions.conf"
.include "$CONFDIR/groups.conf"
`

func newRspamd(t testing.TB) (d *scanner, url string) {
	t.Helper()
	rspamd := peer(t, "rspamd", "rspamd")
	d = &scanner{t: t, dir: scannerDir(t)}
	port := scannerPort(t)
	url = "http://127.0.0.1:" + port
	d.write("tld", "com\nnet\norg\ntest\n")
	d.write("rspamd.conf", fmt.Sprintf(rspamdConfig, d.dir, port))
	d.args = []string{rspamd, "--no-fork", "--insecure", "--config", filepath.Join(d.dir, "rspamd.conf")}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	d.answer = func() error {
		resp, err := client.Get(url + "/ping")
		if err != nil {
			return err
		}
		resp.Body.Close()
		return nil
	}
	d.start()
	return d, url
}

// TestRspamd: a real rspamd scores, refuses, and is taken away.
func TestRspamd(t *testing.T) {
	d, url := newRspamd(t)
	s := twoPolicies(t, "rspamd", fmt.Sprintf("url = %q", url), fmt.Sprintf("url = \"unix:%s/normal.sock\"", d.dir))
	s.start()
	defer s.stop()

	for _, listener := range []string{"mx", "strict"} {
		// Its score makes rspamd say "greylist" though it has no greylisting: a reason not to defer on that word.
		id := "clean." + listener + "@example.org"
		if _, err := s.sendTo(listener, letter(id, "the minutes", 2000, "X-Mailer: The Bat! (v1.52f) Business")); err != nil {
			t.Fatal(err)
		}
		s.waitMail(alice, "INBOX", id)
		trace := s.sluice("", "trace", id)
		for _, want := range []string{`RSPAMD (action "greylist", score 5.10 of 15.00)`, "OLD_X_MAILER=2 (X-Mailer has a very old MUA version)", " 5.1 "} {
			if !strings.Contains(trace, want) {
				t.Errorf("the trace of a clean message does not have %q:\n%s", want, trace)
			}
		}
		_, err := s.sendTo(listener, letter("gtube."+listener+"@example.org", "gtube", 500)+gtubeLine()+"\r\n")
		if replyCode(err) != 550 || !strings.Contains(err.Error(), "Gtube pattern") {
			t.Errorf("%s: GTUBE: %v, expected 550 with rspamd's words", listener, err)
		}
	}
	for _, listener := range []string{"unasked", "mx"} {
		s.pace(listener, 4, 16)
		one, rate := s.pace(listener, 50, 160)
		t.Logf("%s: %v a message alone, %.0f messages/s over 8 connections", listener, one.Round(10*time.Microsecond), rate)
	}
	s.drill(d)
}
