package storage

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sluicemail/sluice/storage/kv"
)

// The expunge log has one entry a mailbox and update; when there are more than maxLog, the older half is cut off and the
// floor recorded (RULES B6).
const maxLog = 2048

// logExpunge writes the UIDs that went in this update, and cuts the log when it is long.
func (tx *Tx) logExpunge(d *dirtyBox) error {
	tx.set(func(k []byte) []byte { return appendExpungeKey(k, tx.id, d.ID, d.seq) },
		func(v []byte) []byte { return appendRanges(v, ranges(d.removed)) })
	if d.log++; d.log <= maxLog {
		return nil
	}
	lower := appendBoxKey(nil, tx.id, kindExpunge, d.ID)
	left := d.log - maxLog/2
	var cut []byte
	n := uint32(0)
	err := tx.s.engine.Scan(tx.ctx, lower, prefixEnd(lower), false, func(key, _ []byte) (bool, error) {
		if n++; n <= left {
			cut = append(cut[:0], key...)
		}
		return n < left, nil
	})
	if err != nil {
		return fmt.Errorf("cut the expunge log of mailbox %d: %w", d.ID, err)
	}
	if cut == nil {
		return nil
	}
	d.ExpungeFloor = max(d.ExpungeFloor, ModSeq(binary.BigEndian.Uint64(cut[len(cut)-8:])))
	d.log -= min(n, left)
	tx.batch.DeleteRange(lower, append(cut, 0))
	return nil
}

// appendRanges encodes ranges as the distance from the end of the one before, and the length less one.
func appendRanges(v []byte, list []UIDRange) []byte {
	v = append(v, recordVersion)
	v = binary.AppendUvarint(v, uint64(len(list)))
	last := UID(0)
	for _, r := range list {
		v = binary.AppendUvarint(v, uint64(r.First-last))
		v = binary.AppendUvarint(v, uint64(r.Last-r.First))
		last = r.Last
	}
	return v
}

func decodeRanges(value []byte) ([]UIDRange, error) {
	d := decode(value)
	n := d.Count() // each takes two octets at least
	out := make([]UIDRange, 0, n)
	last := uint64(0)
	for range n {
		first := last + d.Uint()
		last = first + d.Uint()
		if first == 0 || last >= 1<<32 || first > last {
			d.Fail()
			break
		}
		out = append(out, UIDRange{UID(first), UID(last)})
	}
	return out, d.End("expunge log")
}

// Changes says what happened in a mailbox after a modification sequence.
type Changes struct {
	Changed  []UID      // came or changed after since and exist now; ascending
	Expunged []UIDRange // went after since; ascending, not overlapping
	Now      ModSeq     // the mailbox's HIGHESTMODSEQ at this moment
	Complete bool       // false: the log begins after since, so Expunged is not all
}

// Changes returns what happened in mailbox after since. For a session that follows a mailbox it reads memory only.
func (v *View) Changes(mailbox MailboxID, since ModSeq) (Changes, error) {
	b, err := v.box(mailbox)
	if err != nil {
		return Changes{}, err
	}
	c := Changes{Now: b.HighestModSeq, Complete: since >= b.ExpungeFloor}
	if since >= b.HighestModSeq {
		c.Complete = true
		return c, nil
	}
	if b.loaded && since >= b.recentFrom {
		c.Complete = true
		c.fromMemory(b, since)
		return c, nil
	}
	lower := appendBoxKey(nil, v.id, kindMessage, mailbox)
	var r record
	err = v.snap.Scan(v.ctx, lower, prefixEnd(lower), false, func(key, value []byte) (bool, error) {
		if err := decodeRecord(value, &r); err != nil {
			return false, err
		}
		if r.seq > since {
			c.Changed = append(c.Changed, tailUID(key))
		}
		return true, nil
	})
	if err == nil {
		c.Expunged, err = readExpunged(v, mailbox, since)
	}
	if err != nil {
		return Changes{}, fmt.Errorf("read changes of mailbox %d of account %s: %w", mailbox, v.id, err)
	}
	return c, nil
}

