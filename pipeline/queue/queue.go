// Package queue is the durable queue: the one point at which Sluice takes
// responsibility for a message, and everything that happens to it until each
// recipient is settled.
//
// Promises: Commit returns nil only when content, envelope and trace are on
// stable storage, in one batch; after that the message is always in exactly one
// place for each recipient: queued, delivered, bounced, quarantined, or
// discarded with a trace, whatever crashes. A recipient's settling, its trace, the
// notice about it and the last one's clean-up are one batch (RULES B8); for local delivery that
// batch is the mailbox's. What another server has taken is on disk before its connection goes on, and is never sent
// again after that. Memory is bounded, however long the queue is.
//
// # The way of an entry
//
// Commit (commit.go) makes an entry with a recipient for each hop, and a due key for each of those. In memory the recipients
// of an entry that share a hop are a part (live.go), the unit of the schedule (schedule.go). There are two ways for a
// part:
//
//   - What stays here ("local") goes to a few workers (work.go), one after the other: pop, process, rest.
//   - What leaves goes to its hop (window.go): a lane for each sender, first in, first out. The hop belongs to a site (site.go),
//     which is a pipeline.NextHop, and which the Courier names (ask, find, found). Sites that may begin something stand in rings;
//     dispatch picks from them (dispatch.go), and a goroutine travels with the part (carry.go). What the other server has said is
//     settled, becomes durable, and the site learns from it: finish.
//
// Both end in settle (settle.go), under the entry's lock: decide what becomes of each recipient, notify (notify.go), write, apply,
// obey. What is left of a part waits in memory if it is due soon, and on disk otherwise.
//
// Fairness has three levels: a site takes turns between its domains, a domain between senders, and of one sender the
// oldest is first. Classes of sites (dispatch.go) keep connections free for those that work. So whoever is slow, huge or dead holds
// up those behind on the same connection, and nobody else.
//
// # Why nothing is forgotten
//
// For each recipient that is neither settled nor held there is a due key on disk, in a minute at or after the low-water mark, since it
// is written or deleted in the batch that changes the recipient, and since a mark waits for every part in memory, every entry that
// is being committed or in an administrator's hand, and every place that a hop or the loader has yet to read (pass). So a restart
// finds it. While the process runs, its part is in memory, or one of three holds for a due key of it:
//
//  1. It stands where the loader has not swept yet: in a minute to come, or behind loader.swept, or everything is to be read again
//     (lost).
//  2. It stands at or after hop.from: the loader has passed over the rest of the hop, or a part left memory (cut, suspension) or never came
//     in (launch). hop.from only moves forward by a visit to what stands there, and is put back first if that fails.
//  3. Its entry is in somebody's hand, who gives it back.
//
// A part leaves memory only for one of them: for a minute to come if its due keys stand there (part.floor, not the time that we have in
// mind: after a failure of the store that is in memory alone), else by lowering hop.from. And what has hop.from set is read when there is room: by
// whoever makes room (leave), when a suspension ends (feed), and every Tick. model_test.go holds all of this against chance.
//
// # Suspension
//
// What waits for a site that can't be reached is not touched: it leaves memory and stays on disk under its due keys, where the loader
// passes over it by seeking. Nothing is written for it; its attempts are not counted; Show says why it waits. When its time has
// come, the first of it is tried alone. review.go sees to those that get too old meanwhile, late.go to what else is due and waits for long.
//
// # Failures
//
// The queue owns the keys below "queue/0/" (keys.go). What can fail is the store: then the recipient stays as it was and
// is tried again; what another server has said is kept in memory until it is written. Options.Config and Options.Destination are called
// with locks held and must not call the queue.
//
// RFCs: 5321 section 4.5.4 (retrying), 3461 (what is told to whom); the notices themselves are package dsn's.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
)

// Store is the part of the store that the queue works with.
type Store interface {
	KV() kv.Engine
	NewID() storage.ID
	WaitDurable(ctx context.Context, pos kv.Pos) error
	Prepare(ctx context.Context, draft *blob.Draft, variants []blob.Variant) (*storage.Prepared, error)
	ContentInfo(ctx context.Context, id storage.ContentID, variant int) (storage.ContentInfo, error)
	OpenContent(ctx context.Context, id storage.ContentID, variant int, front []byte) (*storage.Content, error)
	DropRef(b *kv.Batch, content storage.ContentID, use string)
}

