package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Flow-control windows towards the plugin's answers; fixed ones spare the pings
// that estimate one.
const (
	answerWindow = 256 << 10
	connWindow   = 4 << 20
	maxAnswer    = 1 << 20 // octets of one answer
)

// process is one run of a plugin.
type process struct {
	runner     *runner
	log        *slog.Logger
	conn       *grpc.ClientConn
	client     wire.PluginClient
	links      links       // for small questions
	direct     string      // socket of direct lanes, or ""
	directGone atomic.Bool // it is not there any more
	manifest   sdk.Manifest
	buffers    *pool
	started    time.Time

	ctx    context.Context // of everything in this process; ends with it
	cancel context.CancelFunc
	gone   sync.WaitGroup // goroutines of this process

	all    []*lane
	free   berth // slots that nobody uses
	events berth // the lane of events, while nobody uses it
	lanes  int
	lost   atomic.Int32 // slots whose handler may still be running

	moves    atomic.Uint64 // frames that went either way
	answered atomic.Uint64 // questions that were answered
	resets   atomic.Int32  // lanes reset since the last answer

	mu     sync.Mutex
	dead   bool   // it died, and who was in it is known: nobody comes in any more
	ended  bool   // no more questions
	reason string // why we killed it; "" if it died by itself
	alone  bool   // one question was in it when it died by itself
}

// watchDeath ends everything of the process when it ends.
func (p *process) watchDeath() {
	defer p.gone.Done()
	<-p.runner.died
	p.cancel()
}

// noteDeath is called when the process has ended and nobody has been told yet.
func (p *process) noteDeath() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	inside := p.free.taken() + p.events.taken()
	p.alone = p.reason == "" && inside == 1 && p.answered.Load() > 0
}

// end releases what a dead process leaves behind and waits for its goroutines.
func (p *process) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.cancel()
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.gone.Wait()
}

// enter counts a question in, unless the process has ended.
func (p *process) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.gone.Add(1)
	return true
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// errNotAsked says that a process died before a question reached it.
var errNotAsked = errors.New("the process ended before it was asked")

// ask asks one question in the time that ctx leaves.
func (p *process) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	return p.askWithin(ctx, ctx, 0, q)
}

// askWithin asks one question in the time that ctx leaves, which is part of all. One that had to wait for its lane has
// `timeout` from then on, within all: had it what the wait left, the plugin would be blamed for the queue in front of it, and
// on_timeout would let mail through because there is much of it (RULES C2). 0: it has ctx's.
func (p *process) askWithin(ctx, all context.Context, timeout time.Duration, q *Question) (sdk.Verdict, error) {
	if !p.enter() {
		return sdk.Verdict{}, errNotAsked
	}
	defer p.gone.Done()
	free := &p.free
	if q.phase() == sdk.PhaseEvent {
		if q.Event == nil || !slices.Contains(p.manifest.Events, q.Event.Kind) {
			return sdk.Verdict{}, failf(Error, "the plugin does not take such events")
		}
		free = &p.events
	}
	l, waited, err := p.takeLane(ctx, all, free)
	if err != nil {
		return sdk.Verdict{}, err
	}
	if waited && timeout > 0 {
		limited := lazy.WithTimeout(all, timeout)
		defer limited.Stop()
		ctx = limited
	}
	v, err := l.ask(ctx, q)
	if waited && kindOf(err) == Timeout && over(all) {
		return sdk.Verdict{}, failf(Busy, "a lane came free too late: %w", err)
	}
	if err != nil {
		return sdk.Verdict{}, err
	}
	if err := checkVerdict(&v, q); err != nil {
		return sdk.Verdict{}, &Failure{Invalid, err}
	}
	return v, nil
}

// takeLane takes a lane that is free, or waits for one: as long as ctx lasts, but at most for half of what is left in all, so that
// who gets one has time to be answered.
func (p *process) takeLane(ctx, all context.Context, free *berth) (l *lane, waited bool, err error) {
	l, turn := free.take()
	if turn != nil {
		waited = true
		if l, err = p.awaitLane(ctx, all, free, turn); err != nil {
			free.forget(turn)
			return nil, true, err
		}
	}
	if p.isDead() { // and must not be taken for one that was in it when it died (RULES C3)
		free.put(l)
		return nil, waited, errNotAsked
	}
	if ctx.Err() != nil { // found a lane at the last moment
		free.put(l)
		return nil, waited, failf(Busy, "no lane came free in time")
	}
	return l, waited, nil
}

// awaitLane waits in the queue for a lane.
func (p *process) awaitLane(ctx, all context.Context, free *berth, turn chan *lane) (*lane, error) {
	wait := suspectLimit
	if end, ok := all.Deadline(); ok {
		wait = time.Until(end) / 2
	}
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case l := <-turn:
		return l, nil
	case <-p.ctx.Done():
		return nil, errNotAsked
	case <-timer.C:
	case <-lazy.Withdrawn(ctx):
	}
	return nil, failf(Busy, "all %d lanes are taken", free.size)
}

// over reports whether a context has ended, or does so at any moment: a plugin may notice a little before us.
func over(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(end) < 10*time.Millisecond
}

// kill ends the process group at once. Never go-plugin's Kill: that asks first, without a
// deadline, and a stopped plugin doesn't answer (grpc_client.go:105 of v1.8.0).
func (p *process) kill(reason string) {
	p.mu.Lock()
	if p.reason == "" {
		p.reason = reason
	}
	p.mu.Unlock()
	_ = p.runner.Kill(context.Background())
}

// killedFor returns why we killed it, or "".
func (p *process) killedFor() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// diedAlone reports whether a question was alone in the process when it died, and
// the process had shown before that it can answer one.
func (p *process) diedAlone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// stop asks the process to end, and ends it if it does not.
func (p *process) stop(ctx context.Context, patience time.Duration) {
	p.mu.Lock()
	if p.reason == "" {
		p.reason = "stopped"
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = p.conn.Invoke(ctx, wire.ShutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
	select {
	case <-p.runner.died:
	case <-ctx.Done():
		p.kill("stopped")
		p.runner.waitDead()
	}
	p.end()
}

// watchHealth asks the health service again and again, with a deadline of its own
// (go-plugin's Ping has none). Three misses while no lane moves are a hang. Whatever the
// plugin answers is a sign of life, UNIMPLEMENTED too.
func (p *process) watchHealth(every, patience time.Duration) {
	defer p.gone.Done()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	health := grpc_health_v1.NewHealthClient(p.conn)
	misses, moves := 0, p.moves.Load()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: wire.ServiceName})
		cancel()
		code := status.Code(err)
		if now := p.moves.Load(); now != moves || (code != codes.DeadlineExceeded && code != codes.Unavailable) {
			misses, moves = 0, now
			continue
		}
		if misses++; misses >= 3 {
			p.log.Warn("plugin hangs", "why", "three health checks without an answer while no lane moved")
			p.kill("hang")
			return
		}
	}
}
