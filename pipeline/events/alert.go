package events

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// Letter is what the administrator is to be written.
type Letter struct {
	Plugin string // whose alert it is, or "" for the server's own
	Alert  sdk.Alert
	At     time.Time
	Times  int // how often it was raised since the last letter about it, this time included
}

// ErrNobody is what Send returns when there is no postmaster to write to: the log is all there is.
var ErrNobody = errors.New("there is no postmaster")

// AlerterOptions are what an Alerter is made of.
type AlerterOptions struct {
	Send   func(ctx context.Context, l Letter) error // queues a message to postmaster; nil: none are written
	Engine kv.Engine                                 // remembers what was written; nil: nothing is
	Logger *slog.Logger
	Now    func() time.Time
}

// Bounds on alerts.
const (
	alertEvery    = 24 * time.Hour // a letter about one thing
	logEvery      = time.Minute    // a line about one thing
	lettersPerDay = 20             // of one plugin
	maxAlerts     = 1000           // things that are remembered
	maxPending    = 100            // raised and not looked at yet
	maxAlertKey   = 200
	maxAlertText  = 2000

	alertPrefix = "alert/" // HASH(8)
	alertForm   = 1
)

// Alerter tells the administrator what he should hear of soon. Raise may be called from any goroutine.
type Alerter struct {
	o       AlerterOptions
	pending chan raised
	cancel  context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	counts map[string]uint64 // raised, by plugin; plugins are few: they have tables

	dropped atomic.Uint64

	// Of the goroutine alone.
	about   map[uint64]*subject
	letters map[string][]time.Time // of the last day, by plugin
}

type raised struct {
	plugin string
	alert  sdk.Alert
	logged bool // by who raised it
}

// subject is what an alert is about: a plugin and a key.
type subject struct {
	written time.Time // the last letter
	seen    time.Time // when it was raised last
	logged  time.Time
	tried   time.Time // to write a letter
	times   int       // raised since the last letter
}

// NewAlerter returns an alerter; Start must be called before it does anything.
func NewAlerter(o AlerterOptions) *Alerter {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Alerter{
		o: o, pending: make(chan raised, maxPending), done: make(chan struct{}), counts: make(map[string]uint64),
		about: make(map[uint64]*subject), letters: make(map[string][]time.Time),
	}
}

// Raise takes an alert about a plugin ("" for the server's own), which is logged. It returns at once; what is more than
// one can look at is counted.
func (a *Alerter) Raise(plugin string, alert sdk.Alert) { a.raise(plugin, alert, false) }

// Alert is Raise for who has logged it already: pipeline.Alerter, and the plugin host.
func (a *Alerter) Alert(plugin string, alert sdk.Alert) { a.raise(plugin, alert, true) }

func (a *Alerter) raise(plugin string, alert sdk.Alert, logged bool) {
	a.mu.Lock()
	a.counts[plugin]++
	a.mu.Unlock()
	alert.Key, alert.Text = cleanText(alert.Key, maxAlertKey), cleanText(alert.Text, maxAlertText)
	select {
	case a.pending <- raised{plugin, alert, logged}:
	default:
		a.dropped.Add(1)
	}
}

