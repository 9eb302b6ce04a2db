package events

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Lessons is the part of the store that a Teacher works with.
type Lessons interface {
	Teach(pupils func(storage.LessonKind) []string, kick func())
	Lessons(ctx context.Context, pupil string, visit func(storage.Lesson) (more bool, err error)) error
	Pupils(ctx context.Context) ([]string, error)
	Learnt(ctx context.Context, list ...storage.Lesson) error
	OpenContent(ctx context.Context, id storage.ContentID, variant int, front []byte) (*storage.Content, error)
	KV() kv.Engine
}

// TeacherOptions are what a Teacher is made of.
type TeacherOptions struct {
	Store   Lessons
	Plugins func() []Plugin // those of the moment
	// Account returns the address of an account, or an error that wraps kv.ErrNotFound for one that is gone.
	Account func(ctx context.Context, id storage.AccountID) (string, error)
	Alert   func(plugin string, a sdk.Alert) // hears of alerts in answers; nil: nobody does
	Logger  *slog.Logger

	MaxAge  time.Duration // 0: a week
	Most    int           // lessons of one plugin; 0: 100,000
	Timeout time.Duration // for one answer, beside the plugin's own; 0: 1 min
	Retry   time.Duration // first wait after a lesson failed, it doubles up to 6 h; 0: 10 s
	Now     func() time.Time
}

// Teacher takes lessons to the plugins that learn.
type Teacher struct {
	o      TeacherOptions
	kick   chan struct{}
	cancel context.CancelFunc
	work   sync.WaitGroup

	learnt, failed, dropped atomic.Uint64

	mu     sync.Mutex
	pupils map[string]*pupil // of the running feeders
}

