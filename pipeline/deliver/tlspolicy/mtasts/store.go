package mtasts

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// record is a policy in the Cache, as JSON under "sts/DOMAIN".
type record struct {
	Form    int       `json:"form"`
	ID      string    `json:"id"`
	Fetched time.Time `json:"fetched"`
	Policy  string    `json:"policy"` // as it was fetched, in our words
}

const form = 1

// entry returns what is known about domain, from memory or from the Cache, without a policy that has expired.
func (s *Store) entry(ctx context.Context, domain string) (*entry, error) {
	s.mu.Lock()
	e := s.entries[domain]
	if e == nil {
		s.makeRoom()
		e = &entry{used: s.options.Now()}
		s.entries[domain] = e
	}
	loaded := e.loaded
	s.mu.Unlock()
	var found *Policy
	if !loaded {
		found, loaded = s.load(ctx, domain)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.loaded = e.loaded || loaded // a Cache that failed is asked again: a policy in it still holds
	if e.policy == nil {
		e.policy = found
	}
	if e.policy != nil && !s.options.Now().Before(e.policy.Expires) {
		e.policy = nil
	}
	return e, nil
}

// makeRoom keeps the number of entries within bounds: those without a policy go first, since the next look brings them back.
// The caller holds s.mu.
func (s *Store) makeRoom() {
	if len(s.entries) < maxPolicies {
		return
	}
	dropped := 0
	for domain, e := range s.entries { // in no order; a tenth at a time, so that the walk is rare
		if e.flight == nil && (e.policy == nil || s.options.Cache != nil) {
			delete(s.entries, domain)
			if dropped++; dropped > maxPolicies/10 {
				return
			}
		}
	}
	for domain, e := range s.entries {
		if len(s.entries) < maxPolicies {
			return
		}
		if e.flight == nil {
			delete(s.entries, domain)
		}
	}
}

// load reads the policy from the Cache; nil if it is not there or can't be read. ok is false if the Cache failed.
func (s *Store) load(ctx context.Context, domain string) (_ *Policy, ok bool) {
	if s.options.Cache == nil {
		return nil, true
	}
	value, err := s.options.Cache.Get(ctx, "sts/"+domain)
	if err != nil || value == nil {
		return nil, err == nil
	}
	var r record
	if json.Unmarshal(value, &r) != nil || r.Form != form {
		return nil, true
	}
	policy, err := ParsePolicy([]byte(r.Policy))
	if err != nil {
		return nil, true
	}
	policy.ID, policy.Fetched, policy.Expires = r.ID, r.Fetched, r.Fetched.Add(max(policy.MaxAge, failureTime))
	return policy, true
}

// save writes the policy to the Cache. If that fails the policy is fetched again after a restart.
func (s *Store) save(domain string, p *Policy) {
	if s.options.Cache == nil {
		return
	}
	value, err := json.Marshal(record{Form: form, ID: p.ID, Fetched: p.Fetched, Policy: strings.Join(p.Lines(), "\n")})
	if err == nil {
		err = s.options.Cache.Set(s.context, "sts/"+domain, value, p.Expires)
	}
	if err != nil && s.context.Err() == nil {
		s.options.Logger.Warn("MTA-STS policy not kept", "stage", "deliver", "domain", domain, "why", err.Error())
	}
}

// watch fetches policies before they end, also those of domains that nobody writes to at the moment.
func (s *Store) watch() {
	ticker := time.NewTicker(watchTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.refreshOld()
		case <-s.context.Done():
			return
		}
	}
}

// refreshOld starts fetches for the policies that are a day old, and forgets what is of no use any more. Half of the
// fetches are left to those who wait for one.
func (s *Store) refreshOld() {
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	started := 0
	for domain, e := range s.entries {
		switch {
		case e.flight != nil:
		case now.Sub(e.used) > idleTime, e.policy == nil && now.Sub(e.used) > failureTime:
			delete(s.entries, domain)
		case e.policy != nil && now.Sub(e.policy.Fetched) >= freshTime && now.Sub(e.tried) >= watchTime/2 && started < maxFetches/2:
			s.start(domain, "", e)
			started++
		}
	}
}
