package keyring

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// Wish is a key to be made.
type Wish struct {
	Selector  string // "": one that names the day
	Algorithm string // dkim.RSA or dkim.Ed25519
	Bits      int    // of an RSA key
}

// ErrExists is the cause when a domain has keys already.
var ErrExists = errors.New("there are keys already")

// Make makes keys for a domain and returns them. The first of a domain are active at once: a signature whose key is not
// published yet counts as none, which is what mail had before. Later ones are next.
func (d Dir) Make(domain string, wishes []Wish, now time.Time) (made []Key, err error) {
	err = d.change(domain, func(dir string, keys []Key) ([]Key, error) {
		state := Active
		if slices.ContainsFunc(keys, func(k Key) bool { return k.State == Active }) {
			state = Next
		}
		for _, w := range wishes {
			k, err := makeKey(dir, keys, w, state, now.UTC().Truncate(time.Second))
			if err != nil {
				return nil, err
			}
			keys, made = append(keys, k), append(made, k)
		}
		return keys, nil
	})
	return made, err
}

func makeKey(dir string, keys []Key, w Wish, state State, now time.Time) (Key, error) {
	k := Key{Selector: w.Selector, Algorithm: w.Algorithm, State: state, Created: now}
	if state == Active {
		k.Activated = now
	}
	if k.Selector == "" {
		k.Selector = freeSelector(dir, keys, w.Algorithm, now)
	}
	if clean, ok := dkim.Domain(k.Selector); !ok || clean != k.Selector {
		return k, fmt.Errorf("%q is not a selector, expected lower-case letters, digits and hyphens", k.Selector)
	}
	name := filepath.Join(dir, k.Selector+suffix)
	if _, err := os.Lstat(name); err == nil || taken(keys, k.Selector) {
		return k, fmt.Errorf("%w: selector %s", ErrExists, k.Selector)
	}
	var private crypto.Signer
	var err error
	switch w.Algorithm {
	case dkim.RSA:
		private, err = rsa.GenerateKey(rand.Reader, w.Bits)
	case dkim.Ed25519:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("%q is not an algorithm", w.Algorithm)
	}
	if err != nil {
		return k, fmt.Errorf("make a key: %w", err)
	}
	k.Bits = bits(private.Public())
	data, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return k, fmt.Errorf("make a key: %w", err)
	}
	return k, writeFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: data}))
}

func bits(public crypto.PublicKey) int {
	if key, ok := public.(*rsa.PublicKey); ok {
		return key.N.BitLen()
	}
	return 8 * ed25519.PublicKeySize
}

func taken(keys []Key, selector string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return strings.EqualFold(k.Selector, selector) })
}

// freeSelector names the day on which a key was made, and its kind: a key does not get the selector of another, since caches may have
// its old key. Nor that of a file that a command left which did not come to its end.
func freeSelector(dir string, keys []Key, algorithm string, now time.Time) string {
	base := now.Format("20060102")
	kind := "r"
	if algorithm == dkim.Ed25519 {
		kind = "e"
	}
	selector := base + kind
	used := func() bool {
		_, err := os.Lstat(filepath.Join(dir, selector+suffix))
		return err == nil || taken(keys, selector)
	}
	for n := 2; used(); n++ {
		selector = fmt.Sprintf("%s%s%d", base, kind, n)
	}
	return selector
}

// Activate makes the next keys active and retires those that were, whose records have to stay published for keep.
func (d Dir) Activate(domain string, now time.Time, keep time.Duration) (active, retired []Key, err error) {
	now = now.UTC().Truncate(time.Second)
	err = d.change(domain, func(_ string, keys []Key) ([]Key, error) {
		for i := range keys {
			if k := &keys[i]; k.State == Active && replaced(keys, k.Algorithm) {
				k.State, k.Retired, k.Until = Retired, now, now.Add(keep)
				retired = append(retired, *k)
			}
		}
		for i := range keys {
			if k := &keys[i]; k.State == Next {
				k.State, k.Activated = Active, now
				active = append(active, *k)
			}
		}
		if len(active) == 0 {
			return nil, fmt.Errorf("%s has no next keys", domain)
		}
		return keys, nil
	})
	return active, retired, err
}

