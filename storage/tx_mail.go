package storage

import (
	"fmt"
	"time"
)

// Delivery is a message that comes into a mailbox. Its content was prepared by Store.Prepare, and is either in the store
// already, held by a use of the caller, or goes there in the same batch (Prepared.Put).
type Delivery struct {
	Info         ContentInfo
	Front        []byte    // fields in front of the variant, each ending in CRLF: Return-Path, Delivered-To
	InternalDate time.Time // zero: now
	Flags        Flags
	Use          string // the caller's use of the content, if it ends with this batch, else ""
}

// Deliver puts a message into a mailbox whatever the quota says: after the 250 delivery does not fail for quota (RULES
// A7). It reads the engine only for the thread.
func (tx *Tx) Deliver(mailbox MailboxID, d Delivery) (UID, error) {
	box, err := tx.box(mailbox)
	if err != nil {
		return 0, fmt.Errorf("deliver: %w", err)
	}
	uid, err := tx.insert(box, &d)
	if err != nil {
		return 0, fmt.Errorf("deliver to mailbox %d: %w", mailbox, err)
	}
	if d.Use != "" {
		// The message's use was added above, so that the content needs no look from the collector.
		tx.batch.Delete(tx.build(func(b []byte) []byte { return appendRefKey(b, d.Info.ID, d.Use) }))
	}
	return uid, nil
}

// Append is Deliver for a client: what would exceed the quota fails with ErrOverQuota, and what goes into Junk teaches.
func (tx *Tx) Append(mailbox MailboxID, d Delivery) (UID, error) {
	if err := tx.room(d.Info.Size + int64(len(d.Front))); err != nil {
		return 0, err
	}
	uid, err := tx.Deliver(mailbox, d)
	if err == nil && tx.peek(mailbox).Use == UseJunk {
		tx.teach(LessonSpam, contentOf{d.Info.ID, uint8(d.Info.Variant), d.Info.Size})
	}
	return uid, err
}

// room checks the quota for size more octets.
func (tx *Tx) room(size int64) error {
	if tx.base.limit == 0 {
		return nil
	}
	used := tx.base.used
	for _, d := range tx.dirty {
		if old := tx.base.find(d.ID); old != nil {
			used -= old.Size
		}
		if !d.gone {
			used += d.Size
		}
	}
	if used+size > tx.base.limit {
		return fmt.Errorf("%d octets more than %d of %d: %w", size, used, tx.base.limit, ErrOverQuota)
	}
	return nil
}

// insert makes the record of a new message.
func (tx *Tx) insert(box *dirtyBox, d *Delivery) (UID, error) {
	if len(d.Front) > maxFrontSize {
		return 0, fmt.Errorf("%d octets in front: %w", len(d.Front), ErrTooLarge)
	}
	keywords, grew, err := box.keywordIndices(d.Flags.Keywords, true)
	if err != nil {
		return 0, err
	}
	box.static = box.static || grew
	r := record{
		system: d.Flags.System & systemFlags, keywords: keywords, internal: d.InternalDate,
		size: d.Info.Size + int64(len(d.Front)), content: d.Info.ID, variant: uint8(d.Info.Variant),
		instance: tx.s.ids.New(tx.now), front: d.Front,
	}
	if r.internal.IsZero() {
		r.internal = tx.now
	}
	if r.thread, err = tx.thread(&d.Info, r.instance); err != nil {
		return 0, err
	}
	return tx.place(box, &r)
}

// place gives r the next UID of box and writes it.
func (tx *Tx) place(box *dirtyBox, r *record) (UID, error) {
	uid := box.UIDNext
	if uid == ^UID(0) {
		return 0, ErrTooManyMail
	}
	box.UIDNext++
	r.seq, r.saved = tx.touch(box), tx.now.Unix()
	tx.put(box.ID, uid, r)
	start := len(tx.arena)
	tx.arena = appendRefKey(tx.arena, r.content, "")
	tx.arena = appendMessageUse(tx.arena, tx.id, box.ID, uid)
	tx.batch.Set(tx.arena[start:len(tx.arena):len(tx.arena)], nil)
	box.count(r, 1)
	box.added = append(box.added, uid)
	return uid, nil
}

