package interop

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func asExit(err error, exit **exec.ExitError) bool { return errors.As(err, exit) }

// withoutModules hides what npm has made beside an example.
type withoutModules struct{ fs.FS }

func (w withoutModules) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(w.FS, name)
	var kept []fs.DirEntry
	for _, e := range entries {
		if path.Base(e.Name()) != "node_modules" {
			kept = append(kept, e)
		}
	}
	return kept, err
}

// TestAuthorNew: what `sluice plugin new` writes builds, passes its own test, and passes the check, away from this repository.
func TestAuthorNew(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, lang, name string) string {
		dir := filepath.Join(t.TempDir(), "made")
		out := mustIn(t, root, time.Minute, sluicePath(t), "plugin", "new", "--lang", lang, "--dir", dir, "--sluice", root, name)
		if !strings.Contains(out, "sluice plugin check") {
			t.Errorf("it does not say what comes next:\n%s", out)
		}
		for _, file := range []string{"README.md", "plugin.toml"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || !strings.Contains(string(text), name) || strings.Contains(string(text), "../..") || strings.Contains(string(text), "scanner.") {
				t.Errorf("%s: %v\n%s", file, err, text)
			}
		}
		again, err := in(t, root, time.Minute, sluicePath(t), "plugin", "new", "--lang", lang, "--dir", dir, name)
		if exitStatus(err) != 1 || !strings.Contains(again, "is there already") {
			t.Errorf("it writes over what is there: %v %s", err, again)
		}
		return dir
	}
	t.Run("go", func(t *testing.T) {
		dir := write(t, "go", "mime")                                                               // the name of a package of Go's own
		env := []string{"env", "HOME=" + os.Getenv("HOME"), "GOPROXY=off", "GOFLAGS=-mod=readonly"} // it builds without any network
		mustIn(t, dir, 2*time.Minute, append(env, "go", "build")...)
		mustIn(t, dir, 2*time.Minute, append(env, "go", "test")...)
		passesCheck(t, dir, "--quick")
	})
	t.Run("python", func(t *testing.T) {
		needPython(t)
		dir := write(t, "python", "my-python")
		mustIn(t, dir, time.Minute, debianPython, "-m", "unittest")
		passesCheck(t, dir, "--quick")
	})
	t.Run("javascript", func(t *testing.T) {
		installed := javascriptPath(t)
		dir := write(t, "javascript", "my-javascript")
		mustIn(t, dir, time.Minute, "cp", "-a", filepath.Join(installed, "node_modules"), dir) // npm ci once is enough
		mustIn(t, dir, time.Minute, "npm", "test")
		passesCheck(t, dir, "--quick")
	})
	t.Run("usage", func(t *testing.T) {
		dir := t.TempDir()
		for _, args := range [][]string{{"--lang", "cobol", "x"}, {"x"}, {"--lang", "go", "Not-A-Name"}, {"--lang", "go"}, {"--lang", "go", "v2"}, {"--lang", "go", "--sluice", dir, "x"}} {
			if out, err := in(t, dir, time.Minute, append([]string{sluicePath(t), "plugin", "new"}, args...)...); exitStatus(err) != 2 {
				t.Errorf("new %q: %v %s", args, err, out)
			}
		}
		// Without Sluice's source go.mod says what to fill in.
		out := mustIn(t, dir, time.Minute, sluicePath(t), "plugin", "new", "--lang", "go", "far-away")
		mod, err := os.ReadFile(filepath.Join(dir, "far-away", "go.mod"))
		if err != nil || !strings.Contains(string(mod), "replace github.com/sluicemail/sluice =>") || !strings.Contains(out, "go mod tidy") {
			t.Errorf("%v\n%s\n%s", err, mod, out)
		}
	})
}
