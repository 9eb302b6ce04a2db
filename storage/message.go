package storage

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
)

// Bounds of keywords.
const (
	maxKeywordSize   = 64  // octets of one keyword
	maxKeywords      = 64  // on one message
	maxBoxKeywords   = 200 // different ones in a mailbox; indices are octets
	maxFrontSize     = 8 << 10
	messageSizeGuess = 128
)

// record is a message as it is encoded: keywords are indices into its mailbox's list.
type record struct {
	system   System
	keywords []byte
	seq      ModSeq
	internal time.Time
	saved    int64 // Unix seconds
	size     int64
	content  ContentID
	variant  uint8
	thread   ID
	instance ID
	front    []byte
	ext      []byte
}

// appendTo encodes r (FORMAT.md, "message").
func (r *record) appendTo(b []byte) []byte {
	b = append(b, recordVersion, byte(r.system))
	b = binary.AppendUvarint(b, uint64(r.seq))
	b = codec.AppendBytes(b, r.keywords)
	b = appendDate(b, r.internal)
	b = binary.AppendVarint(b, r.saved)
	b = binary.AppendUvarint(b, uint64(r.size))
	b = append(b, r.content[:]...)
	b = append(b, r.variant)
	b = append(b, r.instance[:]...)
	b = append(b, r.thread[:]...)
	b = codec.AppendBytes(b, r.front)
	return append(b, r.ext...)
}

// decodeRecord reads value; the slices of r point into it.
func decodeRecord(value []byte, r *record) error {
	d := decode(value)
	r.system = System(d.Octet())
	r.seq = ModSeq(d.Uint())
	r.keywords = d.Bytes()
	r.internal = readDate(&d)
	r.saved = d.Int()
	r.size = d.Size()
	r.content = readID(&d)
	r.variant = d.Octet()
	r.instance = readID(&d)
	r.thread = readID(&d)
	r.front = d.Bytes()
	r.ext = d.Rest()
	return d.End("message")
}

// message fills m from r; slices of m point into the decoded value, keywords into the mailbox's list.
func (r *record) message(m *Message, box *box, uid UID) {
	*m = Message{
		Mailbox: box.ID, UID: uid, ModSeq: r.seq,
		Flags:        Flags{System: r.system, Keywords: m.Flags.Keywords[:0]},
		InternalDate: r.internal, SaveDate: time.Unix(r.saved, 0).UTC(), Size: r.size,
		ContentID: r.content, Variant: int(r.variant), ThreadID: r.thread, Instance: r.instance,
		Front: r.front,
	}
	for _, k := range r.keywords {
		if int(k) < len(box.Keywords) {
			m.Flags.Keywords = append(m.Flags.Keywords, box.Keywords[k])
		}
	}
	if len(m.Flags.Keywords) > 1 {
		slices.SortFunc(m.Flags.Keywords, compareFold)
	}
}

func compareFold(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }

// checkKeyword says whether k is an atom that is no system flag (RFC 9051 section 9, flag-keyword).
func checkKeyword(k string) error {
	if k == "" || len(k) > maxKeywordSize {
		return fmt.Errorf("keyword %.70q: %w", k, ErrKeyword)
	}
	for i := 0; i < len(k); i++ {
		if c := k[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\]`, c) >= 0 {
			return fmt.Errorf("keyword %.70q: %w", k, ErrKeyword)
		}
	}
	return nil
}

// keywordIndices returns the indices of names in the mailbox's list, adding those that are new if add is set.
func (b *box) keywordIndices(names []string, add bool) (indices []byte, grew bool, err error) {
	if len(names) == 0 {
		return nil, false, nil
	}
	if len(names) > maxKeywords {
		return nil, false, ErrTooManyKeywords
	}
	for _, name := range names {
		if err := checkKeyword(name); err != nil {
			return nil, false, err
		}
		at := slices.IndexFunc(b.Keywords, func(have string) bool { return strings.EqualFold(have, name) })
		if at < 0 {
			if !add {
				continue
			}
			if len(b.Keywords) >= maxBoxKeywords {
				return nil, false, ErrTooManyKeywords
			}
			// Older versions of the mailbox share the array: append to a copy.
			b.Keywords = append(slices.Clip(b.Keywords), strings.Clone(name))
			at, grew = len(b.Keywords)-1, true
		}
		if !slices.Contains(indices, byte(at)) {
			indices = append(indices, byte(at))
		}
	}
	slices.Sort(indices)
	return indices, grew, nil
}
