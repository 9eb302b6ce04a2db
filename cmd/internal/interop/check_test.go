package interop

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// moodyProgram is a plugin that misbehaves when it is configured.
var moodyProgram = sync.OnceValues(func() (string, error) {
	return build("moody", "github.com/sluicemail/sluice/cmd/internal/interop/testdata/moody")
})

func moodyPath(t *testing.T) string {
	t.Helper()
	path, err := moodyProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCheckPlugins: sluice check finds with file and line what is wrong with plugins before a server does, in the time that one of
// them has, and leaves nothing behind.
func TestCheckPlugins(t *testing.T) {
	moody := moodyPath(t)
	s := newSite(t, strings.ReplaceAll(`
[pipeline.inbound.anti-spam]
plugins = ["key", "type", "hang", "crash", "flood", "dead", "version", "gtube", "greylist"]
[pipeline.inbound.anti-virus]
plugins = ["absent", "sum", "ignorant"]
[pipeline.inbound.route]
plugins = ["flood"]

[plugin.key]
command = ["MOODY"]
[plugin.key.config]
sise = 3 # key
[plugin.type]
command = ["MOODY"]
[plugin.type.config]
size = "big" # type
[plugin.hang]
command = ["MOODY"] # hang
config = { mood = "hang" }
[plugin.crash]
command = ["MOODY"] # crash
config = { mood = "crash" }
[plugin.flood]
command = ["MOODY"]
config = { mood = "flood" }
[plugin.dead]
command = ["/bin/false"] # dead
[plugin.version]
command = ["./version.sh"] # version
[plugin.absent]
command = ["./absent"] # absent
[plugin.sum]
command = ["MOODY"]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000" # sum
[plugin.ignorant]
command = ["MOODY", "old"]
config = { sise = 3 }
[plugin.greylist]
builtin = "greylist"
[plugin.greylist.config]
exempt_clients = ["fine", "not/fine"] # greylist
[plugin.gtube]
builtin = "gtube"
[plugin.gtube.canary]
share = 0.1
builtin = "dnsbl"
[plugin.gtube.canary.config]
server = "x" # canary
`, "MOODY", moody))
	if err := os.WriteFile(filepath.Join(s.dir, "version.sh"), []byte("#!/bin/sh\necho '1|9|unix|/tmp/x|grpc|'\nsleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := s.files("data")
	begin := time.Now()
	out, err := s.trySluice("", "check")
	took := time.Since(begin)
	if t.Logf("the check took %s", took); took > 25*time.Second {
		t.Error("that is too long")
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, expected status 1", err)
	}
	for _, want := range [][2]string{
		{"# key", "plugin.key.config.sise: unknown key"},
		{"# type", "plugin.type.config.size: "},
		{"# hang", "plugin.hang: configure: no answer in time"},
		{"# crash", "plugin.crash: configure: the process ended, or closed its socket, instead of an answer; its last words: the licence has expired"},
		{"# dead", "plugin.dead: handshake: no line on standard output: exit status 1"},
		{"# version", "plugin.version: handshake: incompatible API version with plugin. Plugin version: 9"},
		{"# absent", "plugin.absent.command: "},
		{"# sum", "plugin.sum.sha256: "},
		{"# greylist", `plugin.greylist.config.exempt_clients: entry 2: "not/fine", expected`},
		{"# canary", "plugin.gtube.canary.config.server: unknown key"},
		{`plugins = ["flood"]`, "pipeline.inbound.route.plugins: flood would never be asked in route"},
	} {
		if line := s.lineOf(want[0]); !strings.Contains(out, fmt.Sprintf("%s:%d: %s", s.config, line, want[1])) &&
			!strings.Contains(out, fmt.Sprintf("%s:%d: %s", s.config, line-1, want[1])) { // the table's header
			t.Errorf("not said, or not of line %d: %s", line, want[1])
		}
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "plugin.ignorant") || strings.Contains(line, "plugin.flood") || strings.Contains(line, "yyy") {
			t.Errorf("%.300s", line)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	if after := s.files("data"); !slices.Equal(after, before) {
		t.Errorf("data was %v, and is %v", before, after)
	}
	if left := processes(func(p process) bool { return strings.Contains(p.command, moody) || strings.Contains(p.command, s.dir) }); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if out, _ := s.trySluice("", "check", "--no-plugins"); !strings.Contains(out, "plugins were not started (--no-plugins)") {
		t.Errorf("--no-plugins: %s", out)
	}
}

// TestCheckBesideServer: a check beside the server that runs the same plugins takes no lock, changes no state, and is not noticed;
// neither is a reload with a table that a plugin does not like.
func TestCheckBesideServer(t *testing.T) {
	s := newSite(t, strings.ReplaceAll(bayesConfig, `["bayes"]`, `["greylist", "bayes", "ignorant"]`)+`
[plugin.greylist]
builtin = "greylist"
[plugin.greylist.config]
delay = "1s" # greylist
[listener.proxied]
protocol = "smtp"
address = "127.0.0.1:0"
proxy_from = ["127.0.0.1"]
[plugin.ignorant]
command = ["`+moodyPath(t)+`", "old"]
`)
	s.start()
	c, _ := s.from("203.0.113.9")
	if _, err := c.send(stranger, []string{alice}, letter("first@example.org", "first", 1000)); err == nil {
		t.Fatal("greylist is not in use")
	}
	c.close()
	s.sluice("", "plugin", "tell", "bayes", "stats")
	time.Sleep(1200 * time.Millisecond) // greylist writes within a second
	var before []string
	eventually(t, 10*time.Second, "the state is on disk", func() bool {
		before = s.files("data/plugin")
		time.Sleep(500 * time.Millisecond)
		return slices.Equal(before, s.files("data/plugin"))
	})
	pids, log := childrenOf(s.pid), s.logText()

	begin := time.Now()
	out := s.sluice("", "check")
	t.Logf("the check took %s", time.Since(begin))
	for _, want := range []string{"no problems", "settings checked  asked by", "asks greylist about recipient", "ignorant was started, and looks at its settings only when"} {
		if !strings.Contains(out, want) {
			t.Errorf("not %q in\n%s", want, out)
		}
	}
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", strings.Replace(string(text), "# greylist", "\ndelya = 1 # greylist", 1))
	mistake := fmt.Sprintf("sluice.toml:%d: plugin.greylist.config.delya: unknown key", s.lineOf("delya"))
	if out, err := s.trySluice("", "check"); err == nil || !strings.Contains(out, mistake) {
		t.Errorf("%v: %s", err, out)
	}
	if s.logText() != log {
		t.Errorf("the server said:\n%s", strings.TrimPrefix(s.logText(), log))
	}
	if out, err := s.trySluice("", "reload"); err == nil || !strings.Contains(out, mistake) {
		t.Errorf("reload: %v: %s", err, out)
	}
	if now := childrenOf(s.pid); len(now) != 3 || !slices.EqualFunc(now, pids, func(a, b process) bool { return a.pid == b.pid }) {
		t.Errorf("the plugins were %v, and are %v", pids, now)
	}
	if after := s.files("data/plugin"); !slices.Equal(after, before) {
		t.Errorf("the state was\n%s\nand is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	s.writeFile("sluice.toml", string(text))
	c, _ = s.from("203.0.113.9")
	if _, err := c.send(stranger, []string{alice}, letter("first@example.org", "first", 1000)); err != nil {
		t.Errorf("greylist has forgotten: %v", err)
	}
	c.close()
	s.waitMail(alice, "INBOX", "first@example.org")
	s.stop()
}

// TestCheckAsPluginUser: root's check runs plugins as the server would, and somebody else's says that it cannot.
func TestCheckAsPluginUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give it up")
	}
	s := newSite(t, `
[pipeline.inbound.anti-spam]
plugins = ["moody"]
[plugin.moody]
command = ["`+moodyPath(t)+`"]
config = { mood = "who" }
`)
	if _, err := mischiefProgram(); err != nil {
		t.Fatal(err)
	}
	s.giveUpRoot()
	if out, err := s.trySluice("", "check"); err == nil || !strings.Contains(out, "plugin.moody.config.mood: I am user 65534, a check: true") {
		t.Errorf("%v %s", err, out)
	}
	s.writeFile("plain.toml", strings.Replace(string(mustBytes(os.ReadFile(s.config))), "plugin_user", "# plugin_user", 1))
	out, err := s.run(time.Minute, "", s.program, "check", "--config", "plain.toml")
	if err == nil || !strings.Contains(out, "plugin.moody.config.mood: I am user 8, a check: true") {
		t.Errorf("%v %s", err, out)
	}
	if err := os.Chown(filepath.Join(s.dir, "sluice.toml"), 8, 8); err != nil {
		t.Fatal(err)
	}
	out, err = s.run(time.Minute, "", "/usr/bin/setpriv", "--reuid", "8", "--regid", "8", "--clear-groups", s.program, "check")
	if err == nil || !strings.Contains(out, "I am user 8") || !strings.Contains(out, "plugin_user: warning: plugins were tried as mail, and the server starts them as nobody") {
		t.Errorf("%v %s", err, out)
	}
}

func mustBytes(b []byte, _ error) []byte { return b }

// lineOf returns the number of the configuration's first line that has a text.
func (s *site) lineOf(text string) int {
	octets, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	before, _, found := strings.Cut(string(octets), text)
	if !found {
		s.t.Fatalf("no %q in the configuration", text)
	}
	return strings.Count(before, "\n") + 1
}

// files lists what is below a directory of the site: names, modes, times and contents.
func (s *site) files(dir string) (list []string) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum := ""
		if info.Mode().IsRegular() {
			octets, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = fmt.Sprintf("%x", sha256.Sum256(octets))
		}
		list = append(list, fmt.Sprintf("%s %s %d %s", path, info.Mode(), info.ModTime().UnixNano(), sum))
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}
