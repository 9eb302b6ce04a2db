package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
)

// A lesson is what the owner of a mailbox teaches: this message is spam, or is not. It is written in the batch of the
// change that teaches it, once for every pupil (a plugin that learns), with a use of the content, and stays until the
// pupil has it or it is too old (RULES C6). Keys and values are in FORMAT.md.
//
// What teaches: a message that comes into the mailbox with special use \Junk by Move, Copy or Append, or gets the keyword
// $Junk, is spam; one that leaves it by Move or Copy for another one than \Trash, or gets $NotJunk, is not. Deliver, which
// is the server's own decision, teaches nothing.

// LessonKind says what is taught.
type LessonKind uint8

// The kinds of lesson.
const (
	LessonSpam LessonKind = iota + 1
	LessonHam
)

// Lesson is one message for one pupil.
type Lesson struct {
	ID      ID // rises; also the time
	Pupil   string
	Kind    LessonKind
	Account AccountID // whose mailbox it is
	Content ContentID
	Variant int
}

// Time returns when it was taught.
func (l *Lesson) Time() time.Time { return l.ID.Time() }

const (
	maxPupils    = 64 // of one lesson
	maxPupilName = 64
	useLesson    = "lesson/" // LESSON, in ref: the use of a content by a lesson

	keywordJunk    = "$Junk" // RFC 9051 section 2.3.2: exclude each other, and count for nothing together
	keywordNotJunk = "$NotJunk"
)

// What one account may teach within an hour. A lesson keeps content that its owner may have expunged, outside of his quota, until the
// pupils have it; and where there are too many the oldest go, which may be somebody else's.
const (
	maxTaught       = 5000
	maxTaughtOctets = 64 << 20
)

// lessons is what updates and the worker that takes lessons to their pupils have in common.
type lessons struct {
	pupils func(LessonKind) []string
	kick   func()

	mu    sync.Mutex
	hour  int64 // since 1970
	spent map[AccountID]taught
}

// taught is what an account has taught within an hour.
type taught struct {
	lessons int
	octets  int64
}

// afford returns those of the messages about which the account may teach now. Updates that fail afterwards count too.
func (l *lessons) afford(a AccountID, now time.Time, about []contentOf) []contentOf {
	l.mu.Lock()
	defer l.mu.Unlock()
	if hour := now.Unix() / 3600; hour != l.hour || l.spent == nil {
		l.hour, l.spent = hour, make(map[AccountID]taught)
	}
	spent := l.spent[a]
	kept := about[:0:0]
	for _, c := range about {
		if spent.lessons < maxTaught && spent.octets+c.size <= maxTaughtOctets {
			spent.lessons++
			spent.octets += c.size
			kept = append(kept, c)
		}
	}
	l.spent[a] = spent
	return kept
}

// Teach has updates write lessons from now on. pupils names those for whom (letters, digits, - and _; none: nothing is
// written); it is called under an account's lock and returns at once. kick, also called so, says that there are new
// ones.
func (s *Store) Teach(pupils func(LessonKind) []string, kick func()) {
	s.lessons.Store(&lessons{pupils: pupils, kick: kick})
}

// teach adds a lesson about each content to the batch.
func (tx *Tx) teach(kind LessonKind, about ...contentOf) {
	l := tx.s.lessons.Load()
	if l == nil || len(about) == 0 {
		return
	}
	pupils := l.pupils(kind)
	if len(pupils) == 0 {
		return
	}
	about = l.afford(tx.id, tx.now, about)
	for _, name := range pupils[:min(len(pupils), maxPupils)] {
		if name == "" || len(name) > maxPupilName || strings.Contains(name, "/") {
			continue
		}
		for _, c := range about {
			one := Lesson{tx.s.ids.New(tx.now), name, kind, tx.id, c.id, int(c.variant)}
			tx.set(one.appendKey, one.appendTo)
			tx.batch.Set(appendRefKey(nil, c.id, one.use()), nil)
			tx.taught = true
		}
	}
}

// contentOf is a variant of a content.
type contentOf struct {
	id      ContentID
	variant uint8
	size    int64
}

// teachTransfer says what a copy or a move from one mailbox into another teaches.
func (tx *Tx) teachTransfer(from, to SpecialUse, items []item) {
	kind := LessonSpam
	switch {
	case from != UseJunk && to == UseJunk:
	case from == UseJunk && to != UseJunk && to != UseTrash:
		kind = LessonHam
	default:
		return
	}
	if tx.s.lessons.Load() == nil {
		return
	}
	about := make([]contentOf, len(items))
	for i := range items {
		about[i] = contentOf{items[i].content, items[i].variant, items[i].size}
	}
	tx.teach(kind, about...)
}

// teachKeywords says what a change of keywords teaches.
func (tx *Tx) teachKeywords(b *box, it *item, before []byte) {
	if tx.s.lessons.Load() == nil {
		return
	}
	word := func(list []byte, name string) bool {
		return slices.ContainsFunc(list, func(k byte) bool { return int(k) < len(b.Keywords) && strings.EqualFold(b.Keywords[k], name) })
	}
	junk, notJunk := word(it.keywords, keywordJunk), word(it.keywords, keywordNotJunk)
	about := contentOf{it.content, it.variant, it.size}
	switch {
	case junk && !notJunk && !word(before, keywordJunk):
		tx.teach(LessonSpam, about)
	case notJunk && !junk && !word(before, keywordNotJunk):
		tx.teach(LessonHam, about)
	}
}

