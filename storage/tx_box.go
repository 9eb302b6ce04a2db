package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// specialNames are the names of mailboxes that EnsureUse and CreateAccount make.
func specialName(use SpecialUse) string {
	switch use {
	case UseSent:
		return "Sent"
	case UseDrafts:
		return "Drafts"
	case UseJunk:
		return "Junk"
	case UseTrash:
		return "Trash"
	case UseArchive:
		return "Archive"
	}
	return ""
}

// Mailboxes returns all mailboxes by name, INBOX first.
func (tx *Tx) Mailboxes() []Mailbox {
	var out []Mailbox
	for _, b := range tx.all() {
		out = append(out, b.mailbox(tx.subscribed()))
	}
	sortMailboxes(out)
	return out
}

// all returns every mailbox as this update sees it.
func (tx *Tx) all() []*box {
	var out []*box
	for _, b := range tx.base.boxes {
		if b = tx.peek(b.ID); b != nil {
			out = append(out, b)
		}
	}
	for _, d := range tx.dirty {
		if d.fresh && !d.gone {
			out = append(out, &d.box)
		}
	}
	return out
}

func (tx *Tx) nameMap() map[string]MailboxID {
	if tx.names != nil {
		return tx.names
	}
	return tx.base.names
}

// rename returns the names for changing.
func (tx *Tx) changeNames() map[string]MailboxID {
	if tx.names == nil {
		tx.names = maps.Clone(tx.base.names)
	}
	return tx.names
}

func (tx *Tx) subscribed() []string {
	if tx.subsNew {
		return tx.subs
	}
	return tx.base.subs
}

// Mailbox returns the mailbox called name (INBOX in any case), or ErrNoMailbox.
func (tx *Tx) Mailbox(name string) (Mailbox, error) {
	if id, ok := tx.nameMap()[name]; ok { // spares the common case the cleaning
		return tx.MailboxByID(id)
	}
	n, err := CleanName(name)
	if err != nil {
		return Mailbox{}, err
	}
	return tx.MailboxByID(tx.nameMap()[n])
}

// MailboxByID returns a mailbox, or ErrNoMailbox.
func (tx *Tx) MailboxByID(id MailboxID) (Mailbox, error) {
	if b := tx.peek(id); b != nil {
		return b.mailbox(tx.subscribed()), nil
	}
	return Mailbox{}, ErrNoMailbox
}

// EnsureUse returns the mailbox with a special use and makes it when there is none: delivery into Junk relies on it.
func (tx *Tx) EnsureUse(use SpecialUse) (Mailbox, error) {
	name := specialName(use)
	if name == "" {
		return Mailbox{}, fmt.Errorf("special use %d: %w", use, ErrNoMailbox)
	}
	for _, b := range tx.all() {
		if b.Use == use {
			return b.mailbox(tx.subscribed()), nil
		}
	}
	if id, ok := tx.nameMap()[name]; ok { // somebody made it under the usual name: it gets the use
		d, err := tx.box(id)
		if err != nil {
			return Mailbox{}, err
		}
		if d.Use == 0 {
			d.Use, d.static = use, true
			tx.touch(d)
		}
		return d.mailbox(tx.subscribed()), nil
	}
	return tx.CreateMailbox(name, use)
}

// CreateMailbox makes a mailbox and those above it that do not exist (RFC 9051 section 6.3.4). A special use that another
// mailbox has is refused.
func (tx *Tx) CreateMailbox(name string, use SpecialUse) (Mailbox, error) {
	n, err := CleanName(name)
	if err != nil {
		return Mailbox{}, err
	}
	if use != 0 {
		if specialName(use) == "" {
			return Mailbox{}, fmt.Errorf("create mailbox %q: unknown special use %d", n, use)
		}
		for _, b := range tx.all() {
			if b.Use == use {
				return Mailbox{}, fmt.Errorf("create mailbox %q: mailbox %q has this special use: %w", n, b.Name, ErrMailboxExists)
			}
		}
	}
	if _, ok := tx.nameMap()[n]; ok {
		return Mailbox{}, fmt.Errorf("create mailbox %q: %w", n, ErrMailboxExists)
	}
	if err := tx.createAbove(n); err != nil {
		return Mailbox{}, err
	}
	d, err := tx.create(n, use)
	if err != nil {
		return Mailbox{}, err
	}
	return d.mailbox(tx.subscribed()), nil
}

// createAbove makes the mailboxes above name that do not exist.
func (tx *Tx) createAbove(name string) error {
	up := above(name)
	if up == "" {
		return nil
	}
	if _, ok := tx.nameMap()[up]; ok {
		return nil
	}
	if err := tx.createAbove(up); err != nil {
		return err
	}
	_, err := tx.create(up, 0)
	return err
}

