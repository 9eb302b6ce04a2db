package account

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/argon2"

	"github.com/sluicemail/sluice/storage/codec"
)

// Kind says what a credential is for.
type Kind uint8

// The kinds of credentials. App passwords with scopes have names; the password has none.
const (
	KindPassword    Kind = 1
	KindAppPassword Kind = 2
)

// Cost is what argon2id spends on one password.
type Cost struct {
	Memory  uint32 // KiB
	Time    uint32
	Threads uint8
}

// defaultCost is RULES B7: 19 MiB, t=2, p=1.
func defaultCost() Cost { return Cost{Memory: 19 << 10, Time: 2, Threads: 1} }

const (
	saltSize  = 16
	hashSize  = 32
	maxMemory = 1 << 20 // KiB: a damaged record must not ask for all there is
	maxTime   = 100
	maxScopes = 32
)

// Credential is how an account proves itself.
type Credential struct {
	Kind   Kind
	Serial uint64   // rises with every change; a remembered login of another serial is worthless
	Scopes []string // of an app password: what it may do; empty: everything

	cost Cost
	salt []byte
	hash []byte

	scram SCRAM
}

// opensAll reports whether it is for everything. Nobody asks yet what a scope allows, so one that has any opens nothing.
func (c *Credential) opensAll() bool { return c.Kind == KindPassword && len(c.Scopes) == 0 }

// SCRAM is what SCRAM-SHA-256 needs instead of a password (RFC 5802 section 3).
type SCRAM struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// SCRAM returns the keys for SCRAM-SHA-256.
func (c *Credential) SCRAM() SCRAM { return c.scram }

// newCredential hashes a prepared password; it takes the time of one login, and about as much for SCRAM.
func newCredential(password string, cost Cost, iterations int) (*Credential, error) {
	c := &Credential{Kind: KindPassword, Serial: 1, cost: cost, salt: random(saltSize)}
	c.hash = argon2.IDKey([]byte(password), c.salt, cost.Time, cost.Memory, cost.Threads, hashSize)
	c.scram = SCRAM{Salt: random(saltSize), Iterations: iterations}
	salted, err := pbkdf2.Key(sha256.New, password, c.scram.Salt, iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the keys for SCRAM: %w", err)
	}
	client := mac(salted, "Client Key")
	stored := sha256.Sum256(client)
	c.scram.StoredKey = stored[:]
	c.scram.ServerKey = mac(salted, "Server Key")
	return c, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: the runtime ends the process instead
	return b
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// matches hashes a prepared password and compares.
func (c *Credential) matches(password string) bool {
	got := argon2.IDKey([]byte(password), c.salt, c.cost.Time, c.cost.Memory, c.cost.Threads, hashSize)
	return subtle.ConstantTimeCompare(got, c.hash) == 1
}

// append encodes c (FORMAT.md, "credential").
func (c *Credential) append(b []byte) []byte {
	b = append(b, recordVersion, byte(c.Kind))
	b = binary.AppendUvarint(b, c.Serial)
	b = codec.AppendStrings(b, c.Scopes)
	b = binary.AppendUvarint(b, uint64(c.cost.Memory))
	b = binary.AppendUvarint(b, uint64(c.cost.Time))
	b = append(b, c.cost.Threads)
	b = codec.AppendBytes(b, c.salt)
	b = codec.AppendBytes(b, c.hash)
	b = binary.AppendUvarint(b, uint64(c.scram.Iterations))
	b = codec.AppendBytes(b, c.scram.Salt)
	b = codec.AppendBytes(b, c.scram.StoredKey)
	return codec.AppendBytes(b, c.scram.ServerKey)
}

func decodeCredential(value []byte) (*Credential, error) {
	d := codec.Record(bytes.Clone(value), recordVersion)
	c := &Credential{Kind: Kind(d.Octet()), Serial: d.Uint()}
	if c.Scopes = d.Strings(); len(c.Scopes) > maxScopes {
		d.Fail()
	}
	memory, time := d.Uint(), d.Uint()
	c.cost = Cost{Memory: uint32(min(memory, maxMemory+1)), Time: uint32(min(time, maxTime+1)), Threads: d.Octet()}
	c.salt, c.hash = d.Bytes(), d.Bytes()
	iterations := d.Uint()
	c.scram = SCRAM{Iterations: int(min(iterations, 1<<31-1)), Salt: d.Bytes(), StoredKey: d.Bytes(), ServerKey: d.Bytes()}
	if d.Bad() || len(c.hash) != hashSize || memory > maxMemory || time == 0 || time > maxTime || c.cost.Threads == 0 {
		return nil, fmt.Errorf("read a credential: %w", codec.ErrDamaged)
	}
	return c, nil
}

// hashes bounds how many passwords are hashed at once: each takes 19 MiB and a processor.
type hashes struct {
	slots chan struct{}
}

// acquire waits for a slot, or returns ErrBusy.
func (h *hashes) acquire(ctx context.Context, wait func() (<-chan struct{}, func())) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	default:
	}
	over, stop := wait()
	defer stop()
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-over:
		return ErrBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hashes) release() { <-h.slots }
