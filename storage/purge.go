package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
)

func isNotFound(err error) bool { return errors.Is(err, kv.ErrNotFound) }

const (
	purgeRound = 1000                   // messages in one batch of the purger
	purgeRetry = 100 * time.Millisecond // the first wait after an error; it doubles up to a minute
)

// kickPurger tells the purger that there is work.
func (s *Store) kickPurger() {
	select {
	case s.purges <- struct{}{}:
	default:
	}
}

// runPurger removes the messages of deleted mailboxes and accounts until ctx ends: at the start what a former process left,
// then whenever something was deleted.
func (s *Store) runPurger(ctx context.Context) {
	retry, wait := time.NewTimer(0), purgeRetry
	defer retry.Stop()
	for {
		select {
		case <-s.purges:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		if err := s.purgeAll(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("store: remove the messages of deleted mailboxes", "err", err, "again in", wait)
			retry.Reset(wait)
			wait = min(2*wait, time.Minute)
		} else {
			wait = purgeRetry
		}
	}
}

func (s *Store) purgeAll(ctx context.Context) error {
	end := prefixEnd([]byte(keyPurge))
	for lower := []byte(keyPurge); ; {
		var next []byte
		err := s.engine.Scan(ctx, lower, end, false, func(key, _ []byte) (bool, error) {
			next = append([]byte(nil), key...)
			return false, nil
		})
		if err != nil || next == nil {
			return err
		}
		if err := s.purge(ctx, next); errors.Is(err, codec.ErrDamaged) {
			s.log.Error("store: the remover of mail passes over a key", "key", next, "err", err)
		} else if err != nil {
			return err
		}
		lower = append(next, 0)
	}
}

// purge does all the work that one key asks for: of a mailbox, or of an account if it names none.
func (s *Store) purge(ctx context.Context, key []byte) error {
	tail := key[len(keyPurge):]
	if len(tail) != id.Size && len(tail) != id.Size+4 {
		return fmt.Errorf("key %q: %w", key, codec.ErrDamaged)
	}
	var a AccountID
	copy(a[:], tail)
	if len(tail) == id.Size {
		all := appendAccountKey(nil, a, 0)[:len(ownerAccount)+id.Size]
		return s.purgeMessages(ctx, a, appendAccountKey(nil, a, kindMessage), [][]byte{all}, key)
	}
	box := MailboxID(tailUID(key))
	messages := appendBoxKey(nil, a, kindMessage, box)
	return s.purgeMessages(ctx, a, messages, [][]byte{messages, appendBoxKey(nil, a, kindExpunge, box)}, key)
}

// purgeMessages drops the uses of all messages under messages, batch by batch, and at last removes the ranges and key.
func (s *Store) purgeMessages(ctx context.Context, a AccountID, messages []byte, ranges [][]byte, key []byte) error {
	e := s.cache.acquire(a)
	defer s.cache.release(e)
	lower := messages
	for {
		more, err := s.purgeBatch(ctx, e, &lower, messages, ranges, key)
		if err != nil {
			return fmt.Errorf("remove mail of account %s: %w", a, err)
		}
		if !more {
			return nil
		}
	}
}

func (s *Store) purgeBatch(ctx context.Context, e *entry, lower *[]byte, messages []byte, ranges [][]byte, key []byte) (more bool, err error) {
	if err := e.take(ctx); err != nil {
		return false, err
	}
	defer e.give()
	var b kv.Batch
	n := 0
	now := s.clock()
	err = s.engine.Scan(ctx, *lower, prefixEnd(messages), false, func(k, value []byte) (bool, error) {
		if n++; n > purgeRound {
			more = true
			return false, nil
		}
		var r record
		if err := decodeRecord(value, &r); err != nil {
			s.log.Error("store: a message that cannot be read goes; store verify finds its content", "key", k, "err", err)
		} else {
			b.Delete(appendMessageUse(appendRefKey(nil, r.content, ""), e.id, boxOf(k), tailUID(k)))
			b.Set(appendGCKey(nil, r.content, s.ids.New(now)), nil)
		}
		b.Delete(append([]byte(nil), k...))
		*lower = append(append([]byte(nil), k...), 0)
		return true, nil
	})
	if err != nil {
		return false, err
	}
	if !more {
		for _, r := range ranges {
			b.DeleteRange(r, prefixEnd(r))
		}
		b.Delete(key)
	}
	_, err = s.engine.Apply(ctx, &b)
	return more, err
}
