package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// binDir is where built programs are; TestMain makes and removes it.
var binDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sluice-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// sluiceProgram builds the program once. With the race detector in the test, it
// is in the program too.
var sluiceProgram = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SLUICE_BIN"); path != "" {
		return filepath.Abs(path)
	}
	return build("sluice", "github.com/sluicemail/sluice/cmd/sluice", raceFlags()...)
})

// raceFlags are the flags that put the race detector into a program, if it is in
// this test.
func raceFlags() []string {
	if raceEnabled {
		return []string{"-race"}
	}
	return nil
}

// build compiles a package of this module and returns the program's path.
func build(name, pkg string, flags ...string) (string, error) {
	path := filepath.Join(binDir, name)
	args := append(append([]string{"build", "-o", path}, flags...), pkg)
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

func sluicePath(t testing.TB) string {
	t.Helper()
	path, err := sluiceProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// peer finds a mail program of a Debian package. Without it the test is skipped,
// or fails under INTEROP=require.
func peer(t testing.TB, program, pkg string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", program)); err == nil {
		return path
	}
	missing(t, program+" is missing", pkg)
	return ""
}

// missing skips or fails a test for want of packages.
func missing(t testing.TB, what, packages string) {
	t.Helper()
	const advice = "%s: apt-get install -y --no-install-recommends %s"
	if os.Getenv("INTEROP") == "require" {
		t.Fatalf(advice, what, packages)
	}
	t.Skipf(advice, what, packages)
}
