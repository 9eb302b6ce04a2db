package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
)

// state returns the account's state, reading it if it is not in memory. The account's lock is held.
func (s *Store) state(ctx context.Context, e *entry) (*accountState, error) {
	e.mu.Lock()
	st := e.state
	e.mu.Unlock()
	if st != nil {
		return st, nil
	}
	st, err := readAccount(ctx, s.engine, e.id)
	if err != nil {
		return nil, fmt.Errorf("read account %s: %w", e.id, err)
	}
	e.mu.Lock()
	e.state, e.pos = st, max(e.pos, s.engine.Tail())
	e.mu.Unlock()
	return st, nil
}

// readAccount reads an account's state, or ErrUnknownAccount.
func readAccount(ctx context.Context, r kv.Reader, a AccountID) (*accountState, error) {
	value, err := r.Get(ctx, account.RecordKey(a))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, ErrUnknownAccount
	}
	if err != nil {
		return nil, err
	}
	rec, err := account.DecodeRecord(a, value)
	if err != nil {
		return nil, err
	}
	st := &accountState{names: map[string]MailboxID{}, limit: rec.Quota, cost: 400}
	st.nums.nextBox = 1
	value, err = r.Get(ctx, appendAccountKey(nil, a, kindNumbers))
	if err == nil {
		err = st.nums.decode(value)
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return nil, err
	}
	if err := st.readBoxes(ctx, r, a); err != nil {
		return nil, err
	}
	prefix := appendAccountKey(nil, a, kindSub)
	err = r.Scan(ctx, prefix, prefixEnd(prefix), false, func(key, _ []byte) (bool, error) {
		st.subs = append(st.subs, string(key[len(prefix):]))
		st.cost += int64(len(key))
		return true, nil
	})
	return st, err
}

// readBoxes reads the mailboxes and their counters.
func (st *accountState) readBoxes(ctx context.Context, r kv.Reader, a AccountID) error {
	prefix := appendAccountKey(nil, a, kindBox)
	err := r.Scan(ctx, prefix, prefixEnd(prefix), false, func(key, value []byte) (bool, error) {
		b := &box{}
		b.ID = MailboxID(tailUID(key))
		st.boxes = append(st.boxes, b)
		return true, b.decodeStatic(value)
	})
	if err != nil {
		return err
	}
	prefix = appendAccountKey(nil, a, kindState)
	err = r.Scan(ctx, prefix, prefixEnd(prefix), false, func(key, value []byte) (bool, error) {
		b := st.find(MailboxID(tailUID(key)))
		if b == nil {
			return false, fmt.Errorf("counters of mailbox %d, which does not exist: %w", tailUID(key), codec.ErrDamaged)
		}
		return true, b.decodeState(value)
	})
	if err != nil {
		return err
	}
	st.seq = st.nums.seqFloor
	for _, b := range st.boxes {
		if b.UIDNext == 0 {
			return fmt.Errorf("mailbox %d has no counters: %w", b.ID, codec.ErrDamaged)
		}
		st.names[b.Name] = b.ID
		st.seq = max(st.seq, b.HighestModSeq)
		st.used += b.Size
		st.count += int64(b.Exists)
		st.cost += b.cost()
	}
	return nil
}

// parseMessageUse reads the use of a content by a message.
func parseMessageUse(use []byte) (a AccountID, box MailboxID, uid UID, ok bool) {
	if len(use) != useMessageSize || use[0] != useMessage {
		return a, 0, 0, false
	}
	copy(a[:], use[1:])
	box = MailboxID(binary.BigEndian.Uint32(use[1+id.Size:]))
	return a, box, tailUID(use), true
}

// mailbox returns b as callers see it.
func (b *box) mailbox(subs []string) Mailbox {
	m := b.Mailbox
	_, m.Subscribed = slices.BinarySearch(subs, b.Name)
	return m
}
