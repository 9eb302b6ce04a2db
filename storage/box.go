package storage

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
)

// box is one version of a mailbox. A published version never changes; an update works on a copy.
type box struct {
	Mailbox
	log uint32 // entries in the expunge log

	// What sessions share, present once somebody asked for the UIDs.
	loaded     bool
	uids       []UID    // append-only between expunges: versions share the array
	recent     []change // what changed after recentFrom, in order
	recentFrom ModSeq
}

// change is one step in a mailbox that sessions have yet to hear of.
type change struct {
	seq         ModSeq
	first, last UID
	gone        bool
}

// maxRecent bounds box.recent; older changes are read from the engine.
const maxRecent = 512

// note remembers a change for sessions.
func (b *box) note(seq ModSeq, first, last UID, gone bool) {
	if len(b.recent) >= maxRecent {
		keep := maxRecent / 2
		// All changes of one modification sequence stay or go together.
		from := b.recent[len(b.recent)-keep-1].seq
		at := len(b.recent) - keep
		for at < len(b.recent) && b.recent[at].seq == from {
			at++
		}
		b.recentFrom = from
		b.recent = append(make([]change, 0, maxRecent), b.recent[at:]...)
	}
	b.recent = append(b.recent, change{seq, first, last, gone})
}

// delta is what one update did to the messages of one mailbox.
type delta struct {
	seq     ModSeq
	added   []UID // ascending
	removed []UID
	changed []UID
}

// apply brings what sessions share up to date with one update.
func (b *box) apply(d *delta) {
	if !b.loaded {
		return
	}
	b.uids = append(b.uids, d.added...)
	b.noteAll(d.seq, d.added, false)
	b.noteAll(d.seq, d.changed, false)
	b.noteAll(d.seq, d.removed, true)
	b.remove(d.removed)
}

func (b *box) noteAll(seq ModSeq, uids []UID, gone bool) {
	for _, r := range ranges(uids) {
		b.note(seq, r.First, r.Last, gone)
	}
}

// remove takes ascending UIDs out of the shared sequence, into a new array: older versions keep theirs.
func (b *box) remove(uids []UID) {
	if len(uids) == 0 {
		return
	}
	kept := make([]UID, 0, max(len(b.uids)-len(uids), 0)+8)
	i := 0
	for _, uid := range b.uids {
		for i < len(uids) && uids[i] < uid {
			i++
		}
		if i < len(uids) && uids[i] == uid {
			continue
		}
		kept = append(kept, uid)
	}
	b.uids = kept
}

// cost is about how many octets of memory b takes.
func (b *box) cost() int64 {
	return 400 + int64(len(b.Name)) + 4*int64(cap(b.uids)) + 24*int64(cap(b.recent)) + 40*int64(len(b.Keywords))
}

// ranges makes ranges of ascending UIDs.
func ranges(uids []UID) []UIDRange {
	var out []UIDRange
	for _, uid := range uids {
		if n := len(out); n > 0 && out[n-1].Last+1 == uid {
			out[n-1].Last = uid
		} else {
			out = append(out, UIDRange{uid, uid})
		}
	}
	return out
}

// appendStatic encodes what seldom changes (FORMAT.md, "mailbox").
func (b *box) appendStatic(v []byte) []byte {
	v = append(v, recordVersion, byte(b.Use))
	v = binary.AppendUvarint(v, uint64(b.UIDValidity))
	v = binary.AppendVarint(v, b.Created.Unix())
	v = codec.AppendString(v, b.Name)
	return codec.AppendStrings(v, b.Keywords)
}

func (b *box) decodeStatic(value []byte) error {
	d := decode(value)
	b.Use = SpecialUse(d.Octet())
	b.UIDValidity = d.Uint32()
	b.Created = time.Unix(d.Int(), 0).UTC()
	b.Name = d.String()
	if b.Keywords = d.Strings(); len(b.Keywords) > maxBoxKeywords {
		d.Fail()
	}
	return d.End("mailbox")
}

// appendState encodes the counters (FORMAT.md, "mailbox state").
func (b *box) appendState(v []byte) []byte {
	v = append(v, recordVersion)
	v = binary.AppendUvarint(v, uint64(b.UIDNext))
	v = binary.AppendUvarint(v, uint64(b.HighestModSeq))
	v = binary.AppendUvarint(v, uint64(b.Exists))
	v = binary.AppendUvarint(v, uint64(b.Unseen))
	v = binary.AppendUvarint(v, uint64(b.Deleted))
	v = binary.AppendUvarint(v, uint64(b.Size))
	v = binary.AppendUvarint(v, uint64(b.ExpungeFloor))
	return binary.AppendUvarint(v, uint64(b.log))
}

func (b *box) decodeState(value []byte) error {
	d := decode(value)
	b.UIDNext = UID(d.Uint32())
	b.HighestModSeq = ModSeq(d.Uint())
	b.Exists = d.Uint32()
	b.Unseen = d.Uint32()
	b.Deleted = d.Uint32()
	b.Size = d.Size()
	b.ExpungeFloor = ModSeq(d.Uint())
	b.log = d.Uint32()
	return d.End("mailbox state")
}

// count adds (n = 1) or takes away (n = -1) a message from the counters.
func (b *box) count(r *record, n int) {
	b.Exists += uint32(n)
	b.Size += int64(n) * r.size
	if r.system&Seen == 0 {
		b.Unseen += uint32(n)
	}
	if r.system&Deleted != 0 {
		b.Deleted += uint32(n)
	}
}

// accountState is one version of an account; published versions never change.
type accountState struct {
	boxes []*box               // by ID
	names map[string]MailboxID // shared between versions until a name changes
	subs  []string             // sorted; shared likewise
	nums  numbers
	seq   ModSeq // the highest that was used
	used  int64
	count int64
	limit int64 // quota, 0: none
	cost  int64
}

// numbers are the account's counters that are not a mailbox's.
type numbers struct {
	nextBox     MailboxID
	uidValidity uint32 // the last one that was given
	seqFloor    ModSeq // the highest sequence of mailboxes that are gone
}

func (n *numbers) appendTo(v []byte) []byte {
	v = append(v, recordVersion)
	v = binary.AppendUvarint(v, uint64(n.nextBox))
	v = binary.AppendUvarint(v, uint64(n.uidValidity))
	return binary.AppendUvarint(v, uint64(n.seqFloor))
}

func (n *numbers) decode(value []byte) error {
	d := decode(value)
	n.nextBox = MailboxID(d.Uint32())
	n.uidValidity = d.Uint32()
	n.seqFloor = ModSeq(d.Uint())
	return d.End("account numbers")
}

func (st *accountState) find(id MailboxID) *box {
	at, ok := slices.BinarySearchFunc(st.boxes, id, boxOrder)
	if !ok {
		return nil
	}
	return st.boxes[at]
}
