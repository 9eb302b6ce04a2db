package imap

import (
	"errors"
	"fmt"
	"io"
	"slices"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// maxBatch is how many messages one update changes; more are done in steps.
const maxBatch = 1000

var errReadOnly = no(goimap.ResponseCodeNoPerm, "The mailbox was opened read-only") // by EXAMINE (RFC 3501 section 6.3.2)

// Append stores a message (RFC 3501 section 6.3.11, RFC 4315).
func (s *session) Append(name string, r goimap.LiteralReader, o *goimap.AppendOptions) (*goimap.AppendData, error) {
	data, err := s.append(name, r, o)
	return data, s.fail("append", tryCreate(err))
}

func (s *session) append(name string, r goimap.LiteralReader, o *goimap.AppendOptions) (*goimap.AppendData, error) {
	flags, err := parseFlags(o.Flags)
	if err != nil {
		return nil, err
	}
	if err := s.admit(name, r.Size()); err != nil {
		return nil, err // the library reads and drops the literal
	}
	draft, err := s.spool(r)
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	ctx, cancel := s.command()
	defer cancel()
	prepared, err := s.srv.o.Store.Prepare(ctx, draft, nil)
	if err != nil {
		return nil, errors.Join(err, draft.Withdraw())
	}
	var data goimap.AppendData
	named := false // by a batch that may have been applied, whatever came after
	err = s.update(func(tx *storage.Tx) error {
		m, err := tx.Mailbox(name)
		if err != nil {
			return err
		}
		uid, err := tx.Append(m.ID, storage.Delivery{Info: prepared.Info(0), InternalDate: o.Time, Flags: flags})
		if err != nil {
			return err
		}
		prepared.Put(tx.Batch(), "")
		data = goimap.AppendData{UID: goimap.UID(uid), UIDValidity: m.UIDValidity}
		named = true
		return nil
	})
	if err != nil && !named {
		// Otherwise the file stays: if nothing names it after all, `store verify` finds it.
		err = errors.Join(err, draft.Withdraw())
	}
	if err != nil {
		return nil, err
	}
	return &data, nil
}

// admit refuses a message before it is read: no space, no mailbox, over quota.
func (s *session) admit(name string, size int64) error {
	ctx, cancel := s.command()
	defer cancel()
	if err := s.srv.o.Store.Admit(); err != nil {
		return err
	}
	return s.srv.o.Store.View(ctx, s.account, func(v *storage.View) error {
		if _, err := v.Mailbox(name); err != nil {
			return err
		}
		if q := v.Quota(); q.Limit > 0 && size > q.Limit-q.Used {
			return storage.ErrOverQuota
		}
		return nil
	})
}

// spool reads the literal. It must be there to its last octet: the library takes
// a connection that drops inside for its end. A line feed alone becomes CRLF
// (RULES A5).
func (s *session) spool(r goimap.LiteralReader) (*blob.Draft, error) {
	spool := s.srv.o.Store.Blobs().NewSpool()
	spool.Expect(r.Size())
	c := crlfWriter{w: spool}
	n, err := io.Copy(&c, r)
	if err == nil && n != r.Size() {
		err = fmt.Errorf("receive a literal of %d octets: it ends after %d", r.Size(), n)
	}
	if err != nil {
		spool.Discard()
		return nil, err
	}
	return spool.Finish()
}

// crlfWriter puts a CR before each LF that has none.
type crlfWriter struct {
	w  io.Writer
	cr bool // the last octet written was CR
}

// Write implements io.Writer.
func (c *crlfWriter) Write(p []byte) (int, error) {
	begin := 0
	for i, b := range p {
		if b == '\n' && !c.cr {
			if _, err := c.w.Write(p[begin:i]); err != nil {
				return begin, err
			}
			if _, err := c.w.Write([]byte{'\r'}); err != nil {
				return i, err
			}
			begin = i
		}
		c.cr = b == '\r'
	}
	if _, err := c.w.Write(p[begin:]); err != nil {
		return begin, err
	}
	return len(p), nil
}

// current returns the selected mailbox; write says that the command changes it.
func (s *session) current(write bool) (*selected, error) {
	switch {
	case s.box == nil: // the library checks the state, but a mailbox may have gone
		return nil, bad("No mailbox is selected")
	case write && s.box.readOnly:
		return nil, errReadOnly
	}
	return s.box, nil
}

// Store changes flags (RFC 3501 section 6.4.6).
func (s *session) Store(_ *imapserver.FetchWriter, set goimap.NumSet, f *goimap.StoreFlags, _ *goimap.StoreOptions) error {
	box, err := s.current(true)
	if err != nil {
		return err
	}
	flags, err := parseFlags(f.Flags)
	if err != nil {
		return err
	}
	spans, err := resolve(box.seq, set)
	if err != nil {
		return err
	}
	mode := storage.FlagsSet
	switch f.Op {
	case goimap.StoreFlagsAdd:
		mode = storage.FlagsAdd
	case goimap.StoreFlagsDel:
		mode = storage.FlagsRemove
	}
	_, byUID := set.(goimap.UIDSet)
	err = eachPiece(box.seq, spans, maxBatch, func(uids []storage.UID) error {
		return s.storePiece(box, uids, mode, flags, !f.Silent, byUID)
	})
	return s.fail("store", err)
}

func (s *session) storePiece(box *selected, uids []storage.UID, mode storage.FlagMode, flags storage.Flags, tell, byUID bool) error {
	ctx, cancel := s.command()
	defer cancel()
	var res storage.FlagResult
	pos, err := s.srv.o.Store.Update(ctx, s.account, func(tx *storage.Tx) error {
		var err error
		res, err = tx.StoreFlags(box.id, uids, mode, flags, ^storage.ModSeq(0))
		return err
	})
	if err != nil {
		return err
	}
	box.noteOwn(res.ModSeq)
	if !tell {
		return s.srv.o.Store.WaitDurable(ctx, pos)
	}
	var b []byte
	err = s.view(ctx, func(v *storage.View) error { // waits for a position that is at least pos
		return v.MessagesOf(box.id, uids, func(m *storage.Message) (bool, error) {
			if i, ok := box.seq.Index(m.UID); ok {
				b = appendFlagFetch(b, i+1, m.UID, m.Flags)
			}
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	return s.w.send(b)
}

// Expunge removes messages that have \Deleted, for EXPUNGE, UID EXPUNGE and
// CLOSE. CLOSE is silent, and after EXAMINE removes nothing (RFC 3501 section
// 6.4.2); the library calls this all the same.
func (s *session) Expunge(_ *imapserver.ExpungeWriter, set *goimap.UIDSet) error {
	closing := s.w.guard.verb == "CLOSE"
	box, err := s.current(!closing)
	if err != nil || closing && box.readOnly {
		return err
	}
	spans := []span{{0, box.seq.Len() - 1}}
	if set != nil {
		if spans, err = resolve(box.seq, *set); err != nil {
			return err
		}
	}
	uids := allUIDs(box.seq, spans)
	for err == nil && len(uids) > 0 {
		n := min(len(uids), maxBatch)
		err = s.update(func(tx *storage.Tx) error {
			_, err := tx.Expunge(box.id, uids[:n], true)
			return err
		})
		uids = uids[n:]
	}
	if err != nil || closing {
		return s.fail("expunge", err)
	}
	return s.sync(true)
}

// Copy copies messages, all or none (RFC 3501 section 6.4.7).
func (s *session) Copy(set goimap.NumSet, dest string) (*goimap.CopyData, error) {
	box, err := s.current(false)
	if err != nil {
		return nil, err
	}
	spans, err := resolve(box.seq, set)
	if err != nil {
		return nil, err
	}
	if err := s.srv.o.Store.Admit(); err != nil {
		return nil, s.fail("copy", err)
	}
	res, err := s.transfer(box, dest, allUIDs(box.seq, spans), (*storage.Tx).Copy)
	if err != nil {
		return nil, s.fail("copy", err)
	}
	return copyData(res), nil
}

// Move moves messages (RFC 6851), in steps if they are many; the client hears of
// all of them at once.
func (s *session) Move(w *imapserver.MoveWriter, set goimap.NumSet, dest string) error {
	box, err := s.current(true)
	if err != nil {
		return err
	}
	spans, err := resolve(box.seq, set)
	if err != nil {
		return err
	}
	uids := allUIDs(box.seq, spans)
	var all storage.CopyResult
	for len(uids) > 0 && err == nil {
		n := min(len(uids), maxBatch)
		var res storage.CopyResult
		if res, err = s.transfer(box, dest, uids[:n], (*storage.Tx).Move); err == nil {
			all.UIDValidity = res.UIDValidity
			all.Source, all.Dest = append(all.Source, res.Source...), append(all.Dest, res.Dest...)
		}
		uids = uids[n:]
	}
	if data := copyData(all); data != nil {
		if werr := w.WriteCopyData(data); werr != nil {
			return werr
		}
	}
	if serr := s.sync(true); err == nil {
		err = serr
	}
	return s.fail("move", err)
}

func copyData(res storage.CopyResult) *goimap.CopyData {
	if len(res.Source) == 0 {
		return nil
	}
	return &goimap.CopyData{UIDValidity: res.UIDValidity, SourceUIDs: uidSet(res.Source), DestUIDs: uidSet(res.Dest)}
}

// transfer copies or moves uids to the mailbox called dest.
func (s *session) transfer(box *selected, dest string, uids []storage.UID,
	how func(tx *storage.Tx, from, to storage.MailboxID, uids []storage.UID) (storage.CopyResult, error)) (storage.CopyResult, error) {
	var res storage.CopyResult
	err := s.update(func(tx *storage.Tx) error {
		to, err := tx.Mailbox(dest)
		if err != nil {
			return tryCreate(err)
		}
		res, err = how(tx, box.id, to.ID, slices.Clip(uids))
		return err
	})
	return res, err
}