// NewTeacher returns a teacher; Start must be called before anything is written or told.
func NewTeacher(o TeacherOptions) *Teacher {
	if o.MaxAge == 0 {
		o.MaxAge = 7 * 24 * time.Hour
	}
	if o.Most == 0 {
		o.Most = 100_000
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Retry == 0 {
		o.Retry = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Alert == nil {
		o.Alert = func(string, sdk.Alert) {}
	}
	return &Teacher{o: o, kick: make(chan struct{}, 1), pupils: make(map[string]*pupil)}
}

// kindOf is the event that tells a lesson.
func kindOf(k storage.LessonKind) sdk.EventKind {
	if k == storage.LessonHam {
		return sdk.EventLearnHam
	}
	return sdk.EventLearnSpam
}

// known reports whether a plugin has said what it wants.
func known(p Plugin) bool { return p.Manifest().Name != "" }

// learns reports whether a plugin wants lessons of some kind, or has not said yet.
func learns(p Plugin) bool {
	return !known(p) || wants(p, sdk.EventLearnSpam) || wants(p, sdk.EventLearnHam)
}

// Start has the store write lessons, and begins to tell them.
func (t *Teacher) Start(ctx context.Context) {
	ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	t.o.Store.Teach(t.wanted, t.Kick)
	t.work.Go(func() { t.run(ctx) })
}

// Stop ends it. A lesson whose answer has not come is told again after the next start.
func (t *Teacher) Stop() {
	if t.cancel == nil {
		return
	}
	t.o.Store.Teach(func(storage.LessonKind) []string { return nil }, func() {})
	t.cancel()
	t.work.Wait()
}

// wanted names the plugins for whom lessons of a kind are written.
func (t *Teacher) wanted(kind storage.LessonKind) (names []string) {
	for _, p := range t.o.Plugins() {
		if !known(p) || wants(p, kindOf(kind)) {
			names = append(names, p.Name())
		}
	}
	return names
}

// Kick says that there are new lessons, or other plugins. It returns at once.
func (t *Teacher) Kick() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// run keeps a feeder for each plugin that learns, and removes what is too old.
func (t *Teacher) run(ctx context.Context) {
	const look, sweepEvery = 5 * time.Second, 10 * time.Minute
	tick := time.NewTicker(look)
	defer tick.Stop()
	var swept time.Time
	for {
		if time.Since(swept) > sweepEvery {
			if err := t.sweep(ctx); err != nil && ctx.Err() == nil {
				t.o.Logger.Error("old lessons stay for now", "why", err)
			}
			swept = time.Now()
		}
		t.feed(ctx)
		select {
		case <-t.kick:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// feed starts the feeders that are missing and wakes the others.
func (t *Teacher) feed(ctx context.Context) {
	plugins := t.o.Plugins()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range plugins {
		if !learns(p) {
			continue
		}
		have := t.pupils[p.Name()]
		if have == nil {
			have = &pupil{t: t, name: p.Name(), kick: make(chan struct{}, 1), failing: make(map[storage.ID]failing)}
			t.pupils[p.Name()] = have
			t.work.Go(func() { have.run(ctx) })
		}
		select {
		case have.kick <- struct{}{}:
		default:
		}
	}
}

// plugin returns the plugin of that name, or nil.
func (t *Teacher) plugin(name string) Plugin {
	list := t.o.Plugins()
	at := slices.IndexFunc(list, func(p Plugin) bool { return p.Name() == name })
	if at < 0 {
		return nil
	}
	return list[at]
}

// sweep removes lessons that are too old, those over the number, and those of plugins that do not learn. Lessons of a plugin
// that is not configured wait until they are too old: it may have been taken out for a moment.
func (t *Teacher) sweep(ctx context.Context) error {
	names, err := t.o.Store.Pupils(ctx)
	for _, name := range names {
		p := t.plugin(name)
		_, dropErr := t.look(ctx, name, func(storage.Lesson) bool { return p != nil && !learns(p) }, 0)
		err = errors.Join(err, dropErr)
	}
	return err
}

// look removes a plugin's lessons that are too old, too many, or unwanted, and returns how many stay and up to
// most of those for which ready says so, the oldest first.
func (t *Teacher) look(ctx context.Context, name string, unwanted func(storage.Lesson) bool, most int, ready ...func(storage.Lesson) bool) (view, error) {
	var v view
	var old, gone []storage.Lesson
	limit := t.o.Now().Add(-t.o.MaxAge)
	err := t.o.Store.Lessons(ctx, name, func(l storage.Lesson) (bool, error) {
		switch {
		case l.Time().Before(limit):
			old = append(old, l)
			return len(old) < 10_000, nil // more the next time
		case unwanted(l):
			gone = append(gone, l)
			return len(gone) < 10_000, nil
		}
		v.waiting++
		if len(v.ready) < most && ready[0](l) {
			v.ready = append(v.ready, l)
		}
		return true, nil
	})
	if err == nil && v.waiting > t.o.Most {
		over := v.waiting - t.o.Most
		err = t.o.Store.Lessons(ctx, name, func(l storage.Lesson) (bool, error) {
			old = append(old, l)
			return len(old) < over, nil
		})
		v.waiting -= over
		v.ready = slices.DeleteFunc(v.ready, func(l storage.Lesson) bool {
			return slices.ContainsFunc(old, func(o storage.Lesson) bool { return o.ID == l.ID })
		})
	}
	if err != nil {
		return v, err
	}
	if len(old) > 0 {
		t.dropped.Add(uint64(len(old)))
		t.o.Logger.Warn("lessons dropped", "plugin", name, "lessons", len(old), "why", "too old or too many")
	}
	return v, t.o.Store.Learnt(ctx, append(old, gone...)...)
}

// view is what look found.
type view struct {
	waiting int
	ready   []storage.Lesson
}

// Counts are what a Teacher did so far.
type Counts struct {
	Learnt, Failed, Dropped uint64
	Waiting                 map[string]int // by plugin, when it was last looked
}

// Counts returns the numbers of the moment.
func (t *Teacher) Counts() Counts {
	c := Counts{Learnt: t.learnt.Load(), Failed: t.failed.Load(), Dropped: t.dropped.Load(), Waiting: make(map[string]int)}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, p := range t.pupils {
		c.Waiting[name] = int(p.waiting.Load())
	}
	return c
}
