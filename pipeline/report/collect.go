package report

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/kv"
)

// Bounds on what is collected.
const (
	maxPending   = 20_000  // rows in memory that are not in the store yet: about 10 MB
	maxRows      = 2_000   // of one domain in a period; a report of so many is 100 KB
	maxDomains   = 5_000   // in a period
	maxAllRows   = 100_000 // in a period, all domains together: about 40 MB on disk
	flushEvery   = 30 * time.Second
	flushBatch   = 500 // rows in one batch (RULES B2: it is far below 16 MiB)
	flushTimeout = 20 * time.Second
)

// CollectorOptions are what a Collector is made of.
type CollectorOptions struct {
	Engine   kv.Engine
	Interval func() time.Duration     // of a period that begins now; nil: a day
	Own      func(domain string) bool // domains that are not reported about; nil: none
	Logger   *slog.Logger
	Now      func() time.Time
}

// Collector adds up what DMARC observed. It implements pipeline.DMARCObserver.
type Collector struct {
	o      CollectorOptions
	kick   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	closed atomic.Bool

	dropped atomic.Uint64

	mu      sync.Mutex
	pending map[rowName]*pendingRow
	heads   map[periodDomain]*head // of the pending rows

	// Of the flushing goroutine alone: what the store has of each period.
	stored map[string]*periodSize
}

type periodDomain struct{ period, domain string }

type rowName struct {
	periodDomain
	hash [hashSize]byte
}

type pendingRow struct {
	count uint64
	row   []byte
}

// periodSize counts what the store has of a period.
type periodSize struct {
	rows   int
	domain map[string]int // rows
}

var _ pipeline.DMARCObserver = (*Collector)(nil)

// NewCollector returns a collector; Start must be called before anything is kept.
func NewCollector(o CollectorOptions) *Collector {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Interval == nil {
		o.Interval = func() time.Duration { return 24 * time.Hour }
	}
	return &Collector{
		o: o, kick: make(chan struct{}, 1), done: make(chan struct{}),
		pending: make(map[rowName]*pendingRow), heads: make(map[periodDomain]*head), stored: make(map[string]*periodSize),
	}
}

// ObserveDMARC implements pipeline.DMARCObserver.
func (c *Collector) ObserveDMARC(o *pipeline.DMARCObservation) {
	domain, ok := wanted(o)
	if !ok || c.closed.Load() || c.o.Own != nil && c.o.Own(domain) {
		return
	}
	// The period is that of our clock: a message that took long to come belongs to the time when it was judged.
	interval := min(max(c.o.Interval(), time.Hour), 24*time.Hour)
	begin := c.o.Now().UTC().Truncate(interval)
	row := encodeRow(o)
	name := rowName{periodDomain{begin.Format(periodForm), domain}, hashOf(row)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pending[name]; p != nil {
		p.count++
	} else if len(c.pending) >= maxPending {
		c.dropped.Add(1)
		return
	} else {
		c.pending[name] = &pendingRow{1, row}
	}
	h := c.heads[name.periodDomain]
	if h == nil {
		h = &head{begin: begin, end: begin.Add(interval)}
		c.heads[name.periodDomain] = h
	}
	h.policy = keepPolicy(&o.Policy, domain)
	if len(c.pending) > maxPending/2 {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// keepPolicy is a bounded copy.
func keepPolicy(p *pipeline.DMARCPolicy, domain string) pipeline.DMARCPolicy {
	kept := pipeline.DMARCPolicy{
		Domain: domain, Discovery: cut(p.Discovery, 20), P: cut(p.P, 20), SP: cut(p.SP, 20), NP: cut(p.NP, 20),
		ADKIM: cut(p.ADKIM, 2), ASPF: cut(p.ASPF, 2), Percent: min(max(p.Percent, 0), 100), Testing: p.Testing, FO: cut(p.FO, 20),
	}
	for _, uri := range p.RUA[:min(len(p.RUA), maxURIs)] {
		if len(uri) <= maxURI {
			kept.RUA = append(kept.RUA, uri)
		}
	}
	return kept
}

// Dropped returns how many messages are in no report because there were too many different ones at once.
func (c *Collector) Dropped() uint64 { return c.dropped.Load() }

// Start begins to write what was observed into the store.
func (c *Collector) Start(ctx context.Context) {
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(c.done)
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-c.kick:
			case <-ctx.Done():
				return
			}
			c.flushLogged(ctx)
		}
	}()
}

// Stop writes what was observed so far and ends.
func (c *Collector) Stop(ctx context.Context) {
	if c.cancel == nil {
		return
	}
	c.closed.Store(true)
	c.cancel()
	<-c.done
	c.flushLogged(ctx)
}

func (c *Collector) flushLogged(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := c.flush(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, kv.ErrClosed) {
		c.o.Logger.Warn("observations for DMARC reports not kept yet", "action", "retry", "why", err)
	}
}