// replaced reports whether there is a next key of that algorithm.
func replaced(keys []Key, algorithm string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.State == Next && k.Algorithm == algorithm })
}

// Remove removes the retired keys that due says yes to.
func (d Dir) Remove(domain string, due func(Key) bool) (removed []Key, err error) {
	err = d.change(domain, func(dir string, keys []Key) ([]Key, error) {
		kept := keys[:0:0]
		for _, k := range keys {
			if k.State == Retired && due(k) {
				removed = append(removed, k)
			} else {
				kept = append(kept, k)
			}
		}
		return kept, nil
	})
	if err != nil {
		return nil, err
	}
	dir, err := d.path(domain)
	if err != nil {
		return nil, err
	}
	for _, k := range removed { // keys.json no longer speaks of them
		if err := os.Remove(filepath.Join(dir, k.Selector+suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return removed, fmt.Errorf("remove a retired key: %w", err)
		}
	}
	return removed, nil
}

// Record is what DNS has to have for a key.
type Record struct {
	Key
	Domain string `json:"domain"`
	Name   string `json:"name"` // "SELECTOR._domainkey.DOMAIN"
	Text   string `json:"text"`
}

// Records returns the records of a domain's keys.
func (d Dir) Records(domain string) ([]Record, error) {
	keys, err := d.Keys(domain)
	if err != nil {
		return nil, err
	}
	list := make([]Record, 0, len(keys))
	for _, k := range keys {
		s, err := d.Signer(domain, k.Selector, 0)
		if err != nil {
			return nil, err
		}
		text, err := dkim.Record(s.Key.Public())
		if err != nil {
			return nil, err
		}
		list = append(list, Record{Key: k, Domain: domain, Name: k.Selector + "._domainkey." + domain, Text: text})
	}
	return list, nil
}

// Zone returns the record as a line of a zone file, its text in strings of at most 255 octets (RFC 1035 section 3.3.14).
func (r *Record) Zone() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. 3600 IN TXT (", r.Name)
	for text := r.Text; text != ""; {
		n := min(len(text), 250)
		fmt.Fprintf(&b, " \"%s\"", text[:n])
		text = text[n:]
	}
	return b.String() + " )"
}

// change replaces keys.json by what f makes of it, while no other command does.
func (d Dir) change(domain string, f func(dir string, keys []Key) ([]Key, error)) error {
	dir, err := d.path(domain)
	if err != nil {
		return err
	}
	if err := d.ready(dir); err != nil {
		return fmt.Errorf("make the keys' directory: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lock the keys of %s: %w", domain, err)
	}
	defer lock.Close() // ends the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the keys of %s: %w", domain, err)
	}
	keys, err := d.Keys(domain)
	if err != nil {
		return err
	}
	if keys, err = f(dir, keys); err != nil {
		return fmt.Errorf("change the keys of %s: %w", domain, err)
	}
	text, err := json.MarshalIndent(stateFile{stateVersion, keys}, "", "  ")
	if err != nil {
		return fmt.Errorf("change the keys of %s: %w", domain, err)
	}
	return writeFile(filepath.Join(dir, stateName), append(text, '\n'))
}

// ready makes the directory of a domain and that of all, so that they stay and the owner alone can look into them.
func (d Dir) ready(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{string(d), dir} {
		if err := os.Chmod(name, 0o700); err != nil { // it may have been made by hand
			return err
		}
		if err := syncDir(filepath.Dir(name)); err != nil {
			return err
		}
	}
	return nil
}

// writeFile replaces a file as a whole: written, synced, named, and the directory synced.
func writeFile(name string, content []byte) error {
	dir := filepath.Dir(name)
	file, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(file.Name()) // after the rename there is none
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
