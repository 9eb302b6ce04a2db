package tlsrpt

import (
	"cmp"
	"context"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Cache is tlspolicy.Cache.
type Cache interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, expires time.Time) error
}

// Options is what New takes.
type Options struct {
	Cache  Cache // nil: nothing survives a restart
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Bounds.
const (
	maxDomains  = 10_000             // a day
	maxDays     = 3                  // in memory: yesterday's report may be late
	maxPolicies = 8                  // of a domain and a day: policies change, and there is one of each server with DANE
	maxDetails  = 50                 // kinds of failure of a policy
	maxLines    = 60                 // of a policy's text
	maxText     = 300                // octets of any text that a stranger wrote
	keepTime    = 7 * 24 * time.Hour // for which a day that nobody takes is kept
	saveTime    = time.Minute
	shards      = 128 // parts in which a day is kept, so that one that changes does not write all
)

// Collector counts. Safe for concurrent use. Make one with New and end it with Close.
type Collector struct {
	options Options
	dropped atomic.Int64

	mu   sync.Mutex
	days map[string]*day

	saving  sync.Mutex // one at a time
	stop    context.CancelFunc
	running sync.WaitGroup
}

// day has what was counted since the start, and from its first save on what was counted before that too.
type day struct {
	domains int
	shards  [shards]shard
}

type shard struct {
	domains map[string]*domain
	loaded  bool // what the Cache has is in it
	changed bool // since it was saved
}

type domain struct {
	policies []*result
}

type result struct {
	policy  Policy
	totals  Totals
	details map[Failure]int64
}

// New returns a Collector, which saves what it is told until Close.
func New(options Options) *Collector {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Collector{options: options, days: make(map[string]*day)}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.running.Go(func() { c.run(ctx) })
	return c
}

// Close saves what has not been saved.
func (c *Collector) Close() {
	c.stop()
	c.running.Wait()
}

// Dropped returns how many sessions were not counted because there was no room.
func (c *Collector) Dropped() int64 { return c.dropped.Load() }

// Success counts a session with a server of domain that did as policy asks.
func (c *Collector) Success(domain string, policy Policy) { c.count(domain, policy, nil) }

// Failure counts one that did not, whether or not mail was delivered.
func (c *Collector) Failure(domain string, policy Policy, failure Failure) {
	c.count(domain, policy, &failure)
}

func (c *Collector) count(name string, policy Policy, failure *Failure) {
	name = clean(name)
	number := shardOf(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	today := c.day(c.options.Now(), true)
	s := &today.shards[number]
	d := s.domains[name]
	if d == nil {
		if today.domains >= maxDomains {
			c.dropped.Add(1)
			return
		}
		if s.domains == nil {
			s.domains = make(map[string]*domain)
		}
		d = &domain{}
		s.domains[name] = d
		today.domains++
	}
	r := d.result(policy)
	if r == nil {
		c.dropped.Add(1)
		return
	}
	s.changed = true
	if failure == nil {
		r.totals.Success++
		return
	}
	r.totals.Failure++
	if !r.add(failure.cleaned(), 1) {
		c.dropped.Add(1)
	}
}

// result returns the counters of a policy, new ones if there is room, or nil.
func (d *domain) result(policy Policy) *result {
	for _, r := range d.policies {
		if r.policy.Type == policy.Type && r.policy.Domain == policy.Domain && sameLines(r.policy.String, policy.String) {
			return r
		}
	}
	if len(d.policies) >= maxPolicies {
		return nil
	}
	r := &result{policy: policy.cleaned()}
	d.policies = append(d.policies, r)
	return r
}

func sameLines(kept, given []string) bool {
	return len(kept) == min(len(given), maxLines) && slices.EqualFunc(kept, given[:len(kept)], func(k, g string) bool {
		return k == g || k == clean(g)
	})
}

func (r *result) add(f Failure, n int64) bool {
	if r.details == nil {
		r.details = make(map[Failure]int64)
	}
	if _, known := r.details[f]; !known && len(r.details) >= maxDetails {
		return false
	}
	r.details[f] += n
	return true
}

const dayFormat = "2006-01-02"

// day returns the counters of the day of t, or nil if there are none and create is false. The caller holds c.mu.
func (c *Collector) day(t time.Time, create bool) *day {
	name := t.UTC().Format(dayFormat)
	d := c.days[name]
	if d == nil && create {
		if len(c.days) >= maxDays {
			oldest := name
			for other := range c.days {
				oldest = min(oldest, other)
			}
			delete(c.days, oldest)
		}
		d = &day{}
		c.days[name] = d
	}
	return d
}

func shardOf(domain string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(domain))
	return int(h.Sum32() % shards)
}

// Take returns what there is to report about the day on which t is (UTC), by domain. It may be called again, also after a
// restart, until Forget; what is counted on that day afterwards comes on top. The error is that of the Cache: then
// what it kept is missing.
func (c *Collector) Take(ctx context.Context, t time.Time) ([]Summary, error) {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	d := c.day(t, true)
	c.mu.Unlock()
	var problem error
	var all []Summary
	midnight := t.UTC().Truncate(24 * time.Hour)
	for i := range shards {
		if err := c.load(ctx, t, d, i); err != nil && problem == nil {
			problem = err
		}
		c.mu.Lock()
		all = append(all, d.shards[i].summaries(midnight)...)
		c.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Summary) int { return cmp.Compare(a.Domain, b.Domain) })
	return all, problem
}

