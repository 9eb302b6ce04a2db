package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var quiet = slog.New(slog.DiscardHandler)

// fake is a plugin that writes down what it hears.
type fake struct {
	name string

	mu       sync.Mutex
	manifest sdk.Manifest
	answer   func(subject string) error
	heard    []string
}

func (f *fake) Name() string { return f.name }

func (f *fake) Manifest() sdk.Manifest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.manifest
}

func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) Tell(q *pluginhost.Question) {
	f.set(func(f *fake) { f.heard = append(f.heard, fmt.Sprint(q.Event.Kind, " ", q.Envelope.ID)) })
}

func (f *fake) Ask(_ context.Context, q *pluginhost.Question) (sdk.Verdict, time.Duration, error) {
	r, err := q.Open()
	if err != nil {
		return sdk.Verdict{}, 0, err
	}
	octets, err := io.ReadAll(r)
	if err != nil || int64(len(octets)) != q.Size || !bytes.Contains(octets[:q.HeaderSize], []byte("Subject")) {
		return sdk.Verdict{}, 0, fmt.Errorf("%d of %d octets, %d of the header: %w", len(octets), q.Size, q.HeaderSize, err)
	}
	subject, _, _ := strings.Cut(strings.TrimPrefix(string(octets), "Subject: "), "\r\n")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer != nil {
		if err := f.answer(subject); err != nil {
			return sdk.Verdict{}, 0, err
		}
	}
	f.heard = append(f.heard, fmt.Sprint(q.Event.Kind, " ", subject, " ", q.Event.Account))
	return sdk.Verdict{Alerts: []sdk.Alert{{Key: "learnt"}}}, 0, nil
}

func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	heard := f.heard
	f.heard = nil
	return heard
}

func wanting(name string, kinds ...sdk.EventKind) *fake {
	return &fake{name: name, manifest: sdk.Manifest{Name: name, Events: kinds}}
}

