package imap

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
)

// selected is what the client knows of the selected mailbox: the UIDs of one
// version of it, shared with other sessions, and the modification sequence up to
// which it heard of changes.
type selected struct {
	id       storage.MailboxID
	validity uint32
	readOnly bool
	seq      *storage.UIDSequence
	since    storage.ModSeq
	keywords int              // how many it was told of
	own      []storage.ModSeq // flag changes of this session that were told already, or must not be
}

// maxOwn bounds selected.own; what falls out is told twice, which is harmless.
const maxOwn = 256

func (b *selected) noteOwn(seq storage.ModSeq) {
	if seq == 0 {
		return
	}
	if len(b.own) >= maxOwn {
		b.own = b.own[1:]
	}
	b.own = append(b.own, seq)
}

// news is what happened in the selected mailbox since the client last heard.
type news struct {
	box     storage.Mailbox
	seq     *storage.UIDSequence
	now     storage.ModSeq
	changed []flagged
}

type flagged struct {
	uid   storage.UID
	flags storage.Flags
}

var errGone = errors.New("the mailbox is gone")

// sync tells the client what changed. While it may not hear of expunged messages
// (RFC 3501 section 7.4.1) and there are some, it hears of nothing: its numbers
// would not fit.
func (s *session) sync(allowExpunge bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.syncLocked(allowExpunge)
}

// syncLocked is sync; s.mu is held.
func (s *session) syncLocked(allowExpunge bool) error {
	if s.box == nil {
		return nil
	}
	ctx, cancel := s.command()
	defer cancel()
	n, err := s.news(ctx, allowExpunge)
	if errors.Is(err, storage.ErrNoMailbox) || errors.Is(err, errGone) {
		return s.w.bye("The selected mailbox was removed") // RFC 2180 section 3.3
	}
	if err != nil {
		return s.fail("look for changes", err)
	}
	if n == nil {
		return nil
	}
	return s.w.send(s.tell(nil, n))
}

// news reads what changed; nil if nothing did that may be told.
func (s *session) news(ctx context.Context, allowExpunge bool) (*news, error) {
	var n *news
	box := s.box
	err := s.view(ctx, func(v *storage.View) error {
		m, err := v.MailboxByID(box.id)
		if err != nil {
			return err
		}
		if m.UIDValidity != box.validity {
			return errGone
		}
		if m.HighestModSeq == box.since {
			return nil
		}
		seq, err := v.UIDs(box.id)
		if err != nil {
			return err
		}
		if !allowExpunge && len(removed(box.seq, seq)) > 0 {
			return nil
		}
		ch, err := v.Changes(box.id, box.since)
		if err != nil {
			return err
		}
		n = &news{box: m, seq: seq, now: ch.Now}
		return n.read(v, box, ch.Changed)
	})
	return n, err
}

// read collects the flags of messages that the client knows and that it did not
// change itself.
func (n *news) read(v *storage.View, box *selected, uids []storage.UID) error {
	last := storage.UID(0)
	if k := box.seq.Len(); k > 0 {
		last = box.seq.At(k - 1)
	}
	end, found := slices.BinarySearch(uids, last)
	if found {
		end++
	}
	return v.MessagesOf(box.id, uids[:end], func(m *storage.Message) (bool, error) {
		if !slices.Contains(box.own, m.ModSeq) {
			f := m.Flags
			f.Keywords = slices.Clone(f.Keywords)
			n.changed = append(n.changed, flagged{m.UID, f})
		}
		return true, nil
	})
}

// tell appends the untagged responses for n to b and makes n what the client
// knows.
func (s *session) tell(b []byte, n *news) []byte {
	box := s.box
	gone := removed(box.seq, n.seq)
	for i, at := range gone { // each number as it is after the ones before (RFC 3501 section 7.4.1)
		b = append(strconv.AppendInt(append(b, "* "...), int64(at-i+1), 10), " EXPUNGE\r\n"...)
	}
	if n.seq.Len() != box.seq.Len()-len(gone) {
		b = append(strconv.AppendInt(append(b, "* "...), int64(n.seq.Len()), 10), " EXISTS\r\n* 0 RECENT\r\n"...)
	}
	if len(n.box.Keywords) > box.keywords {
		b = append(b, "* FLAGS "...)
		b = append(appendFlags(b, storage.Flags{System: ^storage.System(0), Keywords: n.box.Keywords}), "\r\n"...)
	}
	for _, m := range n.changed {
		if i, ok := n.seq.Index(m.uid); ok {
			b = appendFlagFetch(b, i+1, m.uid, m.flags)
		}
	}
	box.seq, box.since, box.keywords, box.own = n.seq, n.now, len(n.box.Keywords), nil
	return b
}

func appendFlagFetch(b []byte, num int, uid storage.UID, f storage.Flags) []byte {
	b = strconv.AppendInt(append(b, "* "...), int64(num), 10)
	b = strconv.AppendUint(append(b, " FETCH (UID "...), uint64(uid), 10)
	return append(appendFlags(append(b, " FLAGS "...), f), ")\r\n"...)
}

// removed returns the places in old of UIDs that are not in now. Sequences that
// only grew are told apart quickly.
func removed(old, now *storage.UIDSequence) []int {
	n := old.Len()
	if n == 0 || now.Len() >= n && now.At(n-1) == old.At(n-1) {
		return nil // UIDs rise and never come back: n of them up to the same last one are the same
	}
	var gone []int
	j := 0
	for i := range n {
		uid := old.At(i)
		for j < now.Len() && now.At(j) < uid {
			j++
		}
		if j == now.Len() || now.At(j) != uid {
			gone = append(gone, i)
		}
	}
	return gone
}

// Poll is called by the library after each command.
func (s *session) Poll(_ *imapserver.UpdateWriter, allowExpunge bool) error {
	s.endIdle()
	return s.sync(allowExpunge)
}
