package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of the kit for authors of plugins: the examples in other languages, `sluice plugin check`, `new` and `ask`.

const debianPython = "/usr/bin/python3" // Debian's packages are not seen by another one

// needPython wants Debian's Python with grpcio.
func needPython(t testing.TB) {
	t.Helper()
	if out, err := exec.Command(debianPython, "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		missing(t, "Python's grpcio is missing ("+strings.TrimSpace(string(out))+")", "python3-grpcio")
	}
}

// examplePath returns the directory of an example plugin.
func examplePath(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../../examples/plugins", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// javascriptPath returns a copy of the example in JavaScript with what it depends on, made once.
func javascriptPath(t testing.TB) string {
	t.Helper()
	peer(t, "node", "nodejs")
	peer(t, "npm", "npm")
	dir, err := javascriptCopy()
	if err != nil {
		missing(t, err.Error(), "nodejs npm")
	}
	return dir
}

var javascriptCopy = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binDir, "javascript")
	if err := os.CopyFS(dir, withoutModules{os.DirFS("../../../examples/plugins/javascript")}); err != nil {
		return "", err
	}
	return dir, npmInstall(dir)
})

// npmInstall gets what package-lock.json lists; no script of anybody's runs.
func npmInstall(dir string) error {
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return &npmError{strings.TrimSpace(string(out[max(0, len(out)-500):]))}
	}
	return nil
}

type npmError struct{ text string }

func (e *npmError) Error() string { return "npm ci failed: " + e.text }

// in runs a program in a directory to its end.
func in(t testing.TB, dir string, limit time.Duration, args ...string) (string, error) {
	t.Helper()
	s := &site{t: t, dir: dir}
	return s.run(limit, "", args...)
}

func mustIn(t testing.TB, dir string, limit time.Duration, args ...string) string {
	t.Helper()
	out, err := in(t, dir, limit, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestAuthorExamples: the examples in other languages pass their own tests, and keep every promise of the protocol. It has no
// neighbour: 50 MB on each lane are to be looked at in time.
func TestAuthorExamples(t *testing.T) {
	t.Run("python", func(t *testing.T) {
		needPython(t)
		dir := examplePath(t, "python")
		mustIn(t, dir, time.Minute, debianPython, "-B", "-m", "unittest")
		passesCheck(t, dir)
	})
	t.Run("javascript", func(t *testing.T) {
		dir := javascriptPath(t)
		mustIn(t, dir, time.Minute, "npm", "test")
		passesCheck(t, dir)
	})
	t.Run("builtin", func(t *testing.T) {
		args := []string{sluicePath(t), "plugin", "check", "--builtin", "gtube"}
		if raceEnabled { // which makes looking at 400 MB take longer than a plugin has
			args = append(args, "--quick")
		}
		mustIn(t, t.TempDir(), 2*time.Minute, args...)
	})
}

// passesCheck runs `sluice plugin check` with the plugin.toml of a directory.
func passesCheck(t testing.TB, dir string, flags ...string) {
	t.Helper()
	out := mustIn(t, dir, 2*time.Minute, append([]string{sluicePath(t), "plugin", "check", "--config", "plugin.toml"}, flags...)...)
	if strings.Contains(out, "FAILED") || !strings.Contains(out, "ok, ") {
		t.Errorf("%s", out)
	}
	t.Log(out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:])
}

// TestAuthorCheck: the exit status and the report of a check, for people and for programs.
func TestAuthorCheck(t *testing.T) {
	t.Parallel()
	needPython(t)
	sluice := sluicePath(t)
	dir := t.TempDir()
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--quick", "--", "/bin/true"}, 1, "FAILED  handshake"},
		{[]string{"--quick", "--json", "--", "/bin/true"}, 1, `"check":"handshake","section":"1","status":"failed"`},
		{[]string{"--quick", "--", "no-such-program"}, 1, "no-such-program"},
		{[]string{"--quick", "--", debianPython, "-c", "import there_is_none"}, 1, "--read, or read in its table, gives it more"},
		{nil, 2, "needs a COMMAND"},
		{[]string{"--builtin", "nix"}, 2, "unknown builtin"},
		{[]string{"--builtin", "gtube", "--", "cat"}, 2, "expected one of them"},
		{[]string{"--name", "x"}, 2, "--config"},
		{[]string{"--limit", "1ms", "cat"}, 2, "too short"},
		{[]string{"--config", "absent.toml"}, 1, "no configuration"},
	} {
		out, err := in(t, dir, time.Minute, append([]string{sluice, "plugin", "check"}, c.args...)...)
		if status := exitStatus(err); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("check %q: status %d, expected %d and %q in\n%s", c.args, status, c.status, c.want, out)
		}
	}
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case asExit(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
