package deliver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// Mailbox delivers into local mailboxes.
type Mailbox struct {
	Store *storage.Store
	Now   func() time.Time
}

// Deliver moves a message from the queue into its mailbox.
func (d *Mailbox) Deliver(ctx context.Context, a *pipeline.Attempt) (pipeline.Outcome, bool, error) {
	o := pipeline.Outcome{Start: d.Now()}
	_, err := d.Store.Update(ctx, a.Hop.Account, func(tx *storage.Tx) error {
		box, err := destination(tx, a.Hop.Junk)
		if err != nil {
			return err
		}
		uid, err := tx.Deliver(box.ID, storage.Delivery{
			Info: a.Content, Front: front(a), InternalDate: a.Received, Use: a.Use,
		})
		if err != nil {
			return err
		}
		o.Kind, o.Text = pipeline.Delivered, fmt.Sprintf("%s, %s, UID %d", a.Hop.Address, box.Name, uid)
		a.Settle(tx.Batch(), o)
		return nil
	})
	switch {
	case err == nil:
		return o, true, nil
	case errors.Is(err, storage.ErrUnknownAccount):
		o.Kind, o.Text = pipeline.Gone, "the account of "+a.Hop.Address+" went away"
		return o, false, nil
	}
	return o, false, fmt.Errorf("deliver %s to %s: %w", a.ID, a.Hop.Address, err)
}

func destination(tx *storage.Tx, junk bool) (storage.Mailbox, error) {
	if junk {
		return tx.EnsureUse(storage.UseJunk)
	}
	return tx.Mailbox("INBOX")
}

// front returns the fields that depend on the envelope: Return-Path (RFC 5321
// section 4.4) and Delivered-To.
func front(a *pipeline.Attempt) []byte {
	var b strings.Builder
	b.Grow(len(a.Sender) + len(a.Hop.Address) + 40)
	b.WriteString("Return-Path: <")
	b.WriteString(a.Sender)
	b.WriteString(">\r\nDelivered-To: ")
	b.WriteString(a.Hop.Address)
	b.WriteString("\r\n")
	return []byte(b.String())
}
