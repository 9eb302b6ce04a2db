package pluginhost

import (
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// This file is about how a lane comes back after its question: by itself, or as a slot
// that has to be won again (RULES C1).

// release puts the lane back when its question is sent to the End. After an early
// answer that may take a moment; a plugin that doesn't read on loses the lane.
func (l *lane) release(sent chan error) {
	select {
	case err := <-sent:
		l.back(err)
		return
	default:
	}
	l.p.gone.Add(1)
	go func() {
		defer l.p.gone.Done()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case err := <-sent:
			l.back(err)
		case <-timer.C:
			l.reset()
			<-sent
			l.drop()
		}
	}()
}

// back puts the lane back; err says that its stream is gone.
func (l *lane) back(err error) {
	if err != nil {
		l.close()
	}
	l.home.put(l)
}

// abandon puts the lane back without its stream, which the other side ended: its slot is free. If that was the
// end of the process, the question counts as one that was in it, and the lane stays out.
func (l *lane) abandon(sent chan error) {
	l.reset()
	l.p.gone.Add(1)
	go func() {
		defer l.p.gone.Done()
		<-sent
		l.p.runner.awaitDeath(nil)
		l.close()
		l.home.put(l)
	}()
}

// cancelled tells the plugin that nobody waits, and waits a second for its answer.
func (l *lane) cancelled(sent chan error) {
	defer l.p.gone.Done()
	stop := time.AfterFunc(grace, l.reset)
	defer stop.Stop()
	if err := <-sent; err == nil {
		_ = l.stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: l.id}}})
	}
	r := <-l.result // the reader's word at the latest when the stream is reset
	switch {
	case r.err == nil:
		l.p.resets.Store(0)
		l.home.put(l)
	case stop.Stop(): // the plugin ended the stream
		l.close()
		l.home.put(l)
	default:
		l.drop()
	}
}

// drop resets the stream and wins the slot back once the plugin starts a handler in
// its place; until then the slot is lost. A plugin whose slots are all lost, or that answered nothing
// while as many lanes were reset as it has, is replaced.
func (l *lane) drop() {
	l.close()
	if l.extra { // events alone are lost with it
		l.p.gone.Add(1)
		go l.recover()
		return
	}
	l.p.lose()
	l.p.gone.Add(1)
	go l.recover()
}

// lose counts a lost slot.
func (p *process) lose() {
	lost := p.lost.Add(1)
	if resets := p.resets.Add(1); int(lost) < p.lanes && int(resets) < 2*p.lanes || p.ctx.Err() != nil {
		return
	}
	p.log.Warn("plugin hangs", "why", "no lane answers any more")
	p.kill("all lanes lost")
}

// recover opens a new stream in a lost slot until a handler takes it.
func (l *lane) recover() {
	defer l.p.gone.Done()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		select {
		case <-l.p.ctx.Done():
			return
		case <-time.After(wait):
		}
		if l.open() != nil {
			continue
		}
		if l.stream.started() {
			if !l.extra {
				l.p.lost.Add(-1)
			}
			l.home.put(l)
			return
		}
	}
}
