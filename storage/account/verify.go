package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/internal/lru"
)

// Verify checks a login from peer. It fails with ErrCredentials, or temporarily with ErrBusy, ErrBlocked, the context's
// error or the engine's (Temporary tells them apart). Whether the account exists cannot be told from the error or the time.
func (d *Directory) Verify(ctx context.Context, address, password string, peer netip.Addr) (Account, error) {
	d.mu.Lock()
	state := d.gen // before anything of the account is read
	d.mu.Unlock()
	attempt, err := d.guesses.begin(ctx, address, password, peer, state)
	if err != nil {
		return Account{}, err
	}
	outcome := attempt.withdrawn
	defer func() { outcome() }() // whatever happens: others wait for it
	a, err := d.verify(ctx, address, password)
	switch {
	case err == nil:
		outcome = attempt.succeeded
	case errors.Is(err, ErrCredentials):
		outcome = attempt.failed
	}
	return a, err
}

func (d *Directory) verify(ctx context.Context, address, password string) (Account, error) {
	k, err := d.find(ctx, address)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return Account{}, err
	}
	prepared, perr := preparePassword(password)
	cred := d.decoy
	if err == nil && perr == nil && k.cred != nil && k.cred.opensAll() {
		cred = k.cred
		if d.memory.knows(k, prepared, d.o.Clock()) {
			return k.account, nil
		}
	}
	// Whatever is wrong, a hash is computed, so that the time tells nothing.
	if err := d.hashes.acquire(ctx, d.waitForHash); err != nil {
		return Account{}, fmt.Errorf("log in: %w", err)
	}
	ok := cred.matches(prepared)
	d.hashes.release()
	if !ok || cred == d.decoy {
		return Account{}, ErrCredentials
	}
	d.memory.keep(k, prepared, d.o.Clock().Add(d.o.Config.Remember.Std()))
	return k.account, nil
}

// waitForHash is the bound on waiting for a turn.
func (d *Directory) waitForHash() (<-chan struct{}, func()) {
	ctx, cancel := context.WithTimeout(context.Background(), d.o.Config.HashWait.Std())
	return ctx.Done(), cancel
}

// NewCredential prepares and hashes a new password, or fails with ErrPassword or ErrBusy.
func (d *Directory) NewCredential(ctx context.Context, password string) (*Credential, error) {
	prepared, err := preparePassword(password)
	if err != nil {
		return nil, err
	}
	if err := d.hashes.acquire(ctx, d.waitForHash); err != nil {
		return nil, err
	}
	defer d.hashes.release()
	return newCredential(prepared, d.o.Cost, d.o.Config.SCRAMIterations)
}

// memory remembers verified logins. It holds no password: only an HMAC under a key that dies with the process.
type memory struct {
	key []byte

	mu    sync.Mutex
	cache *lru.Cache[[16]byte, time.Time] // until when
}

func (m *memory) init(size int) {
	m.key = random(32)
	m.cache = lru.New[[16]byte, time.Time](size)
}

// name covers the account, its credential's serial and the password: with any change there is nothing to find.
func (m *memory) name(k *known, password string) (out [16]byte) {
	h := hmac.New(sha256.New, m.key)
	h.Write(k.account.ID[:])
	h.Write(binary.BigEndian.AppendUint64(nil, k.cred.Serial))
	h.Write(k.cred.salt) // a restored or re-made credential may have the same serial
	h.Write([]byte(password))
	copy(out[:], h.Sum(nil))
	return out
}

func (m *memory) knows(k *known, password string, now time.Time) bool {
	name := m.name(k, password)
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.cache.Get(name)
	if ok && now.After(until) {
		m.cache.Delete(name)
		return false
	}
	return ok
}

func (m *memory) keep(k *known, password string, until time.Time) {
	name := m.name(k, password)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cache.Put(name, until)
}