// create makes one mailbox with a UIDVALIDITY that is larger than every one before in this account: the time, unless
// mailboxes were made faster than one a second (RFC 9051 section 2.3.1.1).
func (tx *Tx) create(name string, use SpecialUse) (*dirtyBox, error) {
	if len(tx.nameMap()) >= tx.s.o.Config.MaxMailboxes {
		return nil, fmt.Errorf("create mailbox %q: %w", name, ErrTooManyBoxes)
	}
	validity := max(tx.now.Unix(), int64(tx.nums.uidValidity)+1)
	if validity >= 1<<32 || tx.nums.nextBox == 0 {
		return nil, errors.New("create mailbox: there is no UIDVALIDITY left")
	}
	d := &dirtyBox{fresh: true}
	d.Mailbox = Mailbox{
		ID: tx.nums.nextBox, Name: name, Use: use, UIDValidity: uint32(validity), UIDNext: 1,
		Created: tx.now.UTC().Truncate(1e9),
	}
	tx.nums.nextBox++
	tx.nums.uidValidity = uint32(validity)
	tx.numsNew = true
	d.HighestModSeq = tx.touch(d)
	d.ExpungeFloor = tx.seq // nothing was expunged before the mailbox was made
	tx.changeNames()[name] = d.ID
	tx.dirty = append(tx.dirty, d)
	return d, nil
}

// RenameMailbox gives a mailbox and those below it a new name. Renaming INBOX gives its messages to a mailbox with the new
// name and leaves an empty INBOX with a new UIDVALIDITY; what is below INBOX stays (RFC 9051 section 6.3.6).
func (tx *Tx) RenameMailbox(from, to string) error {
	from, err := CleanName(from)
	if err != nil {
		return err
	}
	if to, err = CleanName(to); err != nil {
		return err
	}
	id, ok := tx.nameMap()[from]
	if !ok {
		return fmt.Errorf("rename mailbox %q: %w", from, ErrNoMailbox)
	}
	if _, taken := tx.nameMap()[to]; taken {
		return fmt.Errorf("rename mailbox %q to %q: %w", from, to, ErrMailboxExists)
	}
	if below(to, from) && from != inbox {
		return fmt.Errorf("rename mailbox %q below itself: %w", from, ErrMailboxName)
	}
	if err := tx.createAbove(to); err != nil {
		return err
	}
	if from == inbox {
		if err := tx.giveName(id, to); err != nil {
			return err
		}
		_, err := tx.create(inbox, 0)
		return err
	}
	moves := map[MailboxID]string{id: to}
	for name, child := range tx.nameMap() {
		if !below(name, from) {
			continue
		}
		moved, err := CleanName(to + name[len(from):])
		if err != nil {
			return err
		}
		if _, taken := tx.nameMap()[moved]; taken {
			return fmt.Errorf("rename mailbox %q to %q: %w", name, moved, ErrMailboxExists)
		}
		moves[child] = moved
	}
	for _, id := range slices.Sorted(maps.Keys(moves)) {
		if err := tx.giveName(id, moves[id]); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) giveName(id MailboxID, name string) error {
	d, err := tx.box(id)
	if err != nil {
		return err
	}
	names := tx.changeNames()
	if names[d.Name] == id {
		delete(names, d.Name)
	}
	names[name] = id
	d.Name, d.static = name, true
	tx.touch(d)
	return nil
}

// DeleteMailbox removes a mailbox with its messages; mailboxes below it and its subscription stay (RFC 9051 section
// 6.3.5). The messages count no more at once, and their records go in the background.
func (tx *Tx) DeleteMailbox(name string) error {
	n, err := CleanName(name)
	if err != nil {
		return err
	}
	if n == inbox {
		return fmt.Errorf("delete mailbox: %w", ErrInbox)
	}
	id, ok := tx.nameMap()[n]
	if !ok {
		return fmt.Errorf("delete mailbox %q: %w", n, ErrNoMailbox)
	}
	d, err := tx.box(id)
	if err != nil {
		return err
	}
	tx.touch(d)
	d.gone = true
	delete(tx.changeNames(), n)
	tx.nums.seqFloor, tx.numsNew = tx.seq, true
	tx.batch.Delete(appendBoxKey(nil, tx.id, kindBox, id))
	tx.batch.Delete(appendBoxKey(nil, tx.id, kindState, id))
	tx.batch.Set(appendPurgeKey(nil, tx.id, id), nil)
	tx.purge = true
	return nil
}

// Subscribe adds or removes a subscription; the mailbox need not exist (RFC 9051 section 6.3.7).
func (tx *Tx) Subscribe(name string, on bool) error {
	n, err := CleanName(name)
	if err != nil {
		return err
	}
	subs := tx.subscribed()
	at, have := slices.BinarySearch(subs, n)
	if have == on {
		return nil
	}
	key := append(appendAccountKey(nil, tx.id, kindSub), n...)
	if on {
		if len(subs) >= 2*tx.s.o.Config.MaxMailboxes {
			return fmt.Errorf("subscribe to %q: %w", n, ErrTooManyBoxes)
		}
		tx.batch.Set(key, nil)
		tx.subs = slices.Insert(slices.Clone(subs), at, strings.Clone(n))
	} else {
		tx.batch.Delete(key)
		tx.subs = slices.Delete(slices.Clone(subs), at, at+1)
	}
	tx.subsNew = true
	return nil
}
