package tlsrpt

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"
)

// kept is a shard in the Cache, as JSON under "tlsrpt/DAY/NUMBER".
type kept struct {
	Form    int                        `json:"form"`
	Domains map[string]json.RawMessage `json:"domains"` // a Summary each
}

const (
	form     = 1
	maxValue = 900 << 10 // octets of a value
)

func shardKey(t time.Time, number int) string {
	return "tlsrpt/" + t.UTC().Format(dayFormat) + "/" + strconv.Itoa(number)
}

// run saves what has changed until ctx ends, and once more then.
func (c *Collector) run(ctx context.Context) {
	ticker := time.NewTicker(saveTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.Save(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			c.Save(last)
			return
		}
	}
}

// Save writes what has changed since the last time. What can't be written is tried again the next time.
func (c *Collector) Save(ctx context.Context) {
	if c.options.Cache == nil {
		return
	}
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	days := maps.Clone(c.days)
	c.mu.Unlock()
	for name, d := range days {
		t, err := time.Parse(dayFormat, name)
		if err != nil {
			continue // our own key
		}
		for i := range shards {
			c.mu.Lock()
			changed := d.shards[i].changed
			c.mu.Unlock()
			if !changed {
				continue
			}
			if err := c.saveShard(ctx, t, d, i); err != nil {
				c.options.Logger.Warn("TLS results not kept", "stage", "deliver", "day", name, "why", err.Error())
				return
			}
		}
	}
}

func (c *Collector) saveShard(ctx context.Context, t time.Time, d *day, number int) error {
	if err := c.load(ctx, t, d, number); err != nil {
		return err
	}
	c.mu.Lock()
	all := d.shards[number].summaries(t)
	d.shards[number].changed = false
	c.mu.Unlock()
	value, err := encode(all, true)
	if err == nil && len(value) > maxValue {
		value, err = encode(all, false)
	}
	if err == nil {
		err = c.options.Cache.Set(ctx, shardKey(t, number), value, t.Add(24*time.Hour+keepTime))
	}
	if err != nil {
		c.mu.Lock()
		d.shards[number].changed = true
		c.mu.Unlock()
		return fmt.Errorf("save TLS results: %w", err)
	}
	return nil
}

func encode(all []Summary, details bool) ([]byte, error) {
	k := kept{Form: form, Domains: make(map[string]json.RawMessage, len(all))}
	for _, sum := range all {
		if !details {
			for i := range sum.Policies {
				sum.Policies[i].Details = nil
			}
		}
		raw, err := json.Marshal(sum)
		if err != nil {
			return nil, err
		}
		k.Domains[sum.Domain] = raw
	}
	return json.Marshal(k)
}

// load adds to a shard what the Cache has of it, once. The caller holds c.saving.
func (c *Collector) load(ctx context.Context, t time.Time, d *day, number int) error {
	c.mu.Lock()
	loaded := d.shards[number].loaded
	c.mu.Unlock()
	if loaded || c.options.Cache == nil {
		return nil
	}
	value, err := c.options.Cache.Get(ctx, shardKey(t, number))
	if err != nil {
		return fmt.Errorf("load TLS results: %w", err)
	}
	var k kept
	if len(value) > 0 {
		if err := json.Unmarshal(value, &k); err != nil || k.Form != form {
			c.options.Logger.Warn("TLS results are not readable", "stage", "deliver", "key", shardKey(t, number))
			k = kept{}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &d.shards[number]
	s.loaded = true
	for name, raw := range k.Domains {
		var sum Summary
		if json.Unmarshal(raw, &sum) != nil {
			continue
		}
		c.merge(d, s, name, sum)
	}
	return nil
}

// merge adds what was counted before. The caller holds c.mu.
func (c *Collector) merge(day *day, s *shard, name string, sum Summary) {
	d := s.domains[name]
	if d == nil {
		if s.domains == nil {
			s.domains = make(map[string]*domain)
		}
		d = &domain{}
		s.domains[name] = d
		day.domains++
	}
	for _, p := range sum.Policies {
		r := d.result(p.Policy)
		if r == nil {
			c.dropped.Add(p.Totals.Success + p.Totals.Failure)
			continue
		}
		r.totals.Success += p.Totals.Success
		r.totals.Failure += p.Totals.Failure
		for _, f := range p.Details {
			if !r.add(f.Failure, f.Count) {
				c.dropped.Add(f.Count)
			}
		}
	}
}
