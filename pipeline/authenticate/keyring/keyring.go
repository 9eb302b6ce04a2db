// Package keyring keeps the private keys with which the server signs: data_dir/dkim/DOMAIN/SELECTOR.pem, and beside them
// keys.json, which says what each of them is for.
//
// A key is *next* (made, and to be published), *active* (mail is signed with it), or *retired* (its record stays in DNS
// until mail signed with it can no longer be on its way). Without a keys.json every *.pem of a directory is active, so keys
// that were made elsewhere only have to be copied there.
//
// What it promises:
//
//   - A running server sees changes within two seconds, without a reload: Ring looks at the directory before it believes
//     what it knows. Files are replaced as a whole, so it never sees half a key; keys.json comes last when something is
//     added and first when something is removed.
//   - What keys.json calls active and cannot be read is an error: mail must not leave unsigned because a file went away.
//     A domain without a directory has no keys, which is none.
//   - Keys are readable by the directory's owner alone (0600 in 0700). Two commands at once wait for each other.
//
// It reads no hostile input. RFCs: 6376 section 3.6, 8463, 8301 for the sizes.
package keyring

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// State is what a key is for.
type State string

// The states, in the order of a key's life.
const (
	Next    State = "next"    // made, to be published
	Active  State = "active"  // signs
	Retired State = "retired" // signs no more; its record is still needed
)

// Key is one key as keys.json has it.
type Key struct {
	Selector  string    `json:"selector"`
	Algorithm string    `json:"algorithm"` // dkim.RSA or dkim.Ed25519
	Bits      int       `json:"bits"`
	State     State     `json:"state"`
	Created   time.Time `json:"created"`
	Activated time.Time `json:"activated,omitzero"`
	Retired   time.Time `json:"retired,omitzero"`
	Until     time.Time `json:"published_until,omitzero"` // of a retired key: when its record may go
}

// stateFile is keys.json.
type stateFile struct {
	Version int   `json:"version"`
	Keys    []Key `json:"keys"`
}

const (
	stateName    = "keys.json"
	stateVersion = 1
	suffix       = ".pem"
	maxFile      = 64 << 10 // octets of a key or of keys.json
	maxKeys      = 100
)

// Dir is data_dir/dkim.
type Dir string

// Of returns the directory of the keys in a data_dir.
func Of(dataDir string) Dir { return Dir(filepath.Join(dataDir, "dkim")) }

// path returns the directory of a domain, whose name comes from the configuration; it must not lead elsewhere.
func (d Dir) path(domain string) (string, error) {
	name, ok := dkim.Domain(domain)
	if !ok {
		return "", fmt.Errorf("%q is not a domain", domain)
	}
	return filepath.Join(string(d), name), nil
}

// Domains returns the domains that have a directory.
func (d Dir) Domains() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	var list []string
	for _, e := range entries {
		if name, ok := dkim.Domain(e.Name()); ok && name == e.Name() && e.IsDir() {
			list = append(list, name)
		}
	}
	return list, nil
}

// Keys returns what a domain has; none if there is no directory.
func (d Dir) Keys(domain string) ([]Key, error) {
	dir, err := d.path(domain)
	if err != nil {
		return nil, err
	}
	text, err := readFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return d.found(domain, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", domain, err)
	}
	var f stateFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read the keys of %s: %s: %w", domain, stateName, err)
	}
	if f.Version != stateVersion || len(f.Keys) > maxKeys {
		return nil, fmt.Errorf("read the keys of %s: %s is of version %d with %d keys, expected version %d and at most %d keys",
			domain, stateName, f.Version, len(f.Keys), stateVersion, maxKeys)
	}
	for _, k := range f.Keys {
		if clean, ok := dkim.Domain(k.Selector); !ok || !strings.EqualFold(clean, k.Selector) {
			return nil, fmt.Errorf("read the keys of %s: %s: %q is not a selector", domain, stateName, k.Selector)
		}
	}
	return f.Keys, nil
}

