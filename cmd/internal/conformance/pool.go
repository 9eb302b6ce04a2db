package conformance

import (
	"context"
	"fmt"
	"time"
)

// open returns a lane without a question, an idle one if there is one: a host keeps its lanes. A new one has to send response
// headers, which say that somebody serves it; where it is refused it is tried again for a while.
func (r *run) open(ctx context.Context) (*lane, error) {
	for _, l := range r.takeIdle(1) {
		return l, nil
	}
	const limit = 5 * time.Second
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		l, err := r.dial()
		if err != nil {
			return nil, err
		}
		if r.headless {
			return l, nil
		}
		err = l.served(ctx, max(0, limit-time.Since(begin)))
		if err == nil {
			return l, nil
		}
		l.close()
		if time.Since(begin) >= limit || ctx.Err() != nil || !r.p.alive() {
			return nil, err
		}
	}
}

// takeIdle takes idle lanes that still live.
func (r *run) takeIdle(most int) (taken []*lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.idle) > 0 && len(taken) < most {
		l := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		select {
		case <-l.ended:
		default:
			if l.p == r.p {
				taken = append(taken, l)
			}
		}
	}
	return taken
}

// dial opens a lane without waiting for anything.
func (r *run) dial() (*lane, error) {
	own, reset := context.WithCancel(r.ctx)
	stream, err := r.p.client.Lane(own)
	if err != nil {
		reset()
		return nil, fmt.Errorf("open a lane: %w", err)
	}
	l := &lane{r: r, p: r.p, stream: stream, reset: reset, ended: make(chan struct{}), answers: make(chan *answer, 1), over: true}
	r.mu.Lock()
	r.used[l] = true
	r.mu.Unlock()
	go l.read()
	return l, nil
}

// close gives a lane back if its question is over, and resets it otherwise.
func (l *lane) close() {
	select {
	case <-l.ended:
	default:
		if l.over && (l.id == 0 || l.answered()) && l.fresh() {
			l.r.mu.Lock()
			defer l.r.mu.Unlock()
			l.r.idle = append(l.r.idle, l)
			return
		}
	}
	l.abort()
}

// fresh reports whether the lane may be used again: one that never had headers is of no use.
func (l *lane) fresh() bool { return l.id > 0 || l.headers || l.r.headless }

// abort resets the stream.
func (l *lane) abort() {
	l.reset()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	delete(l.r.used, l)
}

// leave ends a lane in order, question and all, and resets it if that is not noticed.
func (l *lane) leave() {
	if l.end(l.id) == nil && l.stream.CloseSend() == nil {
		select {
		case <-l.ended:
		case <-time.After(300 * time.Millisecond):
		}
	}
	l.abort()
}

// resetAll resets every lane.
func (r *run) resetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.used {
		l.reset()
	}
	clear(r.used)
	r.idle = nil
}
