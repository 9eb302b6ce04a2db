package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline/parse"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// pupil is a plugin that learns, and the goroutine that brings it its lessons.
type pupil struct {
	t       *Teacher
	name    string
	kick    chan struct{}
	waiting atomic.Int64
	pause   time.Duration // after a failure that may be the plugin's as a whole

	// Of the goroutine alone: lessons that failed. Of those over its bound nothing is remembered: they are tried again
	// with the next pass, and pause keeps passes apart.
	failing map[storage.ID]failing
}

type failing struct {
	times int
	next  time.Time
}

const (
	maxFailing = 10_000
	maxPass    = 200 // lessons read for one pass
	firstPause = time.Second
	maxPause   = 30 * time.Second
	maxRetry   = 6 * time.Hour
	idle       = time.Minute
)

// run brings lessons until ctx ends or the plugin is no longer configured.
func (p *pupil) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		plugin := p.t.plugin(p.name)
		if plugin == nil || !learns(plugin) {
			if p.leave() {
				return
			}
			continue
		}
		wait, err := p.pass(ctx, plugin)
		if err != nil && ctx.Err() == nil {
			p.t.o.Logger.Error("lessons wait", "plugin", p.name, "why", err)
			wait = p.longer()
		}
		timer.Reset(wait)
		kick := p.kick
		if p.pause > 0 { // new lessons are no reason to hurry
			kick = nil
		}
		select {
		case <-kick:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// leave ends the feeder, unless the plugin came back meanwhile.
func (p *pupil) leave() bool {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	if plugin := p.t.plugin(p.name); plugin != nil && learns(plugin) {
		return false
	}
	delete(p.t.pupils, p.name)
	return true
}

// longer doubles the pause.
func (p *pupil) longer() time.Duration {
	p.pause = min(max(2*p.pause, firstPause), maxPause)
	return p.pause
}

// pass brings what is ready, and returns when to look again.
func (p *pupil) pass(ctx context.Context, plugin Plugin) (time.Duration, error) {
	now := p.t.o.Now()
	v, err := p.t.look(ctx, p.name,
		func(l storage.Lesson) bool { return known(plugin) && !wants(plugin, kindOf(l.Kind)) }, maxPass,
		func(l storage.Lesson) bool { return !p.failing[l.ID].next.After(now) })
	p.waiting.Store(int64(v.waiting))
	if err != nil {
		return 0, err
	}
	if !known(plugin) && v.waiting > 0 {
		return firstPause, nil // it has not started yet
	}
	if len(v.ready) > 0 {
		// Nobody is told what a crash could take back (RULES B1).
		if err := p.t.o.Store.KV().WaitDurable(ctx, p.t.o.Store.KV().Tail()); err != nil {
			return 0, err
		}
	}
	for _, l := range v.ready {
		done, err := p.tell(ctx, plugin, l)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case done:
			delete(p.failing, l.ID)
			p.waiting.Add(-1)
			if err := p.t.o.Store.Learnt(ctx, l); err != nil {
				return 0, err
			}
		default:
			p.fail(l, err)
		}
		if p.pause > 0 {
			return p.pause, nil
		}
	}
	if len(v.ready) == maxPass {
		return 0, nil
	}
	if p.pause > 0 {
		return min(p.pause, p.nextRetry()), nil
	}
	return p.nextRetry(), nil
}

// fail remembers a lesson that failed.
func (p *pupil) fail(l storage.Lesson, err error) {
	p.t.failed.Add(1)
	f := p.failing[l.ID]
	wait := maxRetry
	if f.times < 16 {
		wait = min(p.t.o.Retry<<f.times, maxRetry)
	}
	f.times++
	f.next = p.t.o.Now().Add(wait)
	if _, have := p.failing[l.ID]; have || len(p.failing) < maxFailing {
		p.failing[l.ID] = f
	}
	var failure *pluginhost.Failure
	if errors.As(err, &failure) && (failure.Kind == pluginhost.Error || failure.Kind == pluginhost.Invalid) {
		p.pause = 0 // it runs: the lesson is to blame
	} else {
		p.longer()
	}
	p.t.o.Logger.Warn("lesson not learnt", "plugin", p.name, "lesson", l.ID, "kind", kindOf(l.Kind).String(), "attempts", f.times,
		"next", wait, "why", err)
}

// nextRetry returns how long it is until a lesson that failed is ready again; those that are gone are forgotten.
func (p *pupil) nextRetry() time.Duration {
	now, next := p.t.o.Now(), idle
	for id, f := range p.failing {
		if now.Sub(id.Time()) > p.t.o.MaxAge+time.Hour {
			delete(p.failing, id)
			continue
		}
		next = min(next, max(f.next.Sub(now), 10*time.Millisecond))
	}
	return next
}

// tell brings one lesson; done means that it need not be brought again.
func (p *pupil) tell(ctx context.Context, plugin Plugin, l storage.Lesson) (done bool, err error) {
	address, err := p.t.o.Account(ctx, l.Account)
	if errors.Is(err, kv.ErrNotFound) {
		return true, nil // its owner is gone, and wants nothing learnt from his mail
	}
	if err != nil {
		return false, fmt.Errorf("find the account of lesson %s: %w", l.ID, err)
	}
	content, err := p.t.o.Store.OpenContent(ctx, l.Content, l.Variant, nil)
	if errors.Is(err, storage.ErrNoContent) {
		p.t.o.Logger.Error("lesson without content", "plugin", p.name, "lesson", l.ID, "why", err)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer content.Close()
	sum, err := content.Summary(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.t.o.Timeout)
	defer cancel()
	verdict, _, err := plugin.Ask(ctx, &pluginhost.Question{
		Phase: sdk.PhaseEvent,
		// The ID is the lesson's: a plugin that is told twice can see it.
		Envelope: sdk.Envelope{
			ID: l.ID.String(), Received: l.Time(), Recipients: []sdk.Recipient{{Address: address, Accounts: []string{address}}},
		},
		Event: &sdk.Event{Kind: kindOf(l.Kind), At: l.Time(), Recipient: address, Account: address},
		Size:  content.Size(), HeaderSize: sum.Root.BodyStart,
		Open:   func() (io.Reader, error) { return content.Reader(), nil },
		Parsed: func() (*sdk.Parsed, error) { return parse.Parse(content, content.Size()), nil },
	})
	if err != nil {
		return false, err
	}
	for _, one := range verdict.Alerts {
		p.t.o.Alert(p.name, one)
	}
	p.pause = 0
	p.t.learnt.Add(1)
	return true, nil
}