// found makes a list of a directory without keys.json.
func (d Dir) found(domain, dir string) ([]Key, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", domain, err)
	}
	var keys []Key
	for _, e := range entries {
		selector, ok := strings.CutSuffix(e.Name(), suffix)
		if clean, is := dkim.Domain(selector); !ok || !is || !strings.EqualFold(clean, selector) || len(keys) == maxKeys {
			continue
		}
		signer, err := d.Signer(domain, selector, 0)
		if err != nil {
			return nil, err
		}
		k := Key{Selector: selector, Algorithm: signer.Algorithm, Bits: bits(signer.Key.Public()), State: Active}
		if info, err := e.Info(); err == nil {
			k.Created = info.ModTime().UTC().Truncate(time.Second)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Signer reads one key.
func (d Dir) Signer(domain, selector string, expire time.Duration) (*dkim.Signer, error) {
	dir, err := d.path(domain)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, selector+suffix)
	text, err := readFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the key %s of %s: %w", selector, domain, err)
	}
	private, err := parsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("read the key %s of %s: %s: %w", selector, domain, name, err)
	}
	signer, err := dkim.NewSigner(domain, selector, private, expire)
	if err != nil {
		return nil, fmt.Errorf("read the key %s of %s: %s: %w", selector, domain, name, err)
	}
	return signer, nil
}

// parsePEM reads a private key in PKCS #8, or the PKCS #1 that openssl and opendkim used to write.
func parsePEM(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	if block.Type == "RSA PRIVATE KEY" {
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if signer, ok := key.(crypto.Signer); ok {
		return signer, nil
	}
	return nil, errors.New("it is not a key that signs")
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file of at most %d octets", name, maxFile)
	}
	return os.ReadFile(name)
}

// Ring answers for the running server with which keys a domain signs. It may be used from many goroutines.
type Ring struct {
	dir Dir
	now func() time.Time

	mu      sync.Mutex
	domains map[string]*known
}

// known is what Ring has read of a domain.
type known struct {
	looked  time.Time
	stamp   string // of the files
	signers []*dkim.Signer
	err     error
}

// NewRing returns a ring over a directory. now may be nil.
func NewRing(dir Dir, now func() time.Time) *Ring {
	if now == nil {
		now = time.Now
	}
	return &Ring{dir: dir, now: now, domains: make(map[string]*known)}
}

// lookEvery is how long Ring believes what it knows.
const lookEvery = 2 * time.Second

// Signers returns the active keys of a domain of ours, in A-labels: RSA before Ed25519, which fewer servers can verify.
// None and no error: it has no keys. The slice must not be changed.
func (r *Ring) Signers(domain string) ([]*dkim.Signer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, now := r.domains[domain], r.now()
	if k != nil && now.Sub(k.looked) < lookEvery && !now.Before(k.looked) {
		return k.signers, k.err
	}
	stamp := r.stamp(domain)
	if k == nil || k.stamp != stamp || k.err != nil {
		k = &known{stamp: stamp}
		k.signers, k.err = r.read(domain)
		r.domains[domain] = k
	}
	k.looked = now
	return k.signers, k.err
}

// stamp is another one when a file has changed.
func (r *Ring) stamp(domain string) string {
	dir, err := r.dir.path(domain)
	if err != nil {
		return ""
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "none"
	}
	var b strings.Builder
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

func (r *Ring) read(domain string) ([]*dkim.Signer, error) {
	keys, err := r.dir.Keys(domain)
	if err != nil {
		return nil, err
	}
	var signers []*dkim.Signer
	for _, k := range keys {
		if k.State != Active {
			continue
		}
		s, err := r.dir.Signer(domain, k.Selector, 0)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	slices.SortStableFunc(signers, func(a, b *dkim.Signer) int { return -strings.Compare(a.Algorithm, b.Algorithm) })
	return signers, nil
}
