package bayes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// letter is a message of one kind, different from every other.
func letter(o opinion, n int) string {
	text := "meeting about the project schedule, the minutes are attached"
	if o == spam {
		text = "cheap pills, order now at http://pills.example/buy"
	}
	return fmt.Sprintf("From: somebody%d@sender%d.example\nSubject: letter w%d\n\n%s\n\nnumber n%d\n", n, n%7, n, text, n)
}

func teach(t *testing.T, p *sdktest.Plugin, kind sdk.EventKind, account, text string) string {
	t.Helper()
	m := sdktest.Learn(kind, text)
	m.Event.Account = account
	v, err := p.Ask(m)
	if err != nil || len(v.Reasons) != 1 {
		t.Fatalf("%v: %+v %v", kind, v, err)
	}
	return v.Reasons[0].Text
}

// school teaches n messages of each kind.
func school(t *testing.T, p *sdktest.Plugin, account string, n int) {
	t.Helper()
	for i := range n {
		teach(t, p, sdk.EventLearnSpam, account, letter(spam, i))
		teach(t, p, sdk.EventLearnHam, account, letter(ham, i))
	}
}

func ask(t *testing.T, p *sdktest.Plugin, text string) sdk.Verdict {
	t.Helper()
	v, err := p.Ask(sdktest.Mail(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// counted returns the totals of a database, read from a copy of the file.
func counted(t *testing.T, p *sdktest.Plugin, name string) counts {
	t.Helper()
	v, err := p.Ask(sdktest.Command("export"))
	if err != nil || v.Reasons[0].Symbol != "OK" {
		t.Fatalf("%+v %v", v, err)
	}
	db, err := bolt.Open(filepath.Join(p.StateDir, "bayes-export.db"), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var c counts
	if err := db.View(func(tx *bolt.Tx) error {
		if d := view(tx, name); d != nil {
			c = d.counts
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

var few = map[string]any{"min_spam": int64(20), "min_ham": int64(20)}

// TestLearns: silent at first; then it tells the kinds apart, and still does after a restart.
func TestLearns(t *testing.T) {
	p := sdktest.Start(t, New(), few)
	if v := ask(t, p, letter(spam, 1000)); v.Score != 0 || len(v.Reasons) != 0 {
		t.Errorf("untrained: %+v", v)
	}
	school(t, p, "", 19)
	if v := ask(t, p, letter(spam, 1000)); v.Score != 0 || len(v.Reasons) != 0 {
		t.Errorf("trained with too little: %+v", v)
	}
	school(t, p, "", 30)
	check := func(when string) {
		t.Helper()
		if v := ask(t, p, letter(spam, 1000)); v.Action != sdk.Accept || v.Score != 6.5 || v.Reasons[0].Symbol != "BAYES_99" {
			t.Errorf("%s: spam: %+v", when, v)
		}
		if v := ask(t, p, letter(ham, 1000)); v.Action != sdk.Accept || v.Score != -1.5 || v.Reasons[0].Symbol != "BAYES_00" {
			t.Errorf("%s: ham: %+v", when, v)
		}
		if v := ask(t, p, "From: x@unknown.example\n\nzzz yyy\n"); v.Score >= 6.5 {
			t.Errorf("%s: a message of unknown words: %+v", when, v)
		}
	}
	check("learned")
	before := counted(t, p, siteName)
	p = p.Restart(New(), few)
	check("after a restart")
	if after := counted(t, p, siteName); after != before {
		t.Errorf("a restart made %+v of %+v", after, before)
	}
}

// TestReasonsTellNothing: neither the trace nor the file says what anybody's mail was about.
func TestReasonsTellNothing(t *testing.T) {
	p := sdktest.Start(t, New(), few)
	school(t, p, "alice@example.test", 30)
	v := ask(t, p, letter(spam, 1000))
	for _, word := range []string{"pills", "order", "sender", "letter"} {
		if strings.Contains(strings.ToLower(v.Reasons[0].Text), word) {
			t.Errorf("the reason %q says %q", v.Reasons[0].Text, word)
		}
	}
	file, err := os.ReadFile(filepath.Join(p.StateDir, "bayes.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"pills", "schedule", "alice", "somebody"} {
		if strings.Contains(string(file), word) {
			t.Errorf("the database says %q", word)
		}
	}
	info, err := os.Stat(filepath.Join(p.StateDir, "bayes.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestOnce: what a second lesson about the same message does.
func TestOnce(t *testing.T) {
	const alice, bob, carol = "alice@example.test", "bob@example.test", "carol@example.test"
	type lesson struct {
		account string
		kind    sdk.EventKind
		want    string
	}
	const s, h = sdk.EventLearnSpam, sdk.EventLearnHam
	for name, c := range map[string]struct {
		lessons []lesson
		want    counts
	}{
		"twice":               {[]lesson{{alice, s, "learned"}, {alice, s, "known"}}, counts{Spam: 1, CountedSpam: 1}},
		"by another":          {[]lesson{{alice, s, "learned"}, {bob, s, "known"}}, counts{Spam: 1, CountedSpam: 1}},
		"changes mind":        {[]lesson{{alice, s, "learned"}, {alice, h, "learned"}}, counts{Ham: 1, CountedHam: 1}},
		"and back":            {[]lesson{{alice, s, "learned"}, {alice, h, "learned"}, {alice, s, "learned"}}, counts{Spam: 1, CountedSpam: 1}},
		"disputed":            {[]lesson{{alice, s, "learned"}, {bob, h, "disputed"}}, counts{}},
		"one vote a person":   {[]lesson{{alice, s, "learned"}, {bob, h, "disputed"}, {bob, h, "disputed"}, {bob, s, "disputed"}}, counts{}},
		"a third decides":     {[]lesson{{alice, s, "learned"}, {bob, h, "disputed"}, {carol, h, "learned"}}, counts{Ham: 1, CountedHam: 1}},
		"administrator":       {[]lesson{{alice, s, "learned"}, {"", h, "learned"}}, counts{Ham: 1, CountedHam: 1}},
		"admin after dispute": {[]lesson{{alice, s, "learned"}, {bob, h, "disputed"}, {"", s, "learned"}}, counts{Spam: 1, CountedSpam: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := sdktest.Start(t, New(), nil)
			for i, l := range c.lessons {
				if got := teach(t, p, l.kind, l.account, letter(spam, 1)); !strings.HasSuffix(got, l.want) {
					t.Errorf("lesson %d: %q, want %q", i, got, l.want)
				}
			}
			got := counted(t, p, siteName)
			if (got.Tokens == 0) != (c.want == counts{}) {
				t.Errorf("%d tokens", got.Tokens)
			}
			if got.Tokens = 0; got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// TestUnlearn: what is taken out leaves exactly what was there before.
func TestUnlearn(t *testing.T) {
	s := newStore(t)
	now := time.Now()
	limits := defaults().limits()
	dump := func() map[string]string {
		out := map[string]string{}
		if err := s.db.View(func(tx *bolt.Tx) error {
			d := view(tx, siteName)
			out["counts"] = fmt.Sprint(d.counts)
			return d.tokens.ForEach(func(k, v []byte) error { out[string(k)] = string(v); return nil })
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	learn := func(o opinion, account string, n int) {
		t.Helper()
		if _, err := s.learn(siteName, account, o, tokenize(s.k0, s.k1, []byte(letter(spam, n))), limits, now); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 10 {
		learn(spam, "", n)
	}
	before := dump()
	learn(spam, "a", 99)
	learn(ham, "a", 99)
	if len(dump()) <= len(before) {
		t.Error("the lesson left nothing")
	}
	learn(spam, "b", 99)
	after := dump()
	if len(after) != len(before) {
		t.Errorf("%d tokens, before %d", len(after), len(before))
	}
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%x: %q, before %q", k, after[k], v)
		}
	}
}

// TestQuota: one account cannot teach more than its share of a day; the next day it can.
func TestQuota(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clocked := New().(*plugin)
	clocked.now = func() time.Time { return now }
	p := sdktest.Start(t, clocked, map[string]any{"lessons_per_day": int64(3)})
	for i := range 5 {
		got := teach(t, p, sdk.EventLearnHam, "mallory@example.test", letter(spam, i))
		if ignored := strings.HasPrefix(got, "ignored"); ignored != (i >= 3) {
			t.Errorf("lesson %d: %q", i, got)
		}
	}
	if got := teach(t, p, sdk.EventLearnSpam, "alice@example.test", letter(spam, 10)); !strings.HasSuffix(got, "learned") {
		t.Errorf("another account: %q", got)
	}
	now = now.Add(24 * time.Hour)
	if got := teach(t, p, sdk.EventLearnHam, "mallory@example.test", letter(spam, 20)); !strings.HasSuffix(got, "learned") {
		t.Errorf("the day after: %q", got)
	}
	if got := counted(t, p, siteName); got.Ham != 4 || got.Spam != 1 {
		t.Errorf("%+v", got)
	}
}

// TestStrangers: what is only received teaches nothing.
func TestStrangers(t *testing.T) {
	p := sdktest.Start(t, New(), nil)
	for i := range 5 {
		ask(t, p, letter(spam, i))
	}
	if got := counted(t, p, siteName); got != (counts{}) {
		t.Errorf("%+v", got)
	}
}

// TestPerAccount: one account's lessons are its own; who has none yet is judged by the site's.
func TestPerAccount(t *testing.T) {
	const alice, bob = "alice@example.test", "bob@example.test"
	p := sdktest.Start(t, New(), map[string]any{"min_spam": int64(20), "min_ham": int64(20), "per_account": true, "lessons_per_day": int64(1000)})
	m := func() *sdk.Message {
		m := sdktest.Mail(letter(spam, 1000))
		m.Recipients = []sdk.Recipient{{Address: "info@example.test", Accounts: []string{alice}}, {Address: bob, Accounts: []string{bob}}, {Address: "x@elsewhere.example"}}
		return m
	}
	school(t, p, alice, 30)
	v, err := p.Ask(m())
	if err != nil || v.Score != 0 || len(v.Recipients) != 1 || v.Recipients[0].Recipient != "info@example.test" || v.Recipients[0].Score != 6.5 {
		t.Errorf("alice has learned: %+v %v", v, err)
	}
	school(t, p, "", 30)
	v, err = p.Ask(m())
	if err != nil || v.Score != 0 || len(v.Recipients) != 3 || v.Recipients[1].Score != 6.5 {
		t.Errorf("the site has learned: %+v %v", v, err)
	}
	if v, err := p.Ask(sdktest.Command("forget", alice)); err != nil || v.Reasons[0].Text != "1 databases dropped" {
		t.Errorf("%+v %v", v, err)
	}
	if got := counted(t, p, "@"+alice); got != (counts{}) {
		t.Errorf("forgotten: %+v", got)
	}
	if got := counted(t, p, siteName); got.Spam != 30 {
		t.Errorf("the site's: %+v", got)
	}
}

func TestCommands(t *testing.T) {
	p := sdktest.Start(t, New(), nil)
	school(t, p, "", 3)
	for _, c := range []struct{ words, want string }{
		{"stats", "OK learned: 3 spam, 3 ham"},
		{"stats nobody@example.test", "OK nothing learned yet"},
		{"export", "OK written to "},
		{"", "USAGE "},
		{"forget", "USAGE "},
		{"forget ../etc", "USAGE "},
		{"learn spam /etc/passwd", "ERROR "},
		{"learn spam ../../etc/passwd", "ERROR "},
		{"learn spam missing", "ERROR "},
		{"learn spam", "USAGE "},
		{"forget everything", "OK 1 databases dropped"},
		{"stats", "OK nothing learned yet"},
	} {
		v, err := p.Ask(sdktest.Command(strings.Fields(c.words)...))
		if err != nil || len(v.Reasons) == 0 || !strings.HasPrefix(v.Reasons[0].Symbol+" "+v.Reasons[0].Text, c.want) {
			t.Errorf("%q: %+v %v, want %q", c.words, v, err, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	for key, value := range map[string]any{
		"spam_score": -1.0, "ham_score": 1.0, "spam_at": 0.4, "ham_at": 0.6, "min_spam": int64(0), "min_ham": int64(0),
		"max_tokens": int64(5), "max_lessons": int64(5), "lessons_per_day": int64(-1), "per_account": "yes", "spam_scor": 1.0,
	} {
		err := sdktest.Configure(t, New(), map[string]any{key: value})
		var problem *sdk.SettingError
		if !errors.As(err, &problem) || problem.Key != key {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}

// TestLarge: 50 MB cost what 256 KiB cost, and a message without anything is a message.
func TestLarge(t *testing.T) {
	p := sdktest.Start(t, New(), few)
	school(t, p, "", 25)
	begin := time.Now()
	ask(t, p, "Subject: large\n\n"+strings.Repeat("cheap pills and project minutes\n", 50<<20/32))
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("50 MB took %v", took)
	}
	for _, text := range []string{"", "\n", "\x00", "no header"} {
		ask(t, p, text)
		teach(t, p, sdk.EventLearnSpam, "", text)
	}
}

// TestTeach: an administrator teaches folders and mboxes, and nothing outside the state directory.
func TestTeach(t *testing.T) {
	p := sdktest.Start(t, New(), few)
	folder := filepath.Join(p.StateDir, "spam", "cur")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	var mbox strings.Builder
	for i := range 45 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), []byte(letter(spam, i)), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&mbox, "From x@example.org Thu Aug 22 12:36:23 2002\n%s\n", letter(ham, i))
	}
	mbox.WriteString("From y@example.org Thu Aug 22 12:36:23 2002\nSubject: long\n\n" + strings.Repeat("x", 400<<10) + "\nFrom here on it is text\n")
	if err := os.WriteFile(filepath.Join(p.StateDir, "ham"), []byte(mbox.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(p.StateDir, "spam", "etc")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ words, want string }{
		{"learn spam spam", "45 messages learned as spam, 0 were known"},
		{"learn ham ham", "46 messages learned as ham, 0 were known"},
		{"learn ham ham", "0 messages learned as ham, 46 were known"},
		{"learn spam spam", "0 messages learned as spam, 45 were known"}, // the link to /etc is not followed
	} {
		v, err := p.Ask(sdktest.Command(strings.Fields(c.words)...))
		if err != nil || v.Reasons[0].Text != c.want {
			t.Errorf("%s: %+v %v, want %q", c.words, v, err, c.want)
		}
	}
	if v := ask(t, p, letter(spam, 1000)); v.Score != 6.5 {
		t.Errorf("%+v", v)
	}
	if got := counted(t, p, siteName); got.Spam != 45 || got.Ham != 46 {
		t.Errorf("%+v", got)
	}
}
