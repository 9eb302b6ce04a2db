package keyring

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCutShort: a command that ended after it had written a key and before keys.json leaves a key that signs nothing, and
// the next command works.
func TestCutShort(t *testing.T) {
	dir := Of(t.TempDir())
	if _, err := dir.Make("example.test", ed, day); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(string(dir), "example.test", "20261122e.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(string(dir), "example.test", "20261122e2.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := dir.Make("example.test", ed, day)
	if err != nil || made[0].Selector != "20261122e3" || made[0].State != Next {
		t.Errorf("%+v, %v", made, err)
	}
	if got := selectors(t, NewRing(dir, nil), "example.test"); got != "20261122e" {
		t.Errorf("signs with %q", got)
	}
}

// TestReadableByOthers: a key that others than the owner can read is none to sign with.
func TestReadableByOthers(t *testing.T) {
	dir := Of(t.TempDir())
	if _, err := dir.Make("example.test", ed, day); err != nil {
		t.Fatal(err)
	}
	domain := filepath.Join(string(dir), "example.test")
	if err := os.Chmod(domain, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(string(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Make("example.test", ed, day); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{string(dir), domain} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(domain)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
}
