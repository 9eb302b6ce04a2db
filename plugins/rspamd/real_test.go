package rspamd

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// realConfig is a rspamd that learns, without redis and the network. %[1]s is
// its directory, %[2]s a port.
const realConfig = `
options {
  disable_hyperscan = true;
  filters = "";
  url_tld = "%[1]s/tld";
  pidfile = "%[1]s/rspamd.pid";
  cache_file = "%[1]s/symbols.cache";
  hs_cache_dir = "%[1]s/";
  history_file = "%[1]s/history";
  dynamic_conf = "%[1]s/dynamic";
  control_socket = "%[1]s/control.sock mode=0600";
  tempdir = "%[1]s";
  dns { nameserver = ["127.0.0.1:1:1"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "file"; filename = "%[1]s/rspamd.log"; level = "notice"; }
worker "normal" { bind_socket = "%[1]s/normal.sock mode=0600"; count = 1; }
worker "controller" {
  bind_socket = "127.0.0.1:%[2]s";
  count = 1;
  password = "look at it";
  enable_password = "change it";
}
.include "$CONFDIR/metrics.conf"
.include "$CONFDIR/actions.conf"
lua = "%[1]s/rules.lua";
classifier "bayes" {
  tokenizer { name = "osb"; }
  backend = "sqlite3";
  cache { path = "%[1]s/learned.sqlite"; file = "%[1]s/learned.sqlite"; }
  min_tokens = 11;
  min_learns = 1;
  statfile { symbol = "BAYES_HAM"; spam = false; path = "%[1]s/ham.sqlite"; }
  statfile { symbol = "BAYES_SPAM"; spam = true; path = "%[1]s/spam.sqlite"; }
}
`

// startReal starts a real rspamd until the test ends.
func startReal(t *testing.T) (dir, controller string) {
	t.Helper()
	program, err := exec.LookPath("rspamd")
	if err != nil {
		const advice = "rspamd is missing: apt-get install -y --no-install-recommends rspamd"
		if os.Getenv("INTEROP") == "require" {
			t.Fatal(advice)
		}
		t.Skip(advice)
	}
	if dir, err = os.MkdirTemp("", "rspamd"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	controller = "http://127.0.0.1:" + port
	for name, text := range map[string]string{"rspamd.conf": fmt.Sprintf(realConfig, dir, port), "tld": "com\norg\ntest\n", "rules.lua": realRules} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "--no-fork", "--insecure", "--config", filepath.Join(dir, "rspamd.conf"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it ends its workers
		time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
	})
	for range 500 {
		resp, err := http.Get(controller + "/ping")
		if err == nil {
			resp.Body.Close()
			if _, err := os.Stat(filepath.Join(dir, "normal.sock")); err == nil {
				return dir, controller
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("rspamd does not answer\n%s", out.String())
	return "", ""
}

// TestReal: a real rspamd learns, and says so.
func TestReal(t *testing.T) {
	dir, controller := startReal(t)
	p := sdktest.Start(t, New(), map[string]any{
		"url": "unix:" + dir + "/normal.sock", "controller": controller, "controller_password": "change it",
	})
	mail := func(id, words string) string {
		return fmt.Sprintf("From: a@example.org\nTo: b@example.test\nSubject: hello\nMessage-ID: <%s@example.org>\nDate: Sat, 21 Nov 2026 20:00:00 +0000\n\n%s\n", id, words)
	}
	spam := "win a wonderful prize today by sending your account number quickly because thousands of lucky winners already received enormous amounts"
	ham := "the minutes of yesterday's meeting about the garden are attached please read them before Tuesday and tell Peter what you think"
	for _, c := range []struct {
		kind      sdk.EventKind
		id, words string
		says      string
	}{
		{sdk.EventLearnSpam, "s1", spam, "learned as spam"},
		{sdk.EventLearnHam, "h1", ham, "learned as ham"},
		{sdk.EventLearnSpam, "s1", spam, "not learned as spam: 404: <s1@example.org> has been already learned"},
		{sdk.EventLearnSpam, "short", "few", "not learned as spam: "},
	} {
		v, err := p.Ask(sdktest.Learn(c.kind, mail(c.id, c.words)))
		if err != nil || len(v.Reasons) != 1 || !strings.HasPrefix(v.Reasons[0].Text, c.says) {
			t.Errorf("%s of %s: %+v %v, want %q", c.kind, c.id, v.Reasons, err, c.says)
		}
	}
	// How many messages of each class rspamd says that it knows.
	req, _ := http.NewRequest("GET", controller+"/stat", nil)
	req.Header.Set("Password", "look at it")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var stat struct {
		Statfiles []struct {
			Symbol   string
			Revision int
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&stat); err != nil {
		t.Fatal(err)
	}
	known := map[string]int{}
	for _, f := range stat.Statfiles {
		known[f.Symbol] = f.Revision
	}
	if known["BAYES_SPAM"] != 1 || known["BAYES_HAM"] != 1 {
		t.Errorf("rspamd has learned %v, want one of each", known)
	}
	if v, err := p.Ask(sdktest.Command("ping")); err != nil || len(v.Reasons) != 2 || !strings.Contains(v.Reasons[0].Text+v.Reasons[1].Text, "answers in") {
		t.Errorf("ping: %+v %v", v, err)
	}
	wrong := sdktest.Start(t, New(), map[string]any{"controller": controller, "controller_password": "look at it"})
	if _, err := wrong.Ask(sdktest.Learn(sdk.EventLearnSpam, mail("s3", spam))); err == nil || !strings.Contains(err.Error(), "rspamd answered 40") {
		t.Errorf("learned with the password to look: %v", err)
	}
	measure(t, dir, mail("m", strings.Repeat("A line of ordinary text about the garden.\n", 90)))
}

// measure says what the plugin adds to what rspamd takes.
func measure(t *testing.T, dir, mail string) {
	const n = 100
	place := "unix:" + dir + "/normal.sock"
	p := sdktest.Start(t, New(), map[string]any{"url": place})
	at, err := parseEndpoint("url", place, "")
	if err != nil {
		t.Fatal(err)
	}
	raw := &http.Client{Transport: newClient(at, "", 1).transport}
	direct := func() error {
		resp, err := raw.Post("http://rspamd/checkv2", "message/rfc822", strings.NewReader(mail))
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	through := func() error { _, err := p.Ask(sdktest.Mail(mail)); return err }
	var took [2][]time.Duration
	for range n { // in turn, so that what else the machine does hits both
		for i, ask := range []func() error{direct, through} {
			begin := time.Now()
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begin))
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	t.Logf("a question of %d octets at the median: rspamd alone %v, through the plugin and its protocol %v", len(mail), took[0][n/2], took[1][n/2])
}
