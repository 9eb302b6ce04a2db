package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/internal/lru"
	"github.com/sluicemail/sluice/storage/kv"
)

// Options are what a Directory is made of. Engine and Lock are required.
type Options struct {
	Engine kv.Engine
	// Lock takes an account's lock; unlock also tells the store that the account's record may have changed.
	Lock   func(ctx context.Context, account id.ID) (unlock func(), err error)
	Config Config           // the zero value: DefaultConfig
	Logger *slog.Logger     // nil: nothing is logged
	Clock  func() time.Time // nil: time.Now
	Cost   Cost             // of new passwords; the zero value: RULES B7 (tests take less)
}

// Directory knows who exists and how they prove it. Its methods may be called from any goroutine.
type Directory struct {
	o       Options
	hashes  hashes
	memory  memory
	guesses guesses
	decoy   *Credential // what the passwords of unknown accounts are compared with

	mu    sync.Mutex
	gen   uint64 // counts changes, so that a look-up that began before one is not kept
	cache *lru.Cache[string, *known]
}

// known is an account in the cache; unknown addresses are kept too.
type known struct {
	account Account
	cred    *Credential // nil: not read yet
	absent  bool
}

// New makes a Directory over an engine.
func New(o Options) (*Directory, error) {
	if reflect.ValueOf(o.Config).IsZero() {
		o.Config = DefaultConfig()
	}
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Cost == (Cost{}) {
		o.Cost = defaultCost()
	}
	d := &Directory{o: o, cache: lru.New[string, *known](o.Config.CacheAddresses)}
	d.hashes.slots = make(chan struct{}, runtime.GOMAXPROCS(0))
	d.memory.init(o.Config.Remembered)
	d.guesses.clock, d.guesses.logger = o.Clock, o.Logger
	d.guesses.trusted, d.guesses.proofs = o.Config.Trusted, o.Config.Remembered
	d.guesses.init()
	// Nothing matches the decoy: its hash is chance.
	d.decoy = &Credential{cost: o.Cost, salt: random(saltSize), hash: random(hashSize)}
	return d, nil
}

// Lookup returns the account of an address, compared without case, or ErrUnknown.
func (d *Directory) Lookup(ctx context.Context, address string) (Account, error) {
	k, err := d.find(ctx, address)
	if err != nil {
		return Account{}, err
	}
	return k.account, nil
}

func (d *Directory) find(ctx context.Context, address string) (*known, error) {
	name, err := Canonical(address)
	if err != nil {
		return nil, ErrUnknown // what cannot be an address has no account
	}
	d.mu.Lock()
	k, ok := d.cache.Get(name)
	gen := d.gen
	d.mu.Unlock()
	if !ok {
		if k, err = d.read(ctx, name); err != nil {
			return nil, fmt.Errorf("look up account %.100q: %w", address, err)
		}
		d.mu.Lock()
		if d.gen == gen {
			d.cache.Put(name, k)
		}
		d.mu.Unlock()
	}
	if k.absent {
		return nil, ErrUnknown
	}
	return k, nil
}