// put writes a message's record.
func (tx *Tx) put(box MailboxID, uid UID, r *record) {
	start := len(tx.arena)
	tx.arena = appendMessageKey(tx.arena, tx.id, box, uid)
	mid := len(tx.arena)
	tx.arena = r.appendTo(tx.arena)
	a := tx.arena
	tx.batch.Set(a[start:mid:mid], a[mid:len(a):len(a)])
}

const systemFlags = Seen | Answered | Flagged | Deleted | Draft

// Message returns one message as this update sees it, or ErrNoMessage.
func (tx *Tx) Message(mailbox MailboxID, uid UID) (*Message, error) {
	b := tx.peek(mailbox)
	if b == nil {
		return nil, ErrNoMailbox
	}
	value, err := tx.get(appendMessageKey(nil, tx.id, mailbox, uid))
	return decodeMessage(value, err, b, uid)
}

// maxItems bounds the messages that one call of an update works on; callers go in steps of a few thousand (the batch has a
// limit, too).
const maxItems = 100_000

// item is a message that an update works on.
type item struct {
	uid UID
	record
}

// items reads the messages among uids that exist (nil: all of the mailbox), before anything is changed.
func (tx *Tx) items(b *box, uids []UID) ([]item, error) {
	var out []item
	first, last := UID(1), ^UID(0)
	if uids != nil {
		if len(uids) == 0 {
			return nil, nil
		}
		first, last = uids[0], uids[len(uids)-1]
	}
	if uids != nil && (len(uids) <= 4 || uint64(last-first) > 16*uint64(len(uids))) {
		return tx.itemsByKey(b, uids)
	}
	tx.look()
	add := func(uid UID, value []byte) error {
		if len(out) >= maxItems {
			return ErrTooLarge
		}
		it := item{uid: uid}
		if err := decodeRecord(value, &it.record); err != nil {
			return fmt.Errorf("read UID %d: %w", uid, err)
		}
		out = append(out, it)
		return nil
	}
	lower := appendMessageKey(nil, tx.id, b.ID, first)
	upper := append(appendMessageKey(nil, tx.id, b.ID, last), 0)
	wanted := uids
	want := func(uid UID) bool {
		if uids == nil {
			return true
		}
		for len(wanted) > 0 && wanted[0] < uid {
			wanted = wanted[1:]
		}
		return len(wanted) > 0 && wanted[0] == uid
	}
	err := tx.s.engine.Scan(tx.ctx, lower, upper, false, func(key, value []byte) (bool, error) {
		if _, changed := tx.overlay[string(key)]; changed || !want(tailUID(key)) {
			return true, nil
		}
		return true, add(tailUID(key), append([]byte(nil), value...))
	})
	if err != nil {
		return nil, fmt.Errorf("read messages of mailbox %d: %w", b.ID, err)
	}
	return tx.itemsOfUpdate(b, uids, out)
}

// itemsByKey reads messages one by one.
func (tx *Tx) itemsByKey(b *box, uids []UID) ([]item, error) {
	out := make([]item, 0, len(uids))
	var key []byte
	for _, uid := range uids {
		key = appendMessageKey(key[:0], tx.id, b.ID, uid)
		value, err := tx.get(key)
		if err != nil {
			return nil, fmt.Errorf("read UID %d: %w", uid, err)
		}
		if value == nil {
			continue
		}
		it := item{uid: uid}
		if err := decodeRecord(value, &it.record); err != nil {
			return nil, fmt.Errorf("read UID %d: %w", uid, err)
		}
		out = append(out, it)
	}
	return out, nil
}
