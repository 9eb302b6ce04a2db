package spamassassin

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// realConfig is a SpamAssassin that knows bayes alone. %s is its directory.
const realConfig = `
use_bayes 1
bayes_path %[1]s/bayes
bayes_auto_learn 0
bayes_min_ham_num 3
bayes_min_spam_num 3
body BAYES_00 eval:check_bayes('0.00', '0.05')
body BAYES_99 eval:check_bayes('0.95', '1.00')
tflags BAYES_00 learn nice
tflags BAYES_99 learn
describe BAYES_00 like ham
describe BAYES_99 like spam
score BAYES_00 -1.9
score BAYES_99 5.5
`

// startReal starts a real spamd until the test ends and returns its address.
func startReal(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("spamd")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/spamd")
	}
	if err != nil {
		const advice = "spamd is missing: apt-get install -y --no-install-recommends spamd"
		if os.Getenv("INTEROP") == "require" {
			t.Fatal(advice)
		}
		t.Skip(advice)
	}
	dir, err := os.MkdirTemp("", "spamd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { // as root it becomes another user
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "rules"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"10_default_prefs.cf", "languages"} {
		if err := os.Symlink("/usr/share/spamassassin/"+name, filepath.Join(dir, "rules", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"local.cf": fmt.Sprintf(realConfig, dir), "init.pre": "loadplugin Mail::SpamAssassin::Plugin::Check\nloadplugin Mail::SpamAssassin::Plugin::Bayes\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "spamd.sock")
	args := []string{
		"--local", "--nouser-config", "--allow-tell", "--syslog=stderr", "--max-children=1",
		"--configpath=" + filepath.Join(dir, "rules"), "--siteconfigpath=" + dir, "--socketpath=" + socket,
	}
	if os.Getuid() == 0 {
		args = append(args, "--username=nobody")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it ends its children
		stop := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		stop.Stop()
	})
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return "unix:" + socket
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("spamd does not answer\n%s", out.String())
	return ""
}

// TestReal: a real spamd learns, and its opinion changes.
func TestReal(t *testing.T) {
	address := startReal(t)
	p := sdktest.Start(t, New(), map[string]any{"address": address, "learn": true})
	mail := func(id, words string) string {
		return fmt.Sprintf("From: a@example.org\nTo: b@example.test\nSubject: hello\nMessage-ID: <%s@example.org>\nDate: Sat, 21 Nov 2026 20:00:00 +0000\n\n%s\n", id, words)
	}
	spam := "win a wonderful prize today by sending your account number quickly because thousands of lucky winners already received enormous amounts"
	ham := "the minutes of yesterday's meeting about the garden are attached please read them before Tuesday and tell Peter what you think"
	learn := func(kind sdk.EventKind, id, words, want string) {
		t.Helper()
		v, err := p.Ask(sdktest.Learn(kind, mail(id, words)))
		if err != nil || len(v.Reasons) != 1 || !strings.HasPrefix(v.Reasons[0].Text, want) {
			t.Errorf("%s of %s: %+v %v, want %q", kind, id, v.Reasons, err, want)
		}
	}
	opinion := func(id, words string) sdk.Verdict {
		t.Helper()
		v, err := p.Ask(sdktest.Mail(mail(id, words)))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := opinion("s", spam); v.Action != sdk.Accept || v.Score != 0 || len(v.Reasons) != 1 {
		t.Errorf("before it learned anything: %+v", v)
	}
	for i := range 4 {
		learn(sdk.EventLearnSpam, fmt.Sprint("s", i), fmt.Sprintf("%s number %d", spam, i), "learned as spam")
		learn(sdk.EventLearnHam, fmt.Sprint("h", i), fmt.Sprintf("%s number %d", ham, i), "learned as ham")
	}
	learn(sdk.EventLearnHam, "h1", ham+" number 1", "not learned as ham: spamd knew it")
	if v := opinion("s", spam); v.Action != sdk.Junk || v.Score != 5.5 || len(v.Reasons) != 2 || v.Reasons[1].Symbol != "BAYES_99" {
		t.Errorf("mail like the spam that it learned: %+v", v)
	}
	if v := opinion("h", ham); v.Action != sdk.Accept || v.Score != -1.9 || len(v.Reasons) != 2 || v.Reasons[1].Symbol != "BAYES_00" {
		t.Errorf("mail like the ham that it learned: %+v", v)
	}
	if v, err := p.Ask(sdktest.Command("ping")); err != nil || !strings.Contains(v.Reasons[0].Text, "answers in") {
		t.Errorf("ping: %+v %v", v, err)
	}
}