// cleanText cuts a text and makes one line of it.
func cleanText(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// Raised returns how many alerts there were, by plugin, and how many of them nobody looked at.
func (a *Alerter) Raised() (byPlugin map[string]uint64, dropped uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	byPlugin = make(map[string]uint64, len(a.counts))
	for name, n := range a.counts {
		byPlugin[name] = n
	}
	return byPlugin, a.dropped.Load()
}

// Start begins to tell; Stop ends it.
func (a *Alerter) Start(ctx context.Context) {
	ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(a.done)
		a.recall(ctx)
		for {
			select {
			case r := <-a.pending:
				a.tell(ctx, r)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Stop ends it; alerts that nobody looked at yet are lost.
func (a *Alerter) Stop() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	<-a.done
}

func hashOf(r raised) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(r.plugin + "\x00" + r.alert.Key)) // never fails
	return h.Sum64()
}

// tell logs an alert, and writes a letter if it is time.
func (a *Alerter) tell(ctx context.Context, r raised) {
	now := a.o.Now()
	key := hashOf(r)
	s := a.about[key]
	if s == nil {
		a.forget(now)
		s = &subject{}
		a.about[key] = s
	}
	s.times++
	if now.Sub(s.logged) >= logEvery && !r.logged {
		s.logged = now
		a.o.Logger.Warn("alert", "plugin", r.plugin, "key", r.alert.Key, "why", r.alert.Text)
	}
	s.seen = now
	if a.o.Send == nil || now.Sub(s.written) < alertEvery || now.Sub(s.tried) < logEvery || !a.mayWrite(r.plugin, now) {
		return
	}
	s.tried = now
	err := a.o.Send(ctx, Letter{Plugin: r.plugin, Alert: r.alert, At: now, Times: s.times})
	if err != nil {
		if !errors.Is(err, ErrNobody) && ctx.Err() == nil {
			a.o.Logger.Error("alert not written to postmaster", "plugin", r.plugin, "key", r.alert.Key, "why", err)
		}
		return
	}
	s.written, s.times = now, 0
	a.letters[r.plugin] = append(a.letters[r.plugin], now)
	a.remember(ctx, key, now)
}

// mayWrite holds a plugin to its number of letters a day.
func (a *Alerter) mayWrite(plugin string, now time.Time) bool {
	list := a.letters[plugin]
	for len(list) > 0 && now.Sub(list[0]) >= alertEvery {
		list = list[1:]
	}
	a.letters[plugin] = list
	return len(list) < lettersPerDay
}

// forget makes room for a subject: those whose day is over go, and if that is not enough the one that was raised longest ago.
func (a *Alerter) forget(now time.Time) {
	if len(a.about) < maxAlerts {
		return
	}
	var oldest uint64
	for key, s := range a.about {
		if now.Sub(s.written) >= alertEvery && now.Sub(s.seen) >= logEvery {
			delete(a.about, key)
		} else if o := a.about[oldest]; o == nil || s.seen.Before(o.seen) {
			oldest = key
		}
	}
	if len(a.about) >= maxAlerts {
		delete(a.about, oldest)
	}
}

func alertKey(hash uint64) []byte { return binary.BigEndian.AppendUint64([]byte(alertPrefix), hash) }

// remember keeps when a letter was written, so that a restart is no reason for another one.
func (a *Alerter) remember(ctx context.Context, hash uint64, now time.Time) {
	if a.o.Engine == nil {
		return
	}
	var b kv.Batch
	b.Set(alertKey(hash), codec.AppendTime([]byte{alertForm}, now))
	if _, err := a.o.Engine.Apply(ctx, &b); err != nil {
		a.o.Logger.Warn("alert not remembered; postmaster may hear of it twice", "why", err)
	}
}

// recall reads what was written within the last day, and removes what is older.
func (a *Alerter) recall(ctx context.Context) {
	if a.o.Engine == nil {
		return
	}
	var b kv.Batch
	now := a.o.Now()
	err := a.o.Engine.Scan(ctx, []byte(alertPrefix), []byte("alert0"), false, func(key, value []byte) (bool, error) {
		d := codec.Record(value, alertForm)
		at := d.Time()
		if d.End("alert") != nil || len(key) != len(alertPrefix)+8 || now.Sub(at) >= alertEvery || at.After(now) || len(a.about) >= maxAlerts {
			b.Delete(bytes.Clone(key))
			return b.Len() < 10_000, nil
		}
		a.about[binary.BigEndian.Uint64(key[len(alertPrefix):])] = &subject{written: at}
		return true, nil
	})
	if err == nil && b.Len() > 0 {
		_, err = a.o.Engine.Apply(ctx, &b)
	}
	if err != nil && ctx.Err() == nil {
		a.o.Logger.Warn("alerts of the last day not read; postmaster may hear of some twice", "why", err)
	}
}
