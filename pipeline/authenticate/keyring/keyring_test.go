package keyring

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var ed = []Wish{{Algorithm: dkim.Ed25519}}

func selectors(t testing.TB, r *Ring, domain string) string {
	t.Helper()
	signers, err := r.Signers(domain)
	if err != nil {
		return "error: " + err.Error()
	}
	var names []string
	for _, s := range signers {
		names = append(names, s.Selector)
	}
	return strings.Join(names, " ")
}

// TestLife: made, signed with, replaced, removed, while a server watches.
func TestLife(t *testing.T) {
	dir := Of(t.TempDir())
	now := day
	ring := NewRing(dir, func() time.Time { return now })
	check := func(what, want string) {
		t.Helper()
		if got := selectors(t, ring, "example.test"); got != want {
			t.Errorf("%s: signs with %q, want %q", what, got, want)
		}
		now = now.Add(3 * time.Second) // it looks again
	}
	check("no directory", "")
	made, err := dir.Make("example.test", []Wish{{Algorithm: dkim.Ed25519}, {Algorithm: dkim.RSA, Bits: 1024}}, now)
	if err != nil || len(made) != 2 || made[0].State != Active || made[1].Bits != 1024 {
		t.Fatalf("%+v, %v", made, err)
	}
	check("the first keys: RSA before Ed25519", "20261122r 20261122e")
	if made, err = dir.Make("example.test", ed, now); err != nil || made[0].State != Next || made[0].Selector != "20261122e2" {
		t.Fatalf("%+v, %v", made, err)
	}
	check("the next key does not sign", "20261122r 20261122e")
	active, retired, err := dir.Activate("example.test", now, 10*24*time.Hour)
	if err != nil || len(active) != 1 || len(retired) != 1 || retired[0].Selector != "20261122e" || !retired[0].Until.Equal(retired[0].Retired.Add(240*time.Hour)) {
		t.Fatalf("%+v, %+v, %v", active, retired, err)
	}
	check("replaced, the other kind stays", "20261122r 20261122e2")
	if _, _, err := dir.Activate("example.test", now, 0); err == nil {
		t.Error("activated without a next key")
	}
	records, err := dir.Records("example.test")
	if err != nil || len(records) != 3 {
		t.Fatalf("%+v, %v", records, err)
	}
	for _, r := range records {
		if _, err := dkim.ParseKey(r.Text); err != nil || r.Name != r.Selector+"._domainkey.example.test" {
			t.Errorf("%+v: %v", r, err)
		}
	}
	due := func(k Key) bool { return !now.Before(k.Until) }
	if removed, err := dir.Remove("example.test", due); err != nil || len(removed) != 0 {
		t.Errorf("removed before its time: %+v, %v", removed, err)
	}
	now = now.Add(11 * 24 * time.Hour)
	if removed, err := dir.Remove("example.test", due); err != nil || len(removed) != 1 {
		t.Errorf("%+v, %v", removed, err)
	}
	check("the old key is gone", "20261122r 20261122e2")
	files, _ := filepath.Glob(filepath.Join(string(dir), "example.test", "*"))
	if len(files) != 3 {
		t.Errorf("files: %v", files)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if domains, err := dir.Domains(); err != nil || strings.Join(domains, " ") != "example.test" {
		t.Errorf("domains: %v, %v", domains, err)
	}
}

// TestPromised: what keys.json calls active has to be there.
func TestPromised(t *testing.T) {
	for what, spoil := range map[string]func(dir string) error{
		"no file":  func(dir string) error { return os.Remove(filepath.Join(dir, "20261122e.pem")) },
		"an empty": func(dir string) error { return os.WriteFile(filepath.Join(dir, "20261122e.pem"), nil, 0o600) },
		"no key": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "20261122e.pem"), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600)
		},
		"a large": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "20261122e.pem"), make([]byte, 1<<20), 0o600)
		},
		"keys.json": func(dir string) error { return os.WriteFile(filepath.Join(dir, "keys.json"), []byte("{"), 0o600) },
		"a version": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "keys.json"), []byte(`{"version": 9}`), 0o600)
		},
		"a selector": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "keys.json"), []byte(`{"version": 1, "keys": [{"selector": "../x"}]}`), 0o600)
		},
	} {
		dir := Of(t.TempDir())
		now := day
		if _, err := dir.Make("example.test", ed, now); err != nil {
			t.Fatal(err)
		}
		ring := NewRing(dir, func() time.Time { return now })
		if got := selectors(t, ring, "example.test"); got != "20261122e" {
			t.Fatal(got)
		}
		if err := spoil(filepath.Join(string(dir), "example.test")); err != nil {
			t.Fatal(err)
		}
		if got := selectors(t, ring, "example.test"); got != "20261122e" {
			t.Errorf("%s: looked too soon: %s", what, got)
		}
		now = now.Add(lookEvery)
		if got := selectors(t, ring, "example.test"); !strings.HasPrefix(got, "error: read the key") {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestForeignKeys: keys that other programs made only have to be copied.
func TestForeignKeys(t *testing.T) {
	dir := Of(t.TempDir())
	home := filepath.Join(string(dir), "example.test")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	for name, content := range map[string][]byte{"mail.pem": pem.EncodeToMemory(block), "mail.txt": []byte("a record"), ".pem": []byte("x")} {
		if err := os.WriteFile(filepath.Join(home, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := selectors(t, NewRing(dir, nil), "example.test"); got != "mail" {
		t.Errorf("signs with %q", got)
	}
	made, err := dir.Make("example.test", ed, day)
	if err != nil || made[0].State != Next {
		t.Errorf("beside it: %+v, %v", made, err)
	}
	if got := selectors(t, NewRing(dir, nil), "example.test"); got != "mail" {
		t.Errorf("signs with %q", got)
	}
	if _, err := dir.Make("example.test", []Wish{{Selector: "mail", Algorithm: dkim.Ed25519}}, day); !errors.Is(err, ErrExists) {
		t.Errorf("a selector twice: %v", err)
	}
	for _, selector := range []string{"../../x", "a/b", "UPPER", "a b", "."} {
		if _, err := dir.Make("example.test", []Wish{{Selector: selector, Algorithm: dkim.Ed25519}}, day); err == nil {
			t.Errorf("selector %q", selector)
		}
	}
	for _, domain := range []string{"..", "a/b", "", "example.test/../x"} {
		if _, err := dir.Make(domain, ed, day); err == nil {
			t.Errorf("domain %q", domain)
		}
	}
}

// TestAtOnce: several commands and a server at the same time.
func TestAtOnce(t *testing.T) {
	dir := Of(t.TempDir())
	if _, err := dir.Make("example.test", ed, day); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := dir.Make("example.test", ed, day); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			for range 20 {
				if got := selectors(t, NewRing(dir, nil), "example.test"); got != "20261122e" {
					t.Errorf("signs with %q", got)
				}
			}
		})
	}
	wg.Wait()
	if keys, err := dir.Keys("example.test"); err != nil || len(keys) != 5 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func TestZone(t *testing.T) {
	r := Record{Name: "s._domainkey.example.test", Text: "v=DKIM1; p=" + strings.Repeat("A", 600)}
	line := r.Zone()
	joined := ""
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			joined += part
			if len(part) > 255 {
				t.Errorf("a string of %d octets", len(part))
			}
		}
	}
	if joined != r.Text || !strings.HasPrefix(line, "s._domainkey.example.test. 3600 IN TXT ( ") {
		t.Error(line)
	}
}
