package storage

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// school is an account with a store in which two pupils learn.
type school struct {
	t    *testing.T
	s    *Store
	a    AccountID
	kick int
}

func newSchool(t *testing.T, o func(*Options)) *school {
	c := &school{t: t, s: openMemory(t, o)}
	a, err := c.s.CreateAccount(t.Context(), "alice@example.test", "correct horse", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.a = a.ID
	c.update(func(tx *Tx) error {
		for _, use := range []SpecialUse{UseJunk, UseTrash, UseArchive} {
			if _, err := tx.EnsureUse(use); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

func (c *school) update(fn func(*Tx) error) {
	c.t.Helper()
	if _, err := c.s.Update(c.t.Context(), c.a, fn); err != nil {
		c.t.Fatal(err)
	}
}

// teach begins the lessons for pupils.
func (c *school) teach(pupils ...string) {
	c.s.Teach(func(LessonKind) []string { return pupils }, func() { c.kick++ })
}

func (c *school) add(box, subject string, append bool, keywords ...string) (uid UID) {
	c.t.Helper()
	p := put(c.t, c.s, "Subject: "+subject+"\r\n\r\nbody\r\n")
	c.update(func(tx *Tx) error {
		m, err := tx.Mailbox(box)
		if err != nil {
			return err
		}
		p.Put(tx.Batch(), "")
		put := tx.Deliver
		if append {
			put = tx.Append
		}
		uid, err = put(m.ID, Delivery{Info: p.Info(0), Flags: Flags{Keywords: keywords}})
		return err
	})
	return uid
}

// lessons returns "spam: SUBJECT" of a pupil's lessons.
func (c *school) lessons(pupil string) (list []string, all []Lesson) {
	c.t.Helper()
	err := c.s.Lessons(c.t.Context(), pupil, func(l Lesson) (bool, error) {
		all = append(all, l)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range all {
		r, err := c.s.OpenContent(c.t.Context(), l.Content, l.Variant, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := io.ReadAll(r.Reader())
		if err := r.Close(); err != nil {
			c.t.Error(err)
		}
		subject, _, _ := strings.Cut(strings.TrimPrefix(string(text), "Subject: "), "\r\n")
		word := map[LessonKind]string{LessonSpam: "spam", LessonHam: "ham"}[l.Kind]
		if err != nil || l.Account != c.a || l.Pupil != pupil || time.Since(l.Time()) > time.Minute {
			c.t.Errorf("%+v %v", l, err)
		}
		list = append(list, word+": "+subject)
	}
	return list, all
}

func (c *school) verify() {
	c.t.Helper()
	report, err := c.s.Verify(c.t.Context(), VerifyOptions{})
	if err != nil || len(report.Problems) > 0 {
		c.t.Errorf("verify: %v %q", err, report.Problems)
	}
}

// TestLessons: what a user does, and what it teaches.
func TestLessons(t *testing.T) {
	box := func(tx *Tx, name string) MailboxID {
		m, err := tx.Mailbox(name)
		if err != nil {
			t.Fatal(err)
		}
		return m.ID
	}
	move := func(from, to string) func(*Tx, UID) error {
		return func(tx *Tx, uid UID) error {
			_, err := tx.Move(box(tx, from), box(tx, to), []UID{uid})
			return err
		}
	}
	copied := func(from, to string) func(*Tx, UID) error {
		return func(tx *Tx, uid UID) error {
			_, err := tx.Copy(box(tx, from), box(tx, to), []UID{uid})
			return err
		}
	}
	store := func(in string, mode FlagMode, words ...string) func(*Tx, UID) error {
		return func(tx *Tx, uid UID) error {
			_, err := tx.StoreFlags(box(tx, in), []UID{uid}, mode, Flags{Keywords: words}, Always)
			return err
		}
	}
	for name, tc := range map[string]struct {
		in       string
		append   bool
		keywords []string
		do       func(*Tx, UID) error
		want     string
	}{
		"move into Junk":              {in: "INBOX", do: move("INBOX", "Junk"), want: "spam"},
		"copy into Junk":              {in: "INBOX", do: copied("INBOX", "Junk"), want: "spam"},
		"out of Trash into Junk":      {in: "Trash", do: move("Trash", "Junk"), want: "spam"},
		"append into Junk":            {in: "Junk", append: true, want: "spam"},
		"append into INBOX":           {in: "INBOX", append: true},
		"delivery into Junk":          {in: "Junk"},
		"move out of Junk":            {in: "Junk", do: move("Junk", "INBOX"), want: "ham"},
		"copy out of Junk":            {in: "Junk", do: copied("Junk", "Archive"), want: "ham"},
		"Junk to Trash":               {in: "Junk", do: move("Junk", "Trash")},
		"within Junk":                 {in: "Junk", do: move("Junk", "Junk")},
		"INBOX to Archive":            {in: "INBOX", do: move("INBOX", "Archive")},
		"+FLAGS $Junk":                {in: "INBOX", do: store("INBOX", FlagsAdd, "$junk"), want: "spam"},
		"FLAGS $NotJunk":              {in: "INBOX", do: store("INBOX", FlagsSet, "a", "$NotJunk"), want: "ham"},
		"+FLAGS $Junk again":          {in: "INBOX", keywords: []string{"$Junk"}, do: store("INBOX", FlagsAdd, "$Junk", "b")},
		"-FLAGS $Junk":                {in: "INBOX", keywords: []string{"$Junk"}, do: store("INBOX", FlagsRemove, "$Junk")},
		"+FLAGS $Junk beside its foe": {in: "INBOX", keywords: []string{"$NotJunk"}, do: store("INBOX", FlagsAdd, "$Junk")},
		"FLAGS $Junk in its place":    {in: "INBOX", keywords: []string{"$NotJunk"}, do: store("INBOX", FlagsSet, "$Junk"), want: "spam"},
		"expunge from Junk": {in: "Junk", do: func(tx *Tx, uid UID) error {
			_, err := tx.Expunge(box(tx, "Junk"), []UID{uid}, false)
			return err
		}},
		"refused": {in: "INBOX", do: func(tx *Tx, uid UID) error {
			_, err := tx.Move(box(tx, "INBOX"), 9999, []UID{uid})
			if err == nil {
				t.Error("moved into a mailbox that is not there")
			}
			return nil
		}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c := newSchool(t, nil)
			c.teach("bayes", "rspamd")
			uid := c.add(tc.in, "s", tc.append, tc.keywords...)
			if tc.do != nil {
				c.update(func(tx *Tx) error { return tc.do(tx, uid) })
			}
			var want []string
			if tc.want != "" {
				want = []string{tc.want + ": s"}
			}
			for _, pupil := range []string{"bayes", "rspamd"} {
				if got, _ := c.lessons(pupil); !slices.Equal(got, want) {
					t.Errorf("%s: %q, want %q", pupil, got, want)
				}
			}
			if (c.kick > 0) != (want != nil) {
				t.Errorf("%d kicks", c.kick)
			}
			c.verify()
		})
	}
}

// TestLessonsHoldContent: a lesson keeps its content from the collector until it is learnt, and no longer; and costs nothing
// when nobody learns.
func TestLessonsHoldContent(t *testing.T) {
	c := newSchool(t, func(o *Options) { o.CollectAfter = time.Millisecond })
	uid := c.add("Junk", "quiet", true)
	c.teach()
	c.add("Junk", "nobody", true)
	if names, err := c.s.Pupils(t.Context()); err != nil || len(names) > 0 || c.kick > 0 {
		t.Errorf("lessons nobody wants: %v %v, %d kicks", names, err, c.kick)
	}
	c.teach("b", "a", "", "no/name", strings.Repeat("x", 65))
	for range 3 {
		uid = c.add("INBOX", "held", false)
		c.update(func(tx *Tx) error {
			in, _ := tx.Mailbox("INBOX")
			junk, _ := tx.Mailbox("Junk")
			_, err := tx.Move(in.ID, junk.ID, []UID{uid})
			return err
		})
	}
	c.update(func(tx *Tx) error {
		junk, _ := tx.Mailbox("Junk")
		_, err := tx.Expunge(junk.ID, nil, false)
		return err
	})
	collect := func() {
		time.Sleep(5 * time.Millisecond)
		if err := c.s.CollectNow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	collect()
	if names, err := c.s.Pupils(t.Context()); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("%v %v", names, err)
	}
	got, _ := c.lessons("a")
	if len(got) != 3 {
		t.Errorf("%q", got)
	}
	for _, pupil := range []string{"a", "b"} {
		_, all := c.lessons(pupil)
		if err := c.s.Learnt(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		c.verify()
	}
	collect()
	report, err := c.s.Verify(t.Context(), VerifyOptions{})
	if err != nil || report.Contents != 0 || len(report.Problems) > 0 {
		t.Errorf("%+v %v", report, err)
	}
	if names, err := c.s.Pupils(t.Context()); err != nil || len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
}

// TestLessonsAreBounded: what one account teaches within an hour is bounded, in messages and octets, whatever is expunged
// meanwhile; others teach as before, and the next hour is a new one.
func TestLessonsAreBounded(t *testing.T) {
	l := &lessons{}
	now := time.Unix(1_800_000_000, 0)
	many := make([]contentOf, maxTaught+10)
	if got := l.afford(AccountID{1}, now, many); len(got) != maxTaught {
		t.Errorf("%d messages at once", len(got))
	}
	if got := l.afford(AccountID{1}, now, many[:1]); len(got) != 0 {
		t.Error("one more")
	}
	large := []contentOf{{size: 50 << 20}, {size: 50 << 20}, {size: 1 << 20}}
	if got := l.afford(AccountID{2}, now, large); len(got) != 2 || got[1].size != 1<<20 {
		t.Errorf("%+v", got)
	}
	if got := l.afford(AccountID{2}, now.Add(time.Hour), large); len(got) != 2 || len(l.spent) != 1 {
		t.Errorf("an hour later %+v, %d accounts are remembered", got, len(l.spent))
	}
	c := newSchool(t, nil)
	c.teach("a")
	c.add("Junk", "one", true)
	c.s.lessons.Load().spent[c.a] = taught{lessons: maxTaught}
	c.add("Junk", "two", true)
	if got, _ := c.lessons("a"); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// TestDamagedLesson: one that cannot be read does not keep the others.
func TestDamagedLesson(t *testing.T) {
	c := newSchool(t, nil)
	var b kv.Batch
	b.Set([]byte(ownerLesson+"bayes/short"), nil)
	b.Set((&Lesson{ID: c.s.NewID(), Pupil: "bayes"}).appendKey(nil), []byte{9, 9})
	if _, err := c.s.KV().Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	c.teach("bayes")
	c.add("Junk", "good", true)
	for range 2 {
		if got, _ := c.lessons("bayes"); !slices.Equal(got, []string{"spam: good"}) {
			t.Errorf("%q", got)
		}
	}
}

func FuzzLesson(f *testing.F) {
	l := Lesson{ID: ID{1}, Pupil: "bayes", Kind: LessonHam, Account: ID{2}, Content: ID{3}, Variant: 15}
	f.Add(l.appendKey(nil), l.appendTo(nil))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		got, err := decodeLesson(key, value)
		if err != nil || value == nil {
			return
		}
		if string(got.appendKey(nil)) != string(key) || string(got.appendTo(nil)) != string(value) {
			t.Errorf("%q %q became %+v", key, value, got)
		}
	})
}
