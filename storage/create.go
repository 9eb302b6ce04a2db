package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// AccountOptions are the choices at the making of an account.
type AccountOptions struct {
	Quota int64 // octets; 0: none
}

// CreateAccount makes an account with INBOX, Sent, Drafts, Junk, Trash and Archive, durable when it returns. It fails with
// account.ErrExists, ErrAddress or ErrPassword. Whoever had the address before leaves nothing to the new owner: the
// account's ID and all UIDVALIDITYs are new.
func (s *Store) CreateAccount(ctx context.Context, address, password string, o AccountOptions) (account.Account, error) {
	acct := account.Account{Address: address, Created: s.clock().UTC().Truncate(time.Second), Quota: max(o.Quota, 0)}
	fail := func(err error) (account.Account, error) {
		return account.Account{}, fmt.Errorf("create account %q: %w", address, err)
	}
	cred, err := s.dir.NewCredential(ctx, password)
	if err != nil {
		return fail(err)
	}
	unlock, err := s.lockSystem(ctx)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if _, err := s.dir.Lookup(ctx, address); err == nil {
		return fail(account.ErrExists)
	} else if !errors.Is(err, account.ErrUnknown) {
		return fail(err)
	}
	last, err := s.lastUIDValidity(ctx)
	if err != nil {
		return fail(err)
	}
	acct.ID = s.NewID()
	first := &accountState{names: map[string]MailboxID{}, limit: acct.Quota, cost: 400}
	first.nums = numbers{nextBox: 1, uidValidity: last}
	pos, err := s.update(ctx, acct.ID, first, func(tx *Tx) error {
		if err := s.dir.Put(&tx.batch, acct, cred); err != nil {
			return err
		}
		if err := tx.createSpecial(); err != nil {
			return err
		}
		tx.batch.Set([]byte(keyUIDValidity), binary.AppendUvarint(nil, uint64(tx.nums.uidValidity)))
		return nil
	})
	s.dir.Forget(address)
	if err == nil {
		err = s.WaitDurable(ctx, pos)
	}
	if err != nil {
		return fail(err)
	}
	return acct, nil
}

// createSpecial makes the mailboxes that every account begins with, and subscribes to them.
func (tx *Tx) createSpecial() error {
	for _, use := range []SpecialUse{0, UseSent, UseDrafts, UseJunk, UseTrash, UseArchive} {
		name := specialName(use)
		if use == 0 {
			name = inbox
		}
		if _, err := tx.CreateMailbox(name, use); err != nil {
			return err
		}
		if err := tx.Subscribe(name, true); err != nil {
			return err
		}
	}
	return nil
}

// lastUIDValidity is the highest UIDVALIDITY that an account which is gone may have had, or a new one was given.
func (s *Store) lastUIDValidity(ctx context.Context) (uint32, error) {
	v, err := s.engine.Get(ctx, []byte(keyUIDValidity))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, size := binary.Uvarint(v)
	if size <= 0 || n >= 1<<32 {
		return 0, fmt.Errorf("read the last UIDVALIDITY: %w", codec.ErrDamaged)
	}
	return uint32(n), nil
}

// RemoveAccount removes an account, durable when it returns; the records of its mail go in the background. Without
// deleteMail an account that has mail is refused with ErrAccountHasMail (RULES D5).
func (s *Store) RemoveAccount(ctx context.Context, address string, deleteMail bool) error {
	unlock, err := s.lockSystem(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	acct, err := s.dir.Lookup(ctx, address)
	if err != nil {
		return fmt.Errorf("remove account: %w", err)
	}
	last, err := s.lastUIDValidity(ctx)
	if err != nil {
		return fmt.Errorf("remove account %s: %w", acct.Address, err)
	}
	pos, err := s.removeAccount(ctx, acct, deleteMail, last)
	s.dir.Forget(address)
	if err == nil {
		err = s.WaitDurable(ctx, pos)
	}
	if err != nil {
		return fmt.Errorf("remove account %s: %w", acct.Address, err)
	}
	s.kickPurger()
	return nil
}

// removeAccount applies the batch that takes the account away. The messages' records stay for the purger, which needs them
// to drop their uses.
func (s *Store) removeAccount(ctx context.Context, acct account.Account, deleteMail bool, last uint32) (kv.Pos, error) {
	e := s.cache.acquire(acct.ID)
	defer s.cache.release(e)
	if err := e.take(ctx); err != nil {
		return 0, err
	}
	defer e.give()
	st, err := s.state(ctx, e)
	if err != nil {
		return 0, err
	}
	if st.count > 0 && !deleteMail {
		return 0, fmt.Errorf("%d messages: %w", st.count, ErrAccountHasMail)
	}
	var b kv.Batch
	if err := s.dir.Delete(&b, acct); err != nil {
		return 0, err
	}
	for _, kind := range []byte{kindBox, kindState, kindSub, kindThread, kindExpunge, kindNumbers} {
		lower := appendAccountKey(nil, acct.ID, kind)
		b.DeleteRange(lower, prefixEnd(lower))
	}
	b.Set(appendPurgeKey(nil, acct.ID, 0), nil)
	b.Set([]byte(keyUIDValidity), binary.AppendUvarint(nil, uint64(max(last, st.nums.uidValidity))))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = nil
	pos, err := s.engine.Apply(ctx, &b)
	if err == nil && len(e.watchers) > 0 && !e.pending {
		e.pending = true
		s.tail.tell(e)
	}
	return pos, err
}
