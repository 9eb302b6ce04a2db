package pluginhost

import "time"

// State is one line of `sluice plugin list`.
type State struct {
	Name     string          `json:"name"`
	State    string          `json:"state"` // starting, ready, waiting, failed, stopping, off
	Mode     string          `json:"mode"`
	Plugin   string          `json:"plugin"` // what it calls itself
	Version  string          `json:"version"`
	PID      int             `json:"pid"`
	Since    time.Time       `json:"since"`
	Restarts int             `json:"restarts"`
	Lanes    int             `json:"lanes"`
	Lost     int             `json:"lanes_lost"`
	InFlight int64           `json:"in_flight"`
	Asked    uint64          `json:"asked"`
	P50      time.Duration   `json:"p50_ns"`
	P99      time.Duration   `json:"p99_ns"`
	Failures map[Kind]uint64 `json:"failures"`
	Suspects int             `json:"suspects"`
	Breaker  string          `json:"breaker"`            // closed, open or off
	Phases   []string        `json:"open_for,omitempty"` // the phases for which it is open
	Skipped  uint64          `json:"skipped"`            // questions that were not asked because it was open
	Told     uint64          `json:"events_told"`        //
	Waiting  int             `json:"events_waiting"`     //
	Dropped  uint64          `json:"events_dropped"`     // because too many waited
	Failed   uint64          `json:"events_failed"`      // told, and not answered well
	Leaving  int             `json:"leaving"`            // processes of former configurations that still have messages
	Canary   *CanaryState    `json:"canary,omitempty"`   //
	Limits   []string        `json:"limits,omitempty"`   // what holds for its process beside rlimits, such as cgroup
	Why      string          `json:"why"`                // the last start error or death
}

// States lists the plugins by name.
func (h *Host) States() []State {
	list := h.list()
	states := make([]State, len(list))
	for i, p := range list {
		states[i] = p.describe()
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	for p := range h.leaving {
		for i := range states {
			if states[i].Name == p.name {
				states[i].Leaving++
			}
		}
	}
	return states
}

func (p *Plugin) describe() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		Name: p.name, State: p.state, Mode: p.config.Mode, Plugin: p.manifest.Name, Version: p.manifest.Version,
		Since: p.since, Restarts: p.restarts, InFlight: p.stats.inFlight.Load(), Asked: p.stats.asked.Load(),
		P50: p.stats.quantile(0.5), P99: p.stats.quantile(0.99), Failures: p.stats.failuresByKind(),
		Suspects: p.suspects.len(), Breaker: "closed", Canary: p.canary.describe(p.config.Canary.Share),
	}
	if p.process != nil {
		s.PID, s.Lanes, s.Lost = p.process.runner.pid, p.process.lanes, int(p.process.lost.Load())
	}
	if p.err != nil {
		s.Why = p.err.Error()
	}
	if p.config.BreakerFailures == 0 {
		s.Breaker = "off"
	}
	for i, phase := range phaseNames() {
		b := &p.breakers[i]
		b.mu.Lock()
		if b.open {
			s.Breaker = "open"
			s.Phases = append(s.Phases, string(phase))
			s.Why = b.last.Error()
		}
		s.Skipped += b.skipped
		b.mu.Unlock()
	}
	p.events.mu.Lock()
	s.Told, s.Waiting, s.Dropped, s.Failed = p.events.told, len(p.events.list), p.events.dropped, p.events.failed
	p.events.mu.Unlock()
	return s
}