// flush adds the pending rows to those in the store. What cannot be written stays pending.
func (c *Collector) flush(ctx context.Context) error {
	c.mu.Lock()
	pending, heads := c.pending, c.heads
	c.pending, c.heads = make(map[rowName]*pendingRow), make(map[periodDomain]*head)
	c.mu.Unlock()
	names := make([]rowName, 0, len(pending))
	for name := range pending {
		names = append(names, name)
	}
	for part := range slices.Chunk(names, flushBatch) {
		if err := c.write(ctx, part, pending, heads); err != nil {
			c.back(pending, heads)
			return err
		}
		for _, name := range part {
			delete(pending, name)
		}
	}
	return nil
}

// back returns rows to the pending ones.
func (c *Collector) back(pending map[rowName]*pendingRow, heads map[periodDomain]*head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, p := range pending {
		now := c.pending[name]
		switch {
		case now != nil:
			now.count += p.count
		case len(c.pending) < maxPending:
			c.pending[name] = p
		default:
			c.dropped.Add(p.count)
			continue
		}
		if c.heads[name.periodDomain] == nil {
			c.heads[name.periodDomain] = heads[name.periodDomain]
		}
	}
}

// write adds rows to the store in one batch.
func (c *Collector) write(ctx context.Context, names []rowName, pending map[rowName]*pendingRow, heads map[periodDomain]*head) error {
	var b kv.Batch
	added := make(map[periodDomain]int)
	left := make(map[periodDomain]uint64)
	touched := make(map[periodDomain]bool)
	for _, name := range names {
		size, err := c.sizeOf(ctx, name.period)
		if err != nil {
			return err
		}
		key := append([]byte(dmarcPrefix+name.period+"/"+name.domain+"/"), name.hash[:]...)
		p := pending[name]
		count := p.count
		old, err := c.o.Engine.Get(ctx, key)
		switch {
		case err == nil:
			before, err := countOf(old)
			if err == nil { // a damaged row begins anew
				count += before
			}
		case !errors.Is(err, kv.ErrNotFound):
			return err
		case !size.takes(name.domain, added[name.periodDomain], sum(added, name.period)):
			left[name.periodDomain] += p.count
			touched[name.periodDomain] = true
			continue
		default:
			added[name.periodDomain]++
		}
		touched[name.periodDomain] = true
		b.Set(key, rowValue(count, p.row))
	}
	for at := range touched {
		if err := c.writeHead(ctx, &b, at, heads[at], left[at]); err != nil {
			return err
		}
	}
	if _, err := c.o.Engine.Apply(ctx, &b); err != nil {
		return err
	}
	for at, n := range added {
		c.stored[at.period].rows += n
		c.stored[at.period].domain[at.domain] += n
	}
	return nil
}

func sum(added map[periodDomain]int, period string) (n int) {
	for at, rows := range added {
		if at.period == period {
			n += rows
		}
	}
	return n
}

// writeHead writes the head of a domain with the policy of now. A domain that has no rows, because there are too many
// domains, gets none.
func (c *Collector) writeHead(ctx context.Context, b *kv.Batch, at periodDomain, h *head, left uint64) error {
	key := []byte(dmarcPrefix + at.period + "/" + at.domain + "/")
	old, err := c.o.Engine.Get(ctx, key)
	switch {
	case err == nil:
		if before, err := decodeHead(old, at.domain); err == nil {
			left += before.left
			h = &head{before.begin, before.end, h.policy, 0} // a period ends when it was to end when it began
		}
	case !errors.Is(err, kv.ErrNotFound):
		return err
	case c.stored[at.period].domain[at.domain] == 0 && left > 0 && len(c.stored[at.period].domain) >= maxDomains:
		c.dropped.Add(left)
		return nil
	}
	written := *h
	written.left = left
	b.Set(key, written.encode())
	return nil
}

// sizeOf returns what the store has of a period, which is counted once.
func (c *Collector) sizeOf(ctx context.Context, period string) (*periodSize, error) {
	if s := c.stored[period]; s != nil {
		return s, nil
	}
	if len(c.stored) > 4 { // periods that are over
		clear(c.stored)
	}
	s := &periodSize{domain: make(map[string]int)}
	prefix := dmarcPrefix + period + "/"
	err := c.o.Engine.Scan(ctx, []byte(prefix), after(prefix), false, func(key, _ []byte) (bool, error) {
		if _, domain, rest, ok := parseKey(dmarcPrefix, key); ok && rest != "" {
			s.rows++
			s.domain[domain]++
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	c.stored[period] = s
	return s, nil
}

// takes says whether one more row of a domain has room beside those that are being added.
func (s *periodSize) takes(domain string, addedHere, added int) bool {
	if s.rows+added >= maxAllRows || s.domain[domain]+addedHere >= maxRows {
		return false
	}
	return s.domain[domain]+addedHere > 0 || len(s.domain) < maxDomains
}
