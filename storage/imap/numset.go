package imap

import (
	"slices"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/sluicemail/sluice/storage"
)

// span is a stretch of places in a UID sequence, both ends included.
type span struct{ first, last int }

// resolve finds the messages that the client means, as merged ascending spans of
// places in seq. A set is never expanded: 1:4294967295 costs nothing. A sequence
// number beyond the mailbox is an error, a UID that does not exist is not
// (RFC 3501 sections 6.4.8 and 9).
func resolve(seq *storage.UIDSequence, set goimap.NumSet) ([]span, error) {
	if goimap.IsSearchRes(set) {
		return nil, bad("SEARCHRES is not supported")
	}
	n := seq.Len()
	var spans []span
	switch set := set.(type) {
	case goimap.SeqSet:
		for _, r := range set {
			first, last := int64(r.Start), int64(r.Stop)
			if n == 0 && (first == 0 || last == 0) {
				continue
			}
			first, last = orStar(first, int64(n)), orStar(last, int64(n))
			if first > last {
				first, last = last, first
			}
			if first > int64(n) {
				return nil, bad("There is no message with this number")
			}
			spans = append(spans, span{int(first) - 1, int(min(last, int64(n))) - 1})
		}
	case goimap.UIDSet:
		if n == 0 {
			return nil, nil
		}
		top := int64(seq.At(n - 1))
		for _, r := range set {
			first, last := orStar(int64(r.Start), top), orStar(int64(r.Stop), top)
			if first > last {
				first, last = last, first
			}
			i, _ := seq.Index(storage.UID(first))
			j, found := seq.Index(storage.UID(last))
			if !found {
				j--
			}
			if i <= j {
				spans = append(spans, span{i, j})
			}
		}
	default:
		return nil, bad("Unknown kind of message set")
	}
	return merge(spans), nil
}

func orStar(v, star int64) int64 {
	if v == 0 {
		return star
	}
	return v
}

// merge sorts spans and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.first - b.first })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// uids calls visit with pieces of at most limit UIDs of spans, in order.
func eachPiece(seq *storage.UIDSequence, spans []span, limit int, visit func([]storage.UID) error) error {
	var piece []storage.UID
	for _, s := range spans {
		all := seq.All()[s.first : s.last+1]
		for len(all) > 0 {
			n := min(limit-len(piece), len(all))
			if len(piece) == 0 && n == limit {
				if err := visit(all[:n:n]); err != nil { // no copy
					return err
				}
			} else if piece = append(piece, all[:n]...); len(piece) == limit {
				if err := visit(piece); err != nil {
					return err
				}
				piece = piece[:0]
			}
			all = all[n:]
		}
	}
	if len(piece) > 0 {
		return visit(piece)
	}
	return nil
}

// allUIDs collects the UIDs of spans.
func allUIDs(seq *storage.UIDSequence, spans []span) []storage.UID {
	var out []storage.UID
	for _, s := range spans {
		out = append(out, seq.All()[s.first:s.last+1]...)
	}
	return out
}

// uidSet makes a set of UIDs in the order given, joining runs: COPYUID pairs the
// two sets by their order (RFC 4315 section 3).
func uidSet(uids []storage.UID) goimap.UIDSet {
	var set goimap.UIDSet
	for _, u := range uids {
		if n := len(set); n > 0 && set[n-1].Stop+1 == goimap.UID(u) {
			set[n-1].Stop = goimap.UID(u)
			continue
		}
		set = append(set, goimap.UIDRange{Start: goimap.UID(u), Stop: goimap.UID(u)})
	}
	return set
}

// seqSet is uidSet for sequence numbers, ascending.
func seqSet(nums []uint32) goimap.SeqSet {
	var set goimap.SeqSet
	for _, u := range nums {
		if n := len(set); n > 0 && set[n-1].Stop+1 == u {
			set[n-1].Stop = u
			continue
		}
		set = append(set, goimap.SeqRange{Start: u, Stop: u})
	}
	return set
}
