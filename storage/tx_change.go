package storage

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// itemsOfUpdate adds the messages that this update wrote itself to those that were read.
func (tx *Tx) itemsOfUpdate(b *box, uids []UID, out []item) ([]item, error) {
	prefix := appendBoxKey(nil, tx.id, kindMessage, b.ID)
	added := false
	for key, value := range tx.overlay {
		if value == nil || len(key) != len(prefix)+4 || key[:len(prefix)] != string(prefix) {
			continue
		}
		uid := UID(binary.BigEndian.Uint32([]byte(key[len(prefix):])))
		if _, ok := slices.BinarySearch(uids, uid); !ok && uids != nil {
			continue
		}
		it := item{uid: uid}
		if err := decodeRecord(value, &it.record); err != nil {
			return nil, fmt.Errorf("read UID %d: %w", uid, err)
		}
		out = append(out, it)
		added = true
	}
	if added {
		slices.SortFunc(out, func(a, b item) int { return int(int64(a.uid) - int64(b.uid)) })
	}
	return out, nil
}

// FlagMode says what StoreFlags does with the flags it is given.
type FlagMode uint8

// The modes of STORE: FLAGS, +FLAGS, -FLAGS.
const (
	FlagsSet FlagMode = iota
	FlagsAdd
	FlagsRemove
)

// Always is the condition of StoreFlags that every message meets.
const Always = ^ModSeq(0)

// FlagResult says what StoreFlags did.
type FlagResult struct {
	ModSeq   ModSeq // of the messages that changed; zero if none did
	Changed  []UID  // whose flags are different now
	Modified []UID  // left alone because they changed after unchangedSince (RFC 7162 section 3.1.3)
}

// StoreFlags changes flags of messages. UIDs are ascending; those that do not exist are passed over. A message whose
// MODSEQ is above unchangedSince is left alone.
func (tx *Tx) StoreFlags(mailbox MailboxID, uids []UID, mode FlagMode, flags Flags, unchangedSince ModSeq) (FlagResult, error) {
	var res FlagResult
	box, err := tx.box(mailbox)
	if err != nil {
		return res, fmt.Errorf("store flags: %w", err)
	}
	keywords, grew, err := box.keywordIndices(flags.Keywords, mode != FlagsRemove)
	if err != nil {
		return res, fmt.Errorf("store flags: %w", err)
	}
	if uids == nil {
		uids = []UID{}
	}
	items, err := tx.items(&box.box, uids)
	if err != nil {
		return res, err
	}
	for i := range items {
		it := &items[i]
		if it.seq > unchangedSince {
			res.Modified = append(res.Modified, it.uid)
			continue
		}
		system, words := combine(mode, it.system, flags.System&systemFlags, it.keywords, keywords)
		if len(words) > maxKeywords {
			return res, fmt.Errorf("store flags: %w", ErrTooManyKeywords)
		}
		if system == it.system && slices.Equal(words, it.keywords) {
			continue
		}
		box.count(&it.record, -1)
		before := it.keywords
		it.system, it.keywords, it.seq = system, words, tx.touch(box)
		box.count(&it.record, 1)
		tx.put(box.ID, it.uid, &it.record)
		tx.teachKeywords(&box.box, it, before)
		res.Changed = append(res.Changed, it.uid)
		res.ModSeq = it.seq
	}
	box.static = box.static || grew
	box.changed = append(box.changed, res.Changed...)
	return res, nil
}

// combine returns flags after STORE.
func combine(mode FlagMode, have, give System, haveWords, giveWords []byte) (System, []byte) {
	switch mode {
	case FlagsAdd:
		words := append(slices.Clone(haveWords), giveWords...)
		slices.Sort(words)
		return have | give, slices.Compact(words)
	case FlagsRemove:
		words := slices.DeleteFunc(slices.Clone(haveWords), func(k byte) bool { return slices.Contains(giveWords, k) })
		return have &^ give, words
	}
	return give, giveWords
}

// CopyResult is what COPYUID says (RFC 4315).
type CopyResult struct {
	UIDValidity uint32 // of the destination
	Source      []UID
	Dest        []UID // in the order of Source
}

// Copy copies messages, all or none; ascending UIDs, of which those that do not exist are passed over. EMAILID, THREADID,
// flags and INTERNALDATE stay, UIDL and SAVEDATE are new. It fails with ErrOverQuota.
func (tx *Tx) Copy(from, to MailboxID, uids []UID) (CopyResult, error) {
	res, _, err := tx.transfer(from, to, uids, true)
	if err != nil {
		return CopyResult{}, fmt.Errorf("copy: %w", err)
	}
	return res, nil
}

