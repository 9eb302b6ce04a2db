package interop

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMaliciousPlugin: a plugin that tries the store, the keys, the control socket, signals and ptrace gets nothing (RULES C4):
// as the server's own user where the kernel has Landlock 6, and as plugin_user anywhere.
func TestMaliciousPlugin(t *testing.T) {
	t.Run("same user", func(t *testing.T) {
		if abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1); errno != 0 || abi < 6 {
			t.Skip("needs a kernel with Landlock 6")
		}
		s := newMischiefSite(t, "anti-spam")
		s.start()
		s.attacked()
	})
	t.Run("plugin_user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root, to give it up")
		}
		s := newMischiefSite(t, "anti-spam")
		s.giveUpRoot()
		s.start()
		if p, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(p), "Uid:\t0") {
			t.Fatal("this test is not root any more")
		}
		if uid := uidOf(t, s.pid); uid != "8" {
			t.Errorf("the server is user %s", uid)
		}
		plugin := childOf(s.pid)
		if uid := uidOf(t, plugin); uid != "65534" {
			t.Errorf("the plugin is user %s", uid)
		}
		s.attacked()
		// It can start, kill and replace them after root was given up.
		if err := unix.Kill(plugin, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "another process of the plugin", func() bool {
			pid := childOf(s.pid)
			return pid != 0 && pid != plugin && uidOf(t, pid) == "65534"
		})
		s.sluice("", "reload")
		s.scannedAgain("the end of the first")
		s.stop()
	})
}

// giveUpRoot makes the server drop to mail and its plugins to nobody, which Debian has with these numbers.
func (s *site) giveUpRoot() {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.writeFile("sluice.toml", "user = \"mail\"\nplugin_user = \"nobody\"\n"+string(text))
	for _, name := range []string{"", "sluice.toml", "cert.pem", "key.pem"} {
		if err := os.Chown(filepath.Join(s.dir, name), 8, 8); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	for dir := filepath.Dir(mustString(mischiefProgram())); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // where the test has built it
	}
	for dir := filepath.Dir(s.program); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
}

func mustString(s string, _ error) string { return s }

func uidOf(t *testing.T, pid int) string {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(p), "\nUid:\t")
	uid, _, _ := strings.Cut(rest, "\t")
	return uid
}

// attacked sends the message that makes the plugin attack, and wants it to have got nothing.
func (s *site) attacked() {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	id := "attack@example.org"
	if _, err := c.send(stranger, []string{alice}, letter(id, "attack", 1000, "X-Mischief: attack", "X-Directory: "+s.dir)); err != nil {
		s.t.Fatal(err)
	}
	var text string
	eventually(s.t, 10*time.Second, "the message of the attack", func() bool {
		text, err = s.message(alice, id)
		return err == nil && text != ""
	})
	text = strings.ReplaceAll(text, "\r\n ", " ")
	_, result, found := strings.Cut(text, "X-Attack: ")
	result, _, _ = strings.Cut(result, "\r\n")
	if !found || strings.Count(result, "=false") < 15 || strings.Contains(result, "=true") {
		s.t.Errorf("the attack: %q", result)
	}
	if !s.running() {
		s.t.Error("the server is gone")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "key.pem")); err != nil {
		s.t.Error(err)
	}
}
