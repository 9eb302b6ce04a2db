package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// small is a question on the link of its process: one that is sent whole, by whoever asks it, without waiting for the plugin. Its lane is
// its slot, and has no part in how it travels. What becomes of it is dealt with by the link's reader, or at the deadline by
// the lane's alarm.
type small struct {
	lane    *lane
	link    *link
	id      uint64
	ctx     context.Context // with the deadline
	content *content
	body    *newBody

	// then is called with what became of the question, once. A lane that was answered is free by then.
	then func(end func() (sdk.Verdict, error))

	settled atomic.Bool // somebody ends it: the reader, the alarm, or who withdraws it
	sending sync.Mutex  // held while it is sent: its Cancel comes later
}

// fits reports whether a question can be a small one.
func (p *process) fits(q *Question) bool {
	return q.phase() != sdk.PhaseEvent && q.length(&p.manifest) <= inline && !q.parsed(&p.manifest)
}

// send puts the question on the link. sent: the lane is the question's from then on, and `then` is called. Otherwise the error is
// wire.ErrTooLarge or errOver (the content is as it was), a *Failure, or says that the link is gone.
func (s *small) send(ask *wire.Ask) (sent bool, err error) {
	l := s.lane
	s.sending.Lock()
	l.mu.Lock()
	if l.count++; l.count == 0 { // after 4 billion of them; 0 would be nobody's on the first lane
		l.count = 1
	}
	s.id = idOf(l.index, l.count)
	l.waiting, l.source, l.body, l.small = s.id, s.link, s.body, s
	l.alarm.instead = s.expire
	l.alarm.arm(s.ctx, nil)
	l.mu.Unlock()
	ask.Id = s.id
	err = errOver
	if !s.link.over.Load() {
		err = s.link.Ask(ask, s.content, int(s.content.length))
	}
	s.sending.Unlock()
	if err == nil {
		l.p.moves.Add(1)
		return true, nil
	}
	if !s.settle() { // its end came first
		l.deliver(s.link, s.id, result{}) // and who gave it up waits for no answer to what the plugin never saw
		return true, nil
	}
	l.forget()
	l.alarm.disarm()
	switch cause := s.content.failure(); {
	case cause != nil:
		return false, failf(Error, "read the message: %w", cause)
	case errors.Is(err, wire.ErrFull):
		return false, failf(Timeout, "the plugin does not read")
	}
	return false, err
}

// forget has the lane wait for nothing, and throws away what came meanwhile.
func (l *lane) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting, l.small = 0, nil
	select {
	case <-l.result:
	default:
	}
}

// settle says that the caller ends the question; false: somebody else does.
func (s *small) settle() bool { return s.settled.CompareAndSwap(false, true) }

// arrived is the reader's: what came of the question.
func (s *small) arrived(r result) {
	s.lane.alarm.disarm()
	if r.err != nil { // why takes a while to know, and the question may be asked again
		go s.then(func() (sdk.Verdict, error) { return s.ended(r) })
		return
	}
	s.then(func() (sdk.Verdict, error) { return s.ended(r) })
}

// expire is the alarm's. It reports whether it has ended the question.
func (s *small) expire() bool {
	if !s.settle() {
		return false
	}
	l := s.lane
	l.mu.Lock() // send has set the alarm
	l.alarm.set = false
	l.mu.Unlock()
	s.then(func() (sdk.Verdict, error) { return sdk.Verdict{}, s.giveUp() })
	return true
}

// withdraw ends the question because nobody waits for it any more, if nobody else does.
func (s *small) withdraw() {
	if s.settle() {
		s.lane.alarm.disarm()
		s.then(func() (sdk.Verdict, error) { return sdk.Verdict{}, s.giveUp() })
	}
}

// ended deals with the result of the question.
func (s *small) ended(r result) (sdk.Verdict, error) {
	l := s.lane
	s.content.close()
	if r.err != nil {
		s.abandon()
		return sdk.Verdict{}, l.brokenLane(s.ctx, r.err)
	}
	l.p.answered.Add(1)
	l.p.resets.Store(0)
	l.home.put(l)
	return opinion(s.ctx, r.answer)
}

// abandon puts the lane back when the link has ended. If that was the end of the process, the question counts as one that was
// in it.
func (s *small) abandon() {
	l := s.lane
	l.p.gone.Add(1)
	go func() {
		defer l.p.gone.Done()
		l.p.runner.awaitDeath(nil)
		l.home.put(l)
	}()
}

// giveUp leaves the lane to come back by itself, and says why nobody waits any more.
func (s *small) giveUp() error {
	s.content.close()
	s.lane.p.gone.Add(1)
	go s.cancelled()
	return gaveUp(s.ctx)
}

// cancelled tells the plugin that nobody waits. Without an answer within a second the slot is lost until there is one,
// however late: only then has the plugin's handler returned.
func (s *small) cancelled() {
	l := s.lane
	defer l.p.gone.Done()
	s.sending.Lock() // whoever reads the message may be slow, which is no fault of the plugin
	s.sending.Unlock()
	_ = s.link.Cancel(s.id) // if the link is gone, so is the question
	timer := time.NewTimer(grace)
	defer timer.Stop()
	var r result
	select {
	case r = <-l.result:
	case <-timer.C:
		l.p.lose()
		r = <-l.result // at the latest when the process ends
		l.p.lost.Add(-1)
	}
	switch {
	case r.err != nil:
		l.p.runner.awaitDeath(nil)
	case r.answer != nil:
		l.p.resets.Store(0)
	}
	l.home.put(l)
}

// askSmall asks the question on the link and waits for its end, or returns what send does.
func (l *lane) askSmall(ctx context.Context, link *link, ask *wire.Ask, content *content, body *newBody) (v sdk.Verdict, sent bool, err error) {
	done := make(chan outcome, 1)
	s := &small{lane: l, link: link, ctx: ctx, content: content, body: body}
	s.then = func(end func() (sdk.Verdict, error)) { done <- outcomeOf(end) }
	if sent, err := s.send(ask); !sent {
		return v, false, err
	}
	var o outcome
	select {
	case o = <-done:
	case <-lazy.Withdrawn(ctx):
		s.withdraw()
		o = <-done
	}
	if o.panicked != "" {
		panic(o.panicked)
	}
	return o.verdict, true, o.err
}

// outcome is what became of a question. A panic is that of whoever waits, who has a session that it may end.
type outcome struct {
	verdict  sdk.Verdict
	err      error
	panicked string
}

func outcomeOf(end func() (sdk.Verdict, error)) (o outcome) {
	defer func() {
		if v := recover(); v != nil {
			o = outcome{err: failf(Error, "panic: %v", v), panicked: fmt.Sprintf("%v\n%s", v, debug.Stack())}
		}
	}()
	o.verdict, o.err = end()
	return o
}
