package pop3

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
)

const (
	inbox       = "INBOX"
	removeBatch = 1000 // messages removed in one change: it holds the account's lock meanwhile
)

// storeBackend is the backend over package storage.
type storeBackend struct {
	store       *storage.Store
	maxMessages int
}

func (b *storeBackend) login(ctx context.Context, user, password string, peer netip.Addr) (string, error) {
	a, err := b.store.Accounts().Verify(ctx, user, password, peer)
	switch {
	case err == nil:
		return a.ID.String(), nil
	case errors.Is(err, account.ErrCredentials):
		return "", errCredentials
	case errors.Is(err, account.ErrBlocked):
		return "", errThrottled
	}
	return "", fmt.Errorf("verify a password: %w", err)
}

func (b *storeBackend) open(ctx context.Context, owner string) (maildrop, error) {
	accountID, err := storage.ParseID(owner)
	if err != nil {
		return nil, fmt.Errorf("open the maildrop of %s: %w", owner, err)
	}
	d := &storeDrop{store: b.store, account: accountID}
	err = b.store.View(ctx, accountID, func(v *storage.View) error {
		box, err := v.Mailbox(inbox)
		if err != nil {
			return err
		}
		count := min(int(box.Exists), b.maxMessages)
		d.mailbox = box.ID
		d.uids = make([]storage.UID, 0, count)
		d.list = make([]message, 0, count)
		err = v.Messages(box.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
			if len(d.list) == b.maxMessages {
				return false, nil
			}
			d.uids = append(d.uids, m.UID)
			d.list = append(d.list, message{size: m.Size, uidl: m.UIDL()})
			return true, ctx.Err()
		})
		if err != nil {
			return err
		}
		// RULES B1: a client is told of nothing that a crash could take back.
		d.pos = v.Pos()
		return nil
	})
	if err == nil {
		err = b.store.WaitDurable(ctx, d.pos)
	}
	if err != nil {
		return nil, fmt.Errorf("open the maildrop of %s: %w", owner, err)
	}
	return d, nil
}

// storeDrop is an account's INBOX as it was at the login.
type storeDrop struct {
	store   *storage.Store
	account storage.AccountID
	mailbox storage.MailboxID
	pos     kv.Pos
	uids    []storage.UID
	list    []message
}

func (d *storeDrop) messages() []message { return d.list }

func (d *storeDrop) open(ctx context.Context, i int) (content, error) {
	var m *storage.Message
	err := d.store.View(ctx, d.account, func(v *storage.View) error {
		found, err := v.Message(d.mailbox, d.uids[i])
		if err == nil {
			m = found.Clone()
		}
		return err
	})
	if err == nil {
		var c *storage.Content
		if c, err = d.store.OpenContent(ctx, m.ContentID, m.Variant, m.Front); err == nil {
			return c, nil
		}
	}
	// RFC 1939 wants the maildrop closed to others; IMAP is not held up by that.
	if errors.Is(err, storage.ErrNoMessage) || errors.Is(err, storage.ErrNoMailbox) || errors.Is(err, storage.ErrUnknownAccount) {
		return nil, errGone
	}
	return nil, fmt.Errorf("open message %d of %s: %w", d.uids[i], d.account, err)
}

func (d *storeDrop) remove(ctx context.Context, which []int) error {
	var pos kv.Pos
	uids := make([]storage.UID, 0, min(len(which), removeBatch))
	for len(which) > 0 {
		n := min(len(which), removeBatch)
		uids = uids[:0]
		for _, i := range which[:n] {
			uids = append(uids, d.uids[i])
		}
		which = which[n:]
		var err error
		pos, err = d.store.Update(ctx, d.account, func(tx *storage.Tx) error {
			_, err := tx.Expunge(d.mailbox, uids, false)
			return err
		})
		if err != nil {
			return fmt.Errorf("expunge from %s: %w", d.account, err)
		}
	}
	// RULES I1: +OK to QUIT only when the removal is durable.
	if err := d.store.WaitDurable(ctx, pos); err != nil {
		return fmt.Errorf("expunge from %s: %w", d.account, err)
	}
	return nil
}