func (l *Lesson) use() string { return useLesson + string(l.ID[:]) }

func (l *Lesson) appendKey(b []byte) []byte {
	b = append(append(append(b, ownerLesson...), l.Pupil...), '/')
	return append(b, l.ID[:]...)
}

func (l *Lesson) appendTo(b []byte) []byte {
	b = append(b, recordVersion, byte(l.Kind))
	b = append(b, l.Account[:]...)
	b = append(b, l.Content[:]...)
	return append(b, byte(l.Variant))
}

// decodeLesson reads a key and its value; the value may be nil.
func decodeLesson(key, value []byte) (l Lesson, err error) {
	tail, ok := bytes.CutPrefix(key, []byte(ownerLesson))
	at := len(tail) - id.Size - 1
	if !ok || at < 1 || tail[at] != '/' {
		return l, fmt.Errorf("lesson %q: %w", key, codec.ErrDamaged)
	}
	l.Pupil, l.ID = string(tail[:at]), ID(tail[at+1:])
	if value == nil {
		return l, nil
	}
	d := decode(value)
	l.Kind, l.Account, l.Content, l.Variant = LessonKind(d.Octet()), readID(&d), readID(&d), int(d.Octet())
	if l.Kind != LessonSpam && l.Kind != LessonHam || l.Variant >= maxVariants {
		d.Fail()
	}
	return l, d.End("lesson " + l.ID.String())
}

func pupilPrefix(name string) []byte { return append(append([]byte(ownerLesson), name...), '/') }

// Lessons visits what there is for a pupil, the oldest first. What it shows may not be durable: who tells somebody waits
// for the engine's Tail first. One that cannot be read is passed over and removed.
func (s *Store) Lessons(ctx context.Context, pupil string, visit func(Lesson) (more bool, err error)) error {
	var damaged [][]byte
	prefix := pupilPrefix(pupil)
	err := s.engine.Scan(ctx, prefix, prefixEnd(prefix), false, func(key, value []byte) (bool, error) {
		l, err := decodeLesson(key, value)
		if err != nil {
			s.log.Error("store: a lesson that cannot be read goes", "key", key, "err", err)
			damaged = append(damaged, bytes.Clone(key))
			return len(damaged) < 1000, nil
		}
		return visit(l)
	})
	if err == nil && len(damaged) > 0 {
		var b kv.Batch
		for _, key := range damaged {
			b.Delete(key)
		}
		_, err = s.engine.Apply(ctx, &b)
	}
	if err != nil {
		return fmt.Errorf("read the lessons for %s: %w", pupil, err)
	}
	return nil
}

// Pupils returns the names for which there are lessons.
func (s *Store) Pupils(ctx context.Context) (names []string, err error) {
	end := prefixEnd([]byte(ownerLesson))
	for lower := []byte(ownerLesson); ; {
		name := ""
		err := s.engine.Scan(ctx, lower, end, false, func(key, _ []byte) (bool, error) {
			tail := key[len(ownerLesson):]
			if at := bytes.IndexByte(tail, '/'); at >= 0 {
				name = string(tail[:at])
			}
			return false, nil
		})
		if err != nil || name == "" {
			return names, err
		}
		names = append(names, name)
		lower = prefixEnd(pupilPrefix(name))
	}
}

// Learnt removes lessons that their pupils have, or that nobody waits for any more. It need not be durable: a crash brings
// them back, and a lesson is told at least once.
func (s *Store) Learnt(ctx context.Context, list ...Lesson) error {
	for len(list) > 0 {
		n := min(len(list), 1000)
		var b kv.Batch
		for i := range list[:n] {
			b.Delete(list[i].appendKey(nil))
			s.DropRef(&b, list[i].Content, list[i].use())
		}
		if _, err := s.engine.Apply(ctx, &b); err != nil {
			return fmt.Errorf("remove lessons: %w", err)
		}
		list = list[n:]
	}
	return nil
}

// lessonUse checks the use of a content by a lesson.
func (v *verifier) lessonUse(c ContentID, use []byte) error {
	tail := use[len(useLesson):]
	if len(tail) != id.Size {
		v.problem("content %s: its use %q: %v", c, use, codec.ErrDamaged)
		return nil
	}
	found, err := v.s.hasLesson(v.ctx, v.r, ID(tail), c)
	if err == nil && !found {
		v.problem("content %s is used by lesson %s, which does not exist", c, ID(tail))
	}
	return err
}

// hasLesson looks for a lesson whose pupil is not known.
func (s *Store) hasLesson(ctx context.Context, r kv.Reader, lesson ID, c ContentID) (bool, error) {
	end := prefixEnd([]byte(ownerLesson))
	for lower := []byte(ownerLesson); ; {
		name := ""
		err := r.Scan(ctx, lower, end, false, func(key, _ []byte) (bool, error) {
			l, err := decodeLesson(key, nil)
			name = l.Pupil
			return false, err
		})
		if err != nil || name == "" {
			return false, err
		}
		value, err := r.Get(ctx, (&Lesson{ID: lesson, Pupil: name}).appendKey(nil))
		if err == nil {
			l, err := decodeLesson((&Lesson{ID: lesson, Pupil: name}).appendKey(nil), value)
			return err == nil && l.Content == c, nil
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return false, err
		}
		lower = prefixEnd(pupilPrefix(name))
	}
}