func plugins(list ...*fake) func() []Plugin {
	return func() []Plugin {
		out := make([]Plugin, len(list))
		for i, f := range list {
			out[i] = f
		}
		return out
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// disk is an engine whose durability a test decides.
type disk struct {
	mu      sync.Mutex
	tail    kv.Pos
	durable chan struct{} // closed: everything is
	err     error
}

func (d *disk) Tail() kv.Pos {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tail++
	return d.tail
}

func (d *disk) WaitDurable(ctx context.Context, _ kv.Pos) error {
	select {
	case <-d.durable:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestSink: who wants a kind hears of it, after the change is durable, and not before.
func TestSink(t *testing.T) {
	all, some, none := wanting("all", sdk.EventDelivered, sdk.EventBounced), wanting("some", sdk.EventBounced), wanting("none")
	d := &disk{durable: make(chan struct{})}
	s := NewSink(SinkOptions{Plugins: plugins(all, some, none), Engine: d, Logger: quiet, Gather: time.Millisecond})
	s.Start(t.Context())
	if !s.Wants(sdk.EventDelivered) || s.Wants(sdk.EventRefused) {
		t.Error("what is wanted is not what the manifests say")
	}
	s.Tell(sdk.Envelope{ID: "1"}, sdk.Event{Kind: sdk.EventDelivered})
	s.Tell(sdk.Envelope{ID: "2"}, sdk.Event{Kind: sdk.EventBounced})
	time.Sleep(20 * time.Millisecond)
	if got := all.take(); len(got) > 0 {
		t.Errorf("told before it was durable: %q", got)
	}
	close(d.durable)
	var got []string
	eventually(t, "two events", func() bool { got = append(got, all.take()...); return len(got) == 2 })
	if !slices.Equal(got, []string{"delivered 1", "bounced 2"}) {
		t.Errorf("%q", got)
	}
	if got := some.take(); !slices.Equal(got, []string{"bounced 2"}) || len(none.take()) > 0 {
		t.Errorf("%q", got)
	}
	s.Tell(sdk.Envelope{ID: "3"}, sdk.Event{Kind: sdk.EventBounced})
	s.Stop(t.Context())
	if got := some.take(); !slices.Equal(got, []string{"bounced 3"}) {
		t.Errorf("at the end: %q", got)
	}
	if told, dropped := s.Told(); told[sdk.EventBounced] != 4 || told[sdk.EventDelivered] != 1 || dropped != 0 {
		t.Errorf("%v, %d", told, dropped)
	}
}

// TestSinkIsBounded: the oldest go, and what cannot be made durable is not told.
func TestSinkIsBounded(t *testing.T) {
	p := wanting("p", sdk.EventBounced)
	d := &disk{durable: make(chan struct{})}
	s := NewSink(SinkOptions{Plugins: plugins(p), Engine: d, Logger: quiet, Most: 3})
	for i := range 10 {
		s.Tell(sdk.Envelope{ID: fmt.Sprint(i)}, sdk.Event{Kind: sdk.EventBounced})
	}
	close(d.durable)
	s.flush(t.Context())
	if got := p.take(); !slices.Equal(got, []string{"bounced 7", "bounced 8", "bounced 9"}) {
		t.Errorf("%q", got)
	}
	d.err = errors.New("no")
	s.Tell(sdk.Envelope{}, sdk.Event{Kind: sdk.EventBounced})
	s.flush(t.Context())
	if _, dropped := s.Told(); len(p.take()) > 0 || dropped != 8 {
		t.Errorf("dropped %d", dropped)
	}
}

// school is a store with a teacher and an account.
type school struct {
	t       *testing.T
	store   *storage.Store
	account account.Account
	teacher *Teacher
	skip    time.Duration
	alerts  atomic.Int64
	mu      sync.Mutex
}

func newSchool(t *testing.T, list ...*fake) *school {
	store, err := storage.Open(t.Context(), storage.Options{
		Dir: "data", FS: vfs.NewMem(), Engine: kvtest.NewMemory(), Cost: account.Cost{Memory: 64, Time: 1, Threads: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := store.CreateAccount(t.Context(), "alice@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := &school{t: t, store: store, account: a}
	s.teacher = NewTeacher(TeacherOptions{
		Alert: func(string, sdk.Alert) { s.alerts.Add(1) },
		Store: store, Plugins: plugins(list...), Logger: quiet, Retry: 20 * time.Millisecond, Most: 50,
		Account: func(ctx context.Context, id storage.AccountID) (string, error) {
			a, err := store.Accounts().ByID(ctx, id)
			return a.Address, err
		},
		Now: func() time.Time {
			s.mu.Lock()
			defer s.mu.Unlock()
			return time.Now().Add(s.skip)
		},
	})
	s.teacher.Start(t.Context())
	t.Cleanup(func() {
		s.teacher.Stop()
		if report, err := store.Verify(context.Background(), storage.VerifyOptions{}); err != nil || len(report.Problems) > 0 {
			t.Errorf("verify: %v %q", err, report.Problems)
		}
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// junk appends a message to Junk.
func (s *school) junk(subject string) {
	s.t.Helper()
	sp := s.store.Blobs().NewSpool()
	_, _ = io.WriteString(sp, "Subject: "+subject+"\r\n\r\nbody\r\n")
	draft, err := sp.Finish()
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := s.store.Prepare(s.t.Context(), draft, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.store.Update(s.t.Context(), s.account.ID, func(tx *storage.Tx) error {
		box, err := tx.EnsureUse(storage.UseJunk)
		if err != nil {
			return err
		}
		p.Put(tx.Batch(), "")
		_, err = tx.Append(box.ID, storage.Delivery{Info: p.Info(0)})
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *school) waiting(pupil string) (n int) {
	s.t.Helper()
	if err := s.store.Lessons(s.t.Context(), pupil, func(storage.Lesson) (bool, error) { n++; return true, nil }); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// hears waits until a plugin has heard of these subjects, each once, in any order.
func (s *school) hears(f *fake, subjects ...string) {
	s.t.Helper()
	var got, want []string
	for _, subject := range subjects {
		want = append(want, "learn-spam "+subject+" alice@example.test")
	}
	eventually(s.t, fmt.Sprint(f.name, " hears of ", subjects), func() bool { got = append(got, f.take()...); return len(got) >= len(want) })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Errorf("%s heard %q, want %q", f.name, got, want)
	}
	eventually(s.t, "nothing is left for "+f.name, func() bool { return s.waiting(f.name) == 0 })
}

// TestTeacher: each plugin hears of each lesson; what fails is tried again and keeps nobody else from learning.
func TestTeacher(t *testing.T) {
	tries := 0
	good, ham := wanting("good", sdk.EventLearnSpam, sdk.EventLearnHam), wanting("ham", sdk.EventLearnHam)
	picky, deaf := wanting("picky", sdk.EventLearnSpam), wanting("deaf", sdk.EventDelivered)
	picky.answer = func(subject string) error {
		if subject == "two" {
			if tries++; tries < 4 {
				return &pluginhost.Failure{Kind: pluginhost.Error, Err: errors.New("not this one")}
			}
		}
		return nil
	}
	s := newSchool(t, good, ham, picky, deaf)
	for _, subject := range []string{"one", "two", "three"} {
		s.junk(subject)
	}
	s.hears(good, "one", "two", "three")
	s.hears(picky, "one", "two", "three")
	if tries != 4 || s.alerts.Load() != 6 || len(ham.take())+len(deaf.take()) > 0 || s.waiting("ham")+s.waiting("deaf") > 0 {
		t.Errorf("%d tries", tries)
	}
	if c := s.teacher.Counts(); c.Learnt != 6 || c.Failed != 3 || c.Dropped != 0 || c.Waiting["good"] != 0 {
		t.Errorf("%+v", c)
	}
}

// TestTeacherWaits: for a plugin that has never started, and for one that does not run.
func TestTeacherWaits(t *testing.T) {
	p := &fake{name: "late"}
	s := newSchool(t, p)
	s.junk("early")
	time.Sleep(20 * time.Millisecond)
	if got := p.take(); len(got) > 0 || s.waiting("late") != 1 {
		t.Errorf("heard %q before it ran", got)
	}
	p.set(func(p *fake) {
		p.manifest = sdk.Manifest{Name: "late", Events: []sdk.EventKind{sdk.EventLearnSpam}}
		p.answer = func(string) error {
			return &pluginhost.Failure{Kind: pluginhost.Crash, Err: errors.New("it does not run")}
		}
	})
	eventually(t, "it was tried", func() bool { return s.teacher.Counts().Failed > 0 })
	p.set(func(p *fake) { p.answer = nil })
	s.hears(p, "early")
}

// TestTeacherForgets: what is too old, too much, of nobody or for nobody.
func TestTeacherForgets(t *testing.T) {
	p := &fake{name: "p"}
	s := newSchool(t, p)
	for i := range 60 {
		s.junk(fmt.Sprint(i))
	}
	eventually(t, "those over the number go", func() bool { s.teacher.Kick(); return s.waiting("p") == 50 })
	if c := s.teacher.Counts(); c.Dropped != 10 {
		t.Errorf("%+v", c)
	}
	s.mu.Lock()
	s.skip = 8 * 24 * time.Hour
	s.mu.Unlock()
	eventually(t, "the old go", func() bool { s.teacher.Kick(); return s.waiting("p") == 0 })
	if c := s.teacher.Counts(); c.Dropped != 60 {
		t.Errorf("%+v", c)
	}
	s.mu.Lock()
	s.skip = 0
	s.mu.Unlock()

	s.junk("unwanted")
	p.set(func(p *fake) { p.manifest = sdk.Manifest{Name: "p", Events: []sdk.EventKind{sdk.EventLearnHam}} })
	eventually(t, "the unwanted go", func() bool { s.teacher.Kick(); return s.waiting("p") == 0 })

	p.set(func(p *fake) { p.manifest = sdk.Manifest{} })
	s.junk("of nobody")
	if err := s.store.RemoveAccount(t.Context(), "alice@example.test", true); err != nil {
		t.Fatal(err)
	}
	p.set(func(p *fake) { p.manifest = sdk.Manifest{Name: "p", Events: []sdk.EventKind{sdk.EventLearnSpam}} })
	eventually(t, "those of an account that is gone go", func() bool { s.teacher.Kick(); return s.waiting("p") == 0 })
	if got := p.take(); len(got) > 0 {
		t.Errorf("heard %q", got)
	}
}

// letters is what postmaster got.
type letters struct {
	mu   sync.Mutex
	list []Letter
	err  error
}

func (l *letters) send(_ context.Context, one Letter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.list = append(l.list, one)
	}
	return l.err
}

// TestAlerter: a letter a day about one thing, 20 for one plugin, remembered over restarts; memory is bounded.
func TestAlerter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	engine := kvtest.NewMemory()
	defer engine.Close()
	post := &letters{}
	var log bytes.Buffer
	open := func() *Alerter {
		a := NewAlerter(AlerterOptions{Send: post.send, Engine: engine, Logger: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now }})
		a.recall(t.Context())
		return a
	}
	a := open()
	tell := func(plugin, key, text string) {
		a.tell(t.Context(), raised{plugin, sdk.Alert{Key: key, Text: text}, false})
	}
	written := func(want int) {
		t.Helper()
		if len(post.list) != want {
			t.Errorf("%d letters, want %d", len(post.list), want)
		}
	}
	tell("av", "k", "one")
	tell("av", "k", "two")
	tell("av", "other", "three")
	tell("spam", "k", "four")
	written(3)
	if got := strings.Count(log.String(), "msg=alert"); got != 3 {
		t.Errorf("%d lines:\n%s", got, &log)
	}
	now = now.Add(23 * time.Hour)
	a = open()
	tell("av", "k", "after a restart")
	written(3)
	now = now.Add(2 * time.Hour)
	tell("av", "k", "the next day")
	written(4)
	if l := post.list[3]; l.Times != 2 || l.Alert.Text != "the next day" {
		t.Errorf("%+v", l)
	}
	post.err = errors.New("no")
	tell("av", "failing", "x")
	post.err = nil
	tell("av", "failing", "too soon")
	written(4)
	now = now.Add(2 * time.Minute)
	tell("av", "failing", "again")
	written(5)
	for i := range 3 * maxAlerts {
		tell("chatty", fmt.Sprint("key ", i), "text")
	}
	written(5 + lettersPerDay)
	if len(a.about) > maxAlerts {
		t.Errorf("%d subjects in memory", len(a.about))
	}
	now = now.Add(48 * time.Hour)
	open()
	n := 0
	_ = engine.Scan(t.Context(), []byte(alertPrefix), []byte("alert0"), false, func(_, _ []byte) (bool, error) { n++; return true, nil })
	if n != 0 {
		t.Errorf("%d alerts are remembered for ever", n)
	}
}

// TestAlerterNeverBlocks: also when nobody looks.
func TestAlerterNeverBlocks(t *testing.T) {
	a := NewAlerter(AlerterOptions{Logger: quiet})
	for range 5 * maxPending {
		a.Alert("p", sdk.Alert{Key: "k\r\nX: y\x00", Text: strings.Repeat("\xff\u2028", 3000)})
	}
	got := <-a.pending
	if byPlugin, dropped := a.Raised(); byPlugin["p"] != 5*maxPending || dropped != 4*maxPending {
		t.Errorf("%v %d", byPlugin, dropped)
	}
	if got.alert.Key != "k??X: y?" || len(got.alert.Text) > maxAlertText || strings.ContainsAny(got.alert.Text, "\r\n\u2028") {
		t.Errorf("%.200q", got.alert)
	}
	a.Start(t.Context())
	a.Stop()
}

// TestLetter: whatever the texts are, it is one message with those fields and no others.
func TestLetter(t *testing.T) {
	for _, text := range []string{
		"plain", "Gr\u00fc\u00dfe", strings.Repeat("word ", 400), strings.Repeat("\u20ac", 700), strings.Repeat("x", 2000), "",
	} {
		l := Letter{Plugin: "av", Alert: sdk.Alert{Key: text[:min(len(text), maxAlertKey)], Text: text}, At: time.Now(), Times: 3}
		l.Alert.Key = cleanText(l.Alert.Key, maxAlertKey)
		message, eight := l.Write("postmaster@example.test", "mx.example.test", "ID")
		m, err := mail.ReadMessage(strings.NewReader(message))
		if err != nil {
			t.Fatalf("%v\n%s", err, message)
		}
		want := []string{"Auto-Submitted", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To"}
		var have []string
		for name := range m.Header {
			if name != "Content-Transfer-Encoding" {
				have = append(have, name)
			}
		}
		slices.Sort(have)
		if !slices.Equal(have, want) || m.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("%q: fields %q", text, have)
		}
		if _, err := mail.ParseAddress(m.Header.Get("From")); err != nil {
			t.Error(err)
		}
		for i, line := range strings.Split(message, "\r\n") {
			if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
				t.Errorf("%.20q: line %d has %d octets", text, i, len(line))
			}
		}
		if eight != strings.ContainsFunc(text, func(r rune) bool { return r > '~' }) {
			t.Errorf("%.20q: 8 bits: %v", text, eight)
		}
	}
}

// TestWatch: what counts as a plugin that fails, and what does not.
func TestWatch(t *testing.T) {
	now := time.Now()
	state := pluginhost.State{Name: "av", State: "ready"}
	var got []string
	free, admit := int64(100<<30), error(nil)
	w := NewWatch(WatchOptions{
		States: func() []pluginhost.State { return []pluginhost.State{state} },
		Raise:  func(plugin string, a sdk.Alert) { got = append(got, strings.TrimPrefix(plugin+" "+a.Key, "av ")) },
		Admit:  func() error { return admit }, Free: func() int64 { return free }, Low: 1 << 30,
		Now: func() time.Time { return now },
	})
	step := func(d time.Duration, asked, failed uint64, want ...string) {
		t.Helper()
		got = nil
		now = now.Add(d)
		state.Asked, state.Failures = asked, map[pluginhost.Kind]uint64{pluginhost.Error: failed}
		w.Look()
		if !slices.Equal(got, want) {
			t.Errorf("%d asked, %d failed: %q, want %q", asked, failed, got, want)
		}
	}
	step(0, 10, 0)
	step(5*time.Second, 10, 0)
	step(5*time.Second, 11, 1)
	step(time.Minute, 11, 1) // one message may be to blame alone
	step(5*time.Second, 12, 2, "plugin av")
	step(5*time.Second, 13, 2, "plugin av") // perhaps an answer
	step(5*time.Second, 13, 2)
	step(5*time.Second, 14, 3)
	step(5*time.Second, 15, 4)
	step(5*time.Second, 16, 4) // perhaps an answer, perhaps a failure that is being counted
	step(5*time.Second, 16, 5)
	step(20*time.Second, 17, 6, "plugin av")
	step(time.Second, 2, 1) // another one of that name
	step(time.Hour, 2, 1)
	state.State, state.Why = "waiting", "exit status 1"
	step(time.Second, 2, 1)
	step(time.Second, 2, 1)
	step(30*time.Second, 2, 1, "plugin av is down")
	state.State = "ready"
	free = 1 << 20
	step(time.Minute, 2, 1, " disk")
	admit = kv.ErrFull
	step(time.Second, 2, 1) // it is not asked each time
	step(time.Minute, 2, 1, " disk full")
}