// Move moves messages, all or none, as Copy does; UIDL stays (RULES B6). from and to may be the same mailbox: then the
// messages get new UIDs there (RFC 6851 section 3.3).
func (tx *Tx) Move(from, to MailboxID, uids []UID) (CopyResult, error) {
	res, items, err := tx.transfer(from, to, uids, false)
	if err != nil {
		return CopyResult{}, fmt.Errorf("move: %w", err)
	}
	box, err := tx.box(from)
	if err != nil {
		return CopyResult{}, fmt.Errorf("move: %w", err)
	}
	for i := range items {
		tx.drop(box, &items[i], true)
	}
	return res, nil
}

// transfer makes the copies, and returns the originals.
func (tx *Tx) transfer(from, to MailboxID, uids []UID, copied bool) (res CopyResult, items []item, err error) {
	src := tx.peek(from)
	if src == nil {
		return res, nil, ErrNoMailbox
	}
	dst, err := tx.box(to)
	if err != nil {
		return res, nil, err
	}
	if uids == nil {
		uids = []UID{}
	}
	if items, err = tx.items(src, uids); err != nil {
		return res, nil, err
	}
	res.UIDValidity = dst.UIDValidity
	if copied {
		total := int64(0)
		for i := range items {
			total += items[i].size
		}
		if err := tx.room(total); err != nil {
			return res, nil, err
		}
	}
	for i := range items {
		r := items[i].record
		if r.keywords, err = tx.translate(src, dst, r.keywords); err != nil {
			return res, nil, err
		}
		if copied {
			r.instance = tx.s.ids.New(tx.now)
		}
		uid, err := tx.place(dst, &r)
		if err != nil {
			return res, nil, err
		}
		res.Source = append(res.Source, items[i].uid)
		res.Dest = append(res.Dest, uid)
	}
	tx.teachTransfer(src.Use, dst.Use, items)
	return res, items, nil
}

// translate gives keywords of one mailbox their indices in another.
func (tx *Tx) translate(src *box, dst *dirtyBox, keywords []byte) ([]byte, error) {
	if len(keywords) == 0 || src.ID == dst.ID {
		return keywords, nil
	}
	names := make([]string, 0, len(keywords))
	for _, k := range keywords {
		if int(k) < len(src.Keywords) {
			names = append(names, src.Keywords[k])
		}
	}
	out, grew, err := dst.keywordIndices(names, true)
	dst.static = dst.static || grew
	return out, err
}

// drop removes a message; moved says that its content has a new use in the same batch already.
func (tx *Tx) drop(box *dirtyBox, it *item, moved bool) {
	tx.batch.Delete(tx.build(func(b []byte) []byte { return appendMessageKey(b, tx.id, box.ID, it.uid) }))
	tx.batch.Delete(tx.build(func(b []byte) []byte {
		return appendMessageUse(appendRefKey(b, it.content, ""), tx.id, box.ID, it.uid)
	}))
	if !moved {
		tx.batch.Set(tx.build(func(b []byte) []byte { return appendGCKey(b, it.content, tx.s.ids.New(tx.now)) }), nil)
	}
	tx.touch(box)
	box.count(&it.record, -1)
	box.removed = append(box.removed, it.uid)
}

// Expunge removes the messages among uids (nil: all; else ascending) that exist and, if onlyDeleted, have \Deleted. It
// returns their UIDs.
func (tx *Tx) Expunge(mailbox MailboxID, uids []UID, onlyDeleted bool) ([]UID, error) {
	if b := tx.peek(mailbox); b == nil {
		return nil, fmt.Errorf("expunge: %w", ErrNoMailbox)
	} else if onlyDeleted && b.Deleted == 0 || b.Exists == 0 {
		return nil, nil
	}
	box, err := tx.box(mailbox)
	if err != nil {
		return nil, fmt.Errorf("expunge: %w", err)
	}
	items, err := tx.items(&box.box, uids)
	if err != nil {
		return nil, fmt.Errorf("expunge: %w", err)
	}
	var gone []UID
	for i := range items {
		if onlyDeleted && items[i].system&Deleted == 0 {
			continue
		}
		tx.drop(box, &items[i], false)
		gone = append(gone, items[i].uid)
	}
	return gone, nil
}