// Forget drops the day on which t is: its reports are out.
func (c *Collector) Forget(ctx context.Context, t time.Time) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	delete(c.days, t.UTC().Format(dayFormat))
	c.mu.Unlock()
	if c.options.Cache == nil {
		return nil
	}
	for i := range shards {
		value, err := c.options.Cache.Get(ctx, shardKey(t, i))
		if err == nil && value != nil {
			err = c.options.Cache.Set(ctx, shardKey(t, i), nil, c.options.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// summaries returns the shard in the shape of reports, failures that happened most first.
func (s *shard) summaries(midnight time.Time) []Summary {
	var all []Summary
	for name, d := range s.domains {
		sum := Summary{Day: midnight, Domain: name}
		for _, r := range d.policies {
			p := PolicyResult{Policy: r.policy, Totals: r.totals}
			for f, n := range r.details {
				p.Details = append(p.Details, Detail{Failure: f, Count: n})
			}
			slices.SortFunc(p.Details, func(a, b Detail) int {
				return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type), cmp.Compare(a.MXHostname, b.MXHostname),
					cmp.Compare(a.IP, b.IP), cmp.Compare(a.Code, b.Code), cmp.Compare(a.MXHelo, b.MXHelo), cmp.Compare(a.SendingIP, b.SendingIP))
			})
			sum.Policies = append(sum.Policies, p)
		}
		all = append(all, sum)
	}
	return all
}

func (p Policy) cleaned() Policy {
	p.Domain = clean(p.Domain)
	p.String = cleanAll(p.String)
	p.MXHost = cleanAll(p.MXHost)
	return p
}

func (f Failure) cleaned() Failure {
	f.SendingIP, f.IP = clean(f.SendingIP), clean(f.IP)
	f.MXHostname, f.MXHelo = clean(f.MXHostname), clean(f.MXHelo)
	f.Info, f.Code = clean(f.Info), clean(f.Code)
	return f
}

func cleanAll(texts []string) []string {
	if len(texts) == 0 {
		return nil
	}
	out := make([]string, min(len(texts), maxLines))
	for i := range out {
		out[i] = clean(texts[i])
	}
	return out
}

// clean cuts a text and leaves printable ASCII of it.
func clean(s string) string {
	s = s[:min(len(s), maxText)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
