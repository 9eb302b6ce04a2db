package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
)

// VerifyOptions says what Verify cannot know by itself.
type VerifyOptions struct {
	// Use says whether a use of a content that is not a message's (the queue's) is still needed. nil: it is.
	Use func(ctx context.Context, r kv.Reader, content ContentID, use string) (bool, error)
}

// Report is what Verify found.
type Report struct {
	Accounts, Mailboxes, Messages, Contents, Files int
	Bytes                                          int64    // of all contents
	Problems                                       []string // what contradicts itself; at most maxProblems
	Orphans                                        []blob.Ref
	More                                           bool // there were more problems or orphans than are listed
}

const maxProblems = 1000

// verifier holds one state of the store against itself.
type verifier struct {
	s *Store
	o VerifyOptions
	Report
	ctx   context.Context
	r     kv.Reader
	files map[string]struct{} // content files that are named
}

// Verify reads the whole store: counters against messages, messages against uses and content, uses against what they stand
// for, content against files and the other way round. It changes nothing, holds a snapshot while it runs, and keeps in
// memory the names of content files. What the purger and the collector have yet to do is no problem.
func (s *Store) Verify(ctx context.Context, o VerifyOptions) (Report, error) {
	defer s.PauseCollector()()
	snap, err := s.engine.Snapshot(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	v := &verifier{s: s, o: o, ctx: ctx, r: snap, files: make(map[string]struct{})}
	err = errors.Join(v.run(), snap.Close())
	if err != nil {
		return v.Report, fmt.Errorf("verify: %w", err)
	}
	return v.Report, nil
}

func (v *verifier) run() error {
	for _, step := range []func() error{v.accounts, v.contents, v.refs, v.blobs} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.Problems) >= maxProblems {
		v.More = true
		return
	}
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

func (v *verifier) scan(prefix []byte, visit func(tail, value []byte) error) error {
	return v.r.Scan(v.ctx, prefix, prefixEnd(prefix), false, func(key, value []byte) (bool, error) {
		return true, visit(key[len(prefix):], value)
	})
}

func (v *verifier) has(key []byte) (bool, error) {
	_, err := v.r.Get(v.ctx, key)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// accounts checks every account: that of each address, and its mailboxes.
func (v *verifier) accounts() error {
	var list []AccountID
	err := v.scan([]byte(ownerSystem+"address/"), func(tail, value []byte) error {
		if len(value) != id.Size {
			v.problem("address %s: %v", tail, codec.ErrDamaged)
			return nil
		}
		list = append(list, ID(value))
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range list {
		v.Accounts++
		st, err := readAccount(v.ctx, v.r, a)
		if errors.Is(err, codec.ErrDamaged) || errors.Is(err, ErrUnknownAccount) {
			v.problem("account %s: %v", a, err)
			continue
		}
		if err != nil {
			return err
		}
		for _, b := range st.boxes {
			v.Mailboxes++
			if err := v.mailbox(a, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// mailbox checks the counters and the messages of a mailbox.
func (v *verifier) mailbox(a AccountID, b *box) error {
	var got box
	err := v.scan(appendBoxKey(nil, a, kindMessage, b.ID), func(tail, value []byte) error {
		v.Messages++
		uid := tailUID(tail)
		var r record
		if err := decodeRecord(value, &r); err != nil {
			v.problem("account %s, mailbox %q, UID %d: %v", a, b.Name, uid, err)
			return nil
		}
		got.count(&r, 1)
		if uid == 0 || uid >= b.UIDNext {
			v.problem("account %s, mailbox %q, UID %d: not below UIDNEXT %d", a, b.Name, uid, b.UIDNext)
		}
		if r.seq > b.HighestModSeq {
			v.problem("account %s, mailbox %q, UID %d: MODSEQ %d above the mailbox's %d", a, b.Name, uid, r.seq, b.HighestModSeq)
		}
		used, err := v.has(appendMessageUse(appendRefKey(nil, r.content, ""), a, b.ID, uid))
		if err == nil && !used {
			v.problem("account %s, mailbox %q, UID %d: content %s does not know of its use", a, b.Name, uid, r.content)
		}
		return err
	})
	if err != nil {
		return err
	}
	if got.Exists != b.Exists || got.Unseen != b.Unseen || got.Deleted != b.Deleted || got.Size != b.Size {
		v.problem("account %s, mailbox %q: it counts %d messages, %d unseen, %d deleted, %d octets, and has %d, %d, %d, %d",
			a, b.Name, b.Exists, b.Unseen, b.Deleted, b.Size, got.Exists, got.Unseen, got.Deleted, got.Size)
	}
	return nil
}

// contents checks that every content can be read and has a use, or that the collector knows of it.
func (v *verifier) contents() error {
	return v.scan([]byte(ownerContent+string(rune(contentRecord))), func(tail, value []byte) error {
		if len(tail) != id.Size {
			v.problem("content %x: %v", tail, codec.ErrDamaged)
			return nil
		}
		c := ID(tail)
		v.Contents++
		rec, err := decodeContent(c, value, 0)
		if err != nil {
			v.problem("%v", err)
			return nil
		}
		if err := v.octets(c, rec.ref, contentKey(contentBody, c)); err != nil {
			return err
		}
		bodies, err := bodiesOf(c, value)
		if err != nil {
			v.problem("%v", err)
		}
		for _, body := range bodies {
			if err := v.octets(c, body.Ref, bodyKey(c, body.Number)); err != nil {
				return err
			}
		}
		used, err := hasKey(v.ctx, v.r, appendRefKey(nil, c, ""))
		if err != nil || used {
			return err
		}
		known, err := hasKey(v.ctx, v.r, append([]byte(ownerGC), c[:]...))
		if err == nil && !known {
			v.problem("content %s has no use, and the collector does not know", c)
		}
		return err
	})
}

// octets checks what a content refers to; key is where it is if it is inline.
func (v *verifier) octets(c ContentID, ref blob.Ref, key []byte) error {
	v.Bytes += ref.Size
	switch ref.Kind {
	case blob.Inline:
		got, err := v.r.Get(v.ctx, key)
		if err != nil && !isNotFound(err) {
			return err
		}
		if err != nil || int64(len(got)) != ref.Size {
			v.problem("content %s: it has %d octets and should have %d", c, len(got), ref.Size)
		}
	case blob.File:
		v.files[ref.Name] = struct{}{}
	}
	return nil
}

// refs checks that every use is of a content that exists, by something that exists.
func (v *verifier) refs() error {
	var last ContentID
	exists := false
	return v.scan([]byte(ownerRef), func(tail, _ []byte) error {
		if len(tail) <= id.Size {
			v.problem("use %x: %v", tail, codec.ErrDamaged)
			return nil
		}
		c, use := ID(tail[:id.Size]), bytes.Clone(tail[id.Size:])
		if c != last {
			var err error
			if exists, err = v.has(contentKey(contentRecord, c)); err != nil {
				return err
			}
			last = c
			if !exists {
				v.problem("content %s does not exist and is used", c)
			}
		}
		return v.use(c, use)
	})
}

// use checks one use of a content.
func (v *verifier) use(c ContentID, use []byte) error {
	if bytes.HasPrefix(use, []byte(useLesson)) {
		return v.lessonUse(c, use)
	}
	if use[0] != useMessage {
		if v.o.Use == nil {
			return nil
		}
		needed, err := v.o.Use(v.ctx, v.r, c, string(use))
		if err == nil && !needed {
			v.problem("content %s: nobody needs its use %q", c, use)
		}
		return err
	}
	a, box, uid, ok := parseMessageUse(use)
	if !ok {
		v.problem("content %s: its use %q: %v", c, use, codec.ErrDamaged)
		return nil
	}
	value, err := v.r.Get(v.ctx, appendMessageKey(nil, a, box, uid))
	if isNotFound(err) {
		v.problem("content %s is used by account %s, mailbox %d, UID %d, which does not exist", c, a, box, uid)
		return nil
	}
	if err != nil {
		return err
	}
	var r record
	if decodeRecord(value, &r) == nil && r.content != c {
		v.problem("content %s is used by account %s, mailbox %d, UID %d, which has content %s", c, a, box, uid, r.content)
	}
	return nil
}

// blobs compares the content files with those that are named.
func (v *verifier) blobs() error {
	limit := v.s.clock().Add(-v.s.o.CollectAfter)
	err := v.s.blobs.List(v.ctx, func(e blob.Entry) error {
		v.Files++
		if _, ok := v.files[e.Ref.Name]; ok {
			delete(v.files, e.Ref.Name)
			return nil
		}
		if e.ModTime.After(limit) {
			return nil // its batch may be on its way
		}
		if len(v.Orphans) >= maxProblems {
			v.More = true
			return nil
		}
		v.Orphans = append(v.Orphans, e.Ref)
		return nil
	})
	if err != nil {
		return err
	}
	for name := range v.files {
		v.problem("content file %s does not exist", name)
	}
	return nil
}
