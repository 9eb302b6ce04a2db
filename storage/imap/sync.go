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
	flags   []byte        // FETCH responses
	changed []storage.UID // whose flags are not in flags yet
}

// newsPiece is how many messages' flags are held in memory to be told.
const newsPiece = 1000

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
	if err != nil {
		return s.syncFailed(err)
	}
	if n == nil {
		return nil
	}
	return s.tell(n)
}

// syncFailed is fail for what ends the session when it is gone.
func (s *session) syncFailed(err error) error {
	switch {
	case errors.Is(err, storage.ErrNoMailbox), errors.Is(err, errGone):
		return s.w.bye("The selected mailbox was removed") // RFC 2180 section 3.3
	case errors.Is(err, storage.ErrUnknownAccount):
		return s.w.bye("The account was removed")
	}
	return s.fail("look for changes", err)
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
		n = &news{box: m, seq: seq, now: ch.Now, changed: known(box.seq, ch.Changed)}
		return n.read(v, box)
	})
	return n, err
}

// known returns those of the ascending uids that the client has heard of.
func known(seq *storage.UIDSequence, uids []storage.UID) []storage.UID {
	last := storage.UID(0)
	if n := seq.Len(); n > 0 {
		last = seq.At(n - 1)
	}
	end, found := slices.BinarySearch(uids, last)
	if found {
		end++
	}
	return uids[:end]
}

// read makes the responses for some of the changed messages, without those that
// the client changed itself.
func (n *news) read(v *storage.View, box *selected) error {
	piece := n.changed[:min(len(n.changed), newsPiece)]
	n.changed = n.changed[len(piece):]
	return v.MessagesOf(box.id, piece, func(m *storage.Message) (bool, error) {
		if i, ok := n.seq.Index(m.UID); ok && !slices.Contains(box.own, m.ModSeq) {
			n.flags = appendFlagFetch(n.flags, i+1, m.UID, m.Flags)
		}
		return true, nil
	})
}

// tell sends the untagged responses for n, a piece at a time, and makes n what
// the client knows.
func (s *session) tell(n *news) error {
	box := s.box
	gone := removed(box.seq, n.seq)
	var b []byte
	for i, at := range gone { // each number as it is after the ones before (RFC 3501 section 7.4.1)
		b = append(strconv.AppendInt(append(b, "* "...), int64(at-i+1), 10), " EXPUNGE\r\n"...)
		if len(b) >= outSize {
			if err := s.w.send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if n.seq.Len() != box.seq.Len()-len(gone) {
		b = append(strconv.AppendInt(append(b, "* "...), int64(n.seq.Len()), 10), " EXISTS\r\n* 0 RECENT\r\n"...)
	}
	if len(n.box.Keywords) > box.keywords {
		b = append(b, "* FLAGS "...)
		b = append(appendFlags(b, storage.Flags{System: ^storage.System(0), Keywords: n.box.Keywords}), "\r\n"...)
	}
	err := s.w.send(append(b, n.flags...))
	for err == nil && len(n.changed) > 0 {
		err = s.tellMore(n)
	}
	box.seq, box.keywords = n.seq, len(n.box.Keywords)
	if err == nil { // else the flags are told the next time
		box.since, box.own = n.now, nil
	}
	return err
}

// tellMore sends the next piece of flags. They may be newer than the rest of n:
// then they are told again.
func (s *session) tellMore(n *news) error {
	ctx, cancel := s.command()
	defer cancel()
	n.flags = n.flags[:0]
	if err := s.view(ctx, func(v *storage.View) error { return n.read(v, s.box) }); err != nil {
		return s.syncFailed(err)
	}
	return s.w.send(n.flags)
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
	if s.absent() {
		return nil
	}
	s.endIdle()
	return s.sync(allowExpunge)
}