// read reads an account from the engine.
func (d *Directory) read(ctx context.Context, name string) (*known, error) {
	value, err := d.o.Engine.Get(ctx, []byte(prefixAddress+name))
	if errors.Is(err, kv.ErrNotFound) {
		return &known{absent: true}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(value) != id.Size {
		return nil, codec.ErrDamaged
	}
	a, err := d.byID(ctx, id.ID(value))
	if err != nil {
		return nil, err
	}
	k := &known{account: a}
	value, err = d.o.Engine.Get(ctx, accountKey(a.ID, kindCred, ""))
	switch {
	case err == nil:
		k.cred, err = decodeCredential(value)
	case errors.Is(err, kv.ErrNotFound):
		err = nil // an account without a password
	}
	return k, err
}

// ByID returns an account, or an error that wraps kv.ErrNotFound.
func (d *Directory) ByID(ctx context.Context, a id.ID) (Account, error) { return d.byID(ctx, a) }

func (d *Directory) byID(ctx context.Context, a id.ID) (Account, error) {
	value, err := d.o.Engine.Get(ctx, RecordKey(a))
	if err != nil {
		return Account{}, fmt.Errorf("account %s: %w", a, err)
	}
	return DecodeRecord(a, value)
}

// List visits all accounts in the order of their addresses until visit returns false or an error.
func (d *Directory) List(ctx context.Context, visit func(Account) (more bool, err error)) error {
	err := d.o.Engine.Scan(ctx, []byte(prefixAddress), []byte(prefixAddress+"\xff"), false, func(_, value []byte) (bool, error) {
		if len(value) != id.Size {
			return false, codec.ErrDamaged
		}
		a, err := d.byID(ctx, id.ID(value))
		if err != nil {
			return false, err
		}
		return visit(a)
	})
	if err != nil {
		return fmt.Errorf("list accounts: %w", err)
	}
	return nil
}

// Put adds the keys of a new account to b. The caller holds the lock of "system" and found that the address is free.
func (d *Directory) Put(b *kv.Batch, a Account, cred *Credential) error {
	if err := checkNew(a.Address); err != nil {
		return err
	}
	name, err := Canonical(a.Address)
	if err != nil {
		return err
	}
	b.Set([]byte(prefixAddress+name), a.ID[:])
	b.Set(RecordKey(a.ID), appendRecord(nil, &a))
	b.Set(accountKey(a.ID, kindCred, ""), cred.append(nil))
	return nil
}

// Delete adds the removal of an account's keys to b. The caller holds the locks of "system" and of the account.
func (d *Directory) Delete(b *kv.Batch, a Account) error {
	name, err := Canonical(a.Address)
	if err != nil {
		return err
	}
	b.Delete([]byte(prefixAddress + name))
	b.Delete(RecordKey(a.ID))
	lower := accountKey(a.ID, kindCred, "")
	b.DeleteRange(lower, accountKey(a.ID, kindCred+1, ""))
	return nil
}

// Forget drops what is cached of an address; call it after a batch of Put or Delete, whether it succeeded or not.
func (d *Directory) Forget(address string) {
	name, err := Canonical(address)
	if err != nil {
		return
	}
	d.mu.Lock()
	d.gen++
	d.cache.Delete(name)
	d.mu.Unlock()
}

// SetPassword replaces the password, durable when it returns. Remembered logins are worthless from then on.
func (d *Directory) SetPassword(ctx context.Context, address, password string) error {
	cred, err := d.NewCredential(ctx, password)
	if err != nil {
		return fmt.Errorf("set the password of %q: %w", address, err)
	}
	err = d.change(ctx, address, func(k *known, b *kv.Batch) {
		if k.cred != nil {
			cred.Serial = k.cred.Serial + 1
		}
		b.Set(accountKey(k.account.ID, kindCred, ""), cred.append(nil))
	})
	if err != nil {
		return fmt.Errorf("set the password of %q: %w", address, err)
	}
	return nil
}

// SetQuota replaces the quota (octets; 0: none), durable when it returns.
func (d *Directory) SetQuota(ctx context.Context, address string, quota int64) error {
	err := d.change(ctx, address, func(k *known, b *kv.Batch) {
		a := k.account
		a.Quota = max(quota, 0)
		b.Set(RecordKey(a.ID), appendRecord(nil, &a))
	})
	if err != nil {
		return fmt.Errorf("set the quota of %q: %w", address, err)
	}
	return nil
}

// SetSendAs replaces the further addresses that an account may send from, durable when it returns.
func (d *Directory) SetSendAs(ctx context.Context, address string, sendAs []string) error {
	if len(sendAs) > maxSendAs {
		return fmt.Errorf("set the senders of %q: at most %d addresses", address, maxSendAs)
	}
	err := d.change(ctx, address, func(k *known, b *kv.Batch) {
		a := k.account
		a.SendAs = sendAs
		b.Set(RecordKey(a.ID), appendRecord(nil, &a))
	})
	if err != nil {
		return fmt.Errorf("set the senders of %q: %w", address, err)
	}
	return nil
}

// change changes an account's keys under its lock.
func (d *Directory) change(ctx context.Context, address string, fill func(*known, *kv.Batch)) error {
	a, err := d.Lookup(ctx, address)
	if err != nil {
		return err
	}
	unlock, err := d.o.Lock(ctx, a.ID)
	if err != nil {
		return err
	}
	pos, err := func() (kv.Pos, error) {
		defer unlock()
		name, err := Canonical(address)
		if err != nil {
			return 0, err
		}
		k, err := d.read(ctx, name) // again, under the lock
		if err != nil {
			return 0, err
		}
		if k.absent || k.account.ID != a.ID {
			return 0, ErrUnknown
		}
		var b kv.Batch
		fill(k, &b)
		pos, err := d.o.Engine.Apply(ctx, &b)
		d.Forget(address)
		return pos, err
	}()
	if err != nil {
		return err
	}
	return d.o.Engine.WaitDurable(ctx, pos)
}
