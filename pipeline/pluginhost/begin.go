package pluginhost

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
)

// Begun is a question that is with a plugin: what Ask does, in two halves, so that one goroutine can ask many
// plugins and then wait for all of them. The answer is dealt with when it comes, by the lane's reader, and a deadline
// when it is there, by the lane's alarm: nobody's lane, breaker or statistics wait for whoever waits for another plugin.
type Begun struct {
	plugin  *Plugin
	proc    *process
	lane    *lane
	q       *Question
	all     context.Context // the asker's
	limited *lazy.Context
	content *content
	body    *newBody
	sent    chan error
	start   time.Time

	settled atomic.Bool   // somebody ends it: the reader, the alarm, or who withdraws it
	done    chan struct{} // closed when the following are there

	verdict  sdk.Verdict
	took     time.Duration
	err      error
	panicked string
}

// Begin asks as Ask does, but does not wait for the answer: that is Wait's. It returns nil, and has done nothing, if
// the question can't go to the plugin at once: without a free direct lane, with much content or a shared parse, for a plugin with a
// canary, a suspect or an open breaker, and while it is started or replaced. Then Ask is to be called.
func (p *Plugin) Begin(ctx context.Context, q *Question) *Begun {
	phase := q.phase()
	p = p.latest()
	if phase == sdk.PhaseEvent || p.canary != nil || !p.suspects.empty() || !p.breakers[phaseIndex(phase)].closed() || ctx.Err() != nil {
		return nil
	}
	b := &Begun{plugin: p, q: q, all: ctx, start: time.Now(), sent: make(chan error, 1), done: make(chan struct{})}
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
	if !ready || proc.direct == "" {
		return false
	}
	length := b.q.length(&proc.manifest)
	if length > inline || b.q.parsed(&proc.manifest) || !proc.enter() {
		return false
	}
	l := proc.free.try()
	if l == nil {
		proc.gone.Done()
		return false
	}
	b.proc, b.lane = proc, l
	if proc.isDead() || !b.send(length) {
		proc.free.putFirst(l)
		proc.gone.Done()
		return false
	}
	return true
}

// send puts the question on the lane. It reports whether the lane is the question's from now on.
func (b *Begun) send(length int64) bool {
	l := b.lane
	stream, direct := l.stream.(*directStream)
	if !direct {
		return false
	}
	b.limited = lazy.WithTimeout(b.all, b.plugin.config.Timeout.Std())
	ask, err := newAsk(b.limited, b.q)
	if err != nil {
		return false
	}
	if b.content, err = b.q.open(length); err != nil {
		return false
	}
	b.body = newBodyOf(b.q, &b.proc.manifest)
	if !l.expect(b) {
		b.content.close()
		return false
	}
	ask.Id = l.id
	stream.Hold()
	if err := l.send(ask, b.content); err != nil {
		b.sent <- err // the reader says why
		return true
	}
	if done, err := stream.FlushNow(); done {
		b.sent <- err
		return true
	}
	b.proc.gone.Add(1)
	go func() { // it does not read, or not as fast as we write
		defer b.proc.gone.Done()
		b.sent <- stream.Flush()
	}()
	return true
}

// expect makes the lane expect the answer to b, whose alarm runs from now on. It is false if the stream has ended.
func (l *lane) expect(b *Begun) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return false
	}
	l.id++
	l.waiting, l.body, l.begun = l.id, b.body, b
	l.alarm.instead = b.expire
	l.alarm.arm(b.limited, l.reset)
	return true
}

// settle says that the caller ends the question; false: somebody else does.
func (b *Begun) settle() bool { return b.settled.CompareAndSwap(false, true) }

// arrived is the reader's: what came of the question.
func (b *Begun) arrived(r result) {
	b.lane.alarm.disarm()
	if r.err != nil { // why takes a while to know, and the question may be asked again
		go b.conclude(func() (sdk.Verdict, error) { return b.lane.ended(b.limited, b.content, b.sent, r) })
		return
	}
	b.conclude(func() (sdk.Verdict, error) { return b.lane.ended(b.limited, b.content, b.sent, r) })
}

// expire is the alarm's. It reports whether it has ended the question.
func (b *Begun) expire() bool {
	if !b.settle() {
		return false
	}
	l := b.lane
	l.mu.Lock() // expect is over
	l.alarm.set = false
	l.mu.Unlock()
	b.conclude(func() (sdk.Verdict, error) { return sdk.Verdict{}, l.giveUp(b.limited, b.content, b.sent) })
	return true
}

// Wait waits for the answer and returns what Ask would. It is called once.
func (b *Begun) Wait() (sdk.Verdict, time.Duration, error) {
	select {
	case <-b.done:
	case <-lazy.Withdrawn(b.all):
		if b.settle() {
			b.lane.alarm.disarm()
			b.conclude(func() (sdk.Verdict, error) { return sdk.Verdict{}, b.lane.giveUp(b.limited, b.content, b.sent) })
		}
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