// Options are what a Queue is made of.
type Options struct {
	Store   Store
	Deliver pipeline.Deliverer // for mailbox hops
	Courier pipeline.Courier   // for remote hops; nil: they wait

	Config      func(pipeline string) Config              // settings of the moment; defaults for a pipeline that is gone
	Destination func(pipeline, domain string) Destination // what a destination has of its own; nil: nothing
	Sources     func(pipeline string) int                 // addresses from which mail leaves: rates hold for each; nil: 1
	Limits      Limits                                    // zero: the defaults

	Notify  Notifier                  // makes DSNs; nil: none are sent
	Owner   func(alias string) string // who is told that forwards of an alias fail; nil: nobody
	Manager func() string             // who is told that mail for recipients whom plugins have added fails; nil or "": nobody
	Local   func(domain string) bool  // whether a domain is ours, so that its addresses are never suppressed; nil: none is
	Workers int                       // for mailbox hops; 0: 4
	Window  int                       // entries for mailboxes in memory; 0: 10,000
	Keep    time.Duration             // how long traces are kept; 0: 30 days
	Events  Events                    // hears what becomes of recipients; may be nil
	Observe func(kind sdk.EventKind)  // counts the same; may be nil
	Logger  *slog.Logger
	Now     func() time.Time
	Jitter  func() float64 // in [-1, 1); nil: random
	Tick    time.Duration  // how often it looks for what is due; 0: 1 s

	// ObserveRemote counts attempts with other servers; may be nil.
	ObserveRemote func(kind pipeline.OutcomeKind, pace pipeline.Pace, took time.Duration)
}

// errNoCourier is the reason of mail that can't leave.
var errNoCourier = errors.New("this server sends no mail to others")

// Queue is the durable queue. Its methods may be called from any goroutine.
type Queue struct {
	Options
	schedule
	loader loader // of the ticker and Start alone
	watch  watch  // of review alone

	suppression suppression

	stop   context.CancelFunc // ends the ticker
	cancel context.CancelFunc // ends attempts
	wg     sync.WaitGroup
}

// New returns a queue; Start must be called before messages leave it.
func New(o Options) *Queue {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Window == 0 {
		o.Window = 10_000
	}
	if o.Keep == 0 {
		o.Keep = 30 * 24 * time.Hour
	}
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = func() float64 { return 2*rand.Float64() - 1 }
	}
	defaults := DefaultLimits()
	if o.Limits.Connections == 0 {
		o.Limits.Connections = defaults.Connections
	}
	if o.Limits.Memory == 0 {
		o.Limits.Memory = defaults.Memory
	}
	q := &Queue{Options: o}
	q.schedule.init(o.Now, o.Window, o.Limits)
	q.remote.settings = q.timetable
	q.remote.carry, q.remote.find = func(*trip) {}, func(*hop) {}
	return q
}

// Start reads what is due and starts the workers.
func (q *Queue) Start(ctx context.Context) error {
	var attempts, ticks context.Context
	attempts, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
	ticks, q.stop = context.WithCancel(attempts)
	q.remote.carry, q.remote.find = q.beginTrip(attempts), q.beginFind(ticks) // Stop need not wait for the DNS
	if err := q.recover(ctx); err != nil {
		q.schedule.close()
		q.cancel()
		q.wg.Wait()
		return fmt.Errorf("start the queue: %w", err)
	}
	for range q.Workers {
		q.wg.Add(1)
		go q.work(attempts)
	}
	q.wg.Add(2)
	go q.tick(ticks)
	go q.review(ticks)
	return nil
}

// stopTime is how long attempts may go on when the queue stops. A server that takes minutes for an answer is cut off: what it was
// asked to take is tried again after the start. Whoever stops us has time left for what comes after us.
const stopTime = 10 * time.Second

// Stop lets the workers finish the attempts that they are at, for a while, and then ends them.
// What is not settled is on disk.
func (q *Queue) Stop(ctx context.Context) error {
	defer q.cancel()
	q.stop()
	q.schedule.close()
	done := make(chan struct{})
	go func() { q.wg.Wait(); close(done) }()
	end := time.AfterFunc(stopTime, q.cancel)
	defer end.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the queue: %w", ctx.Err())
	}
}

// tick wakes entries when they are due, reads what has come due since, and
// forgets what is finished.
func (q *Queue) tick(ctx context.Context) {
	defer q.wg.Done()
	wake := time.NewTicker(q.Tick)
	defer wake.Stop()
	tidy := time.NewTicker(30 * time.Second)
	defer tidy.Stop()
	expire := time.NewTicker(time.Hour)
	defer expire.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-q.refill:
			err = q.load(ctx)
		case <-wake.C:
			q.wake()
			err = q.load(ctx)
		case <-tidy.C:
			err = q.tidy(ctx)
		case <-expire.C:
			err = q.expire(ctx)
		}
		if err != nil && ctx.Err() == nil {
			q.Logger.Error("queue upkeep failed", "stage", pipeline.StageQueue, "action", "retry", "why", err)
		}
	}
}

// Depth returns how many entries are in memory, and whether more wait on disk.
func (q *Queue) Depth() (inMemory int, more bool) { return q.schedule.depth() }
