package pluginhost

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
)

// Begun is a question that is with a plugin: what Ask does, in two halves, so that one goroutine can ask many
// plugins and then wait for all of them. The answer is dealt with when it comes, by the link's reader, and a deadline
// when it is there, by the lane's alarm: nobody's lane, breaker or statistics wait for whoever waits for another plugin.
type Begun struct {
	small
	plugin  *Plugin
	proc    *process
	q       *Question
	all     context.Context // the asker's
	limited *lazy.Context
	start   time.Time
	done    chan struct{} // closed when the following are there

	verdict  sdk.Verdict
	took     time.Duration
	err      error
	panicked string
}

// Begin asks as Ask does, but does not wait for the answer: that is Wait's. It returns nil, and has done nothing, if
// the question can't go to the plugin at once: without a free lane or a link, with much content or a shared parse, for a plugin with a
// canary, a suspect or an open breaker, and while it is started or replaced. Then Ask is to be called.
func (p *Plugin) Begin(ctx context.Context, q *Question) *Begun {
	phase := q.phase()
	p = p.latest()
	if phase == sdk.PhaseEvent || p.canary != nil || !p.suspects.empty() || !p.breakers[phaseIndex(phase)].closed() || ctx.Err() != nil {
		return nil
	}
	b := &Begun{plugin: p, q: q, all: ctx, start: time.Now(), done: make(chan struct{})}
	p.stats.inFlight.Add(1)
	if p.successor.Load() == nil && b.begin() { // as in Ask
		p.asked.Store(b.start.UnixNano())
		return b
	}
	p.stats.inFlight.Add(-1)
	return nil
}

func (b *Begun) begin() bool {
	p := b.plugin
	p.mu.Lock()
	proc, ready := p.process, p.state == stateReady
	p.mu.Unlock()
	if !ready {
		return false
	}
	link := proc.links.current()
	if link == nil || !proc.fits(b.q) || !proc.enter() {
		return false
	}
	l := proc.free.try()
	if l == nil {
		proc.gone.Done()
		return false
	}
	b.proc, b.lane, b.link = proc, l, link
	if proc.isDead() || !b.put() {
		proc.free.putFirst(l)
		proc.gone.Done()
		return false
	}
	return true
}

// put puts the question on the link. It reports whether the lane is the question's from now on.
func (b *Begun) put() bool {
	b.limited = lazy.WithTimeout(b.all, b.plugin.config.Timeout.Std())
	b.ctx, b.then = b.limited, b.conclude
	ask, err := newAsk(b.limited, b.q)
	if err != nil {
		return false
	}
	if b.content, err = b.q.open(b.q.length(&b.proc.manifest)); err != nil {
		return false
	}
	b.body = newBodyOf(b.q, &b.proc.manifest)
	sent, _ := b.send(ask) // Ask will say why not
	if !sent {
		b.content.close()
	}
	return sent
}

// Wait waits for the answer and returns what Ask would. It is called once.
func (b *Begun) Wait() (sdk.Verdict, time.Duration, error) {
	select {
	case <-b.done:
	case <-lazy.Withdrawn(b.all):
		b.withdraw()
		<-b.done
	}
	if b.panicked != "" {
		panic(b.panicked)
	}
	return b.verdict, b.took, b.err
}

// conclude does what is left when it is clear what became of the question, as the functions from lane.ask up to Ask do. A
// panic is Wait's, who has a session that it may end.
func (b *Begun) conclude(end func() (sdk.Verdict, error)) {
	p := b.plugin
	left := false
	defer func() {
		if v := recover(); v != nil {
			b.panicked = fmt.Sprintf("%v\n%s", v, debug.Stack())
			b.err = failf(Error, "panic: %v", v)
		}
		b.limited.Stop()
		if !left {
			b.proc.gone.Done()
		}
		p.stats.inFlight.Add(-1)
		close(b.done)
	}()
	v, err := end()
	b.content.close()
	if err == nil {
		if err = b.body.agrees(&v); err == nil {
			err = checkVerdict(&v, b.q)
		}
		if err != nil {
			v, err = sdk.Verdict{}, &Failure{Invalid, err}
		}
	}
	b.body.close()
	left = true
	b.proc.gone.Done()
	v, again, err := p.afterwards(b.all, b.proc, b.q, v, err)
	if again {
		v, err = p.askOn(b.limited, b.all, b.q)
	}
	b.verdict, b.err = v, err
	phase := b.q.phase()
	p.judge(b.all, &p.breakers[phaseIndex(phase)], false, phase, b.start, b.err)
	b.took = time.Since(b.start)
	p.stats.asked.Add(1)
	p.stats.done(b.took, kindOf(b.err))
}