// fromMemory takes the changes from what sessions share.
func (c *Changes) fromMemory(b *box, since ModSeq) {
	at := len(b.recent)
	for at > 0 && b.recent[at-1].seq > since {
		at--
	}
	for _, ch := range b.recent[at:] {
		if ch.gone {
			c.Expunged = append(c.Expunged, UIDRange{ch.first, ch.last})
			continue
		}
		seq := UIDSequence{b.uids}
		c.Changed = append(c.Changed, seq.Slice(ch.first, ch.last)...)
	}
	slices.Sort(c.Changed)
	c.Changed = slices.Compact(c.Changed)
	c.Expunged = mergeRanges(c.Expunged)
}

// mergeRanges sorts ranges and joins those that touch.
func mergeRanges(list []UIDRange) []UIDRange {
	slices.SortFunc(list, func(a, b UIDRange) int { return int(int64(a.First) - int64(b.First)) })
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func readExpunged(v *View, mailbox MailboxID, since ModSeq) ([]UIDRange, error) {
	var out []UIDRange
	lower := appendExpungeKey(nil, v.id, mailbox, since+1)
	upper := prefixEnd(appendBoxKey(nil, v.id, kindExpunge, mailbox))
	err := v.snap.Scan(v.ctx, lower, upper, false, func(_, value []byte) (bool, error) {
		list, err := decodeRanges(value)
		out = append(out, list...)
		return true, err
	})
	return mergeRanges(out), err
}

// UIDs returns the sequence of the mailbox's UIDs at the moment of this View. Sessions share it.
func (v *View) UIDs(mailbox MailboxID) (*UIDSequence, error) {
	b, err := v.box(mailbox)
	if err != nil {
		return nil, err
	}
	if b.loaded {
		return &UIDSequence{b.uids}, nil
	}
	if seq := v.loaded[mailbox]; seq != nil {
		return seq, nil
	}
	l := v.beginLoad(b)
	uids := make([]UID, 0, min(b.Exists, 1<<20)+8) // a damaged counter asks for no memory
	lower := appendBoxKey(nil, v.id, kindMessage, mailbox)
	err = scanKeys(v, lower, func(key []byte) { uids = append(uids, tailUID(key)) })
	v.endLoad(b, l, uids, err)
	if err != nil {
		return nil, fmt.Errorf("read the UIDs of mailbox %d of account %s: %w", mailbox, v.id, err)
	}
	if v.loaded == nil {
		v.loaded = make(map[MailboxID]*UIDSequence)
	}
	seq := &UIDSequence{slices.Clip(uids)}
	v.loaded[mailbox] = seq
	return seq, nil
}

func scanKeys(v *View, prefix []byte, visit func(key []byte)) error {
	var r kv.Reader = v.snap
	return r.Scan(v.ctx, prefix, prefixEnd(prefix), false, func(key, _ []byte) (bool, error) {
		visit(key)
		return true, nil
	})
}

// beginLoad has updates keep what they do to b, if b is still the newest version and nobody else is reading it.
func (v *View) beginLoad(b *box) *load {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	if v.e.state == nil || v.e.state.find(b.ID) != b || v.e.loads[b.ID] != nil {
		return nil
	}
	if v.e.loads == nil {
		v.e.loads = make(map[MailboxID]*load)
	}
	l := &load{}
	v.e.loads[b.ID] = l
	return l
}

// endLoad shares what was read, brought up to date with what happened meanwhile.
func (v *View) endLoad(b *box, l *load, uids []UID, err error) {
	if l == nil {
		return
	}
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	delete(v.e.loads, b.ID)
	if err != nil || l.over || v.e.state == nil {
		return
	}
	at, ok := slices.BinarySearchFunc(v.e.state.boxes, b.ID, boxOrder)
	if !ok {
		return
	}
	old := v.e.state.boxes[at]
	next := *old
	next.loaded, next.uids, next.recent, next.recentFrom = true, uids, nil, b.HighestModSeq
	for i := range l.deltas {
		next.apply(&l.deltas[i])
	}
	st := *v.e.state
	st.boxes = slices.Clone(st.boxes)
	st.boxes[at] = &next
	st.cost += next.cost() - old.cost()
	v.e.state = &st
}
