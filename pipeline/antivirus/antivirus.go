// Package antivirus is the stage anti-virus: it asks the plugins of its list
// and, where one of them names a detection, does what on_infected says in place
// of the plugin's own action (RULES A2).
//
// A plugin that fails stands for its on_failure, here by default defer: mail
// that could not be scanned waits at the peer. Where the administrator chose to
// let it through, it carries a field X-Sluice-Unscanned.
//
// Untrusted input: the plugins' verdicts. Package pipeline checks them.
package antivirus

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Config is [pipeline.NAME.anti-virus].
type Config struct {
	Plugins    []string   `toml:"plugins" doc:"names of the plugins that look for viruses, all asked at once"`
	OnInfected sdk.Action `toml:"on_infected" doc:"what happens to a message with a detection: reject, quarantine or discard"`
}

// DefaultConfig returns the defaults of DESIGN section 6.
func DefaultConfig() Config { return Config{OnInfected: sdk.Reject} }

// Validate reports an on_infected that is not one of its three values.
func (c *Config) Validate() error {
	switch c.OnInfected {
	case sdk.Reject, sdk.Quarantine, sdk.Discard:
		return nil
	}
	return &pipeline.FieldError{Key: "on_infected", Problem: fmt.Sprintf("%q can't be done with a virus, expected reject, quarantine or discard", c.OnInfected)}
}

// Stage is the stage anti-virus of one pipeline.
type Stage struct {
	config Config
	panel  pipeline.Panel
}

// New returns the stage; askers are the plugins of config.Plugins in that order.
func New(config Config, askers []pipeline.Asker) *Stage {
	return &Stage{config, pipeline.Panel{Stage: pipeline.StageAntiVirus, Askers: askers, Default: sdk.Defer}}
}

// Name returns "anti-virus".
func (s *Stage) Name() string { return pipeline.StageAntiVirus }

// Process asks the plugins.
func (s *Stage) Process(ctx context.Context, m *pipeline.Message) error {
	start := time.Now()
	answers := s.panel.Ask(ctx, m)
	s.panel.Settle(m, answers)
	for i := range answers {
		a := &answers[i]
		for _, at := range a.Recipients {
			r := m.Recipients[at]
			if a.Failure != nil {
				r.Take(s.panel.Policy(a))
				continue
			}
			r.Take(s.opinion(a, a.For(r.Address)))
		}
	}
	s.trace(m, time.Since(start))
	return nil
}

func (s *Stage) trace(m *pipeline.Message, took time.Duration) {
	strongest := sdk.Accept
	for _, r := range m.Recipients {
		if r.Opinion.Stage == pipeline.StageAntiVirus {
			strongest = max(strongest, r.Opinion.Action)
		}
	}
	m.Trace.Add(trace.Event{At: time.Now(), Stage: pipeline.StageAntiVirus, Action: strongest.String(), Took: took})
}

func (s *Stage) opinion(a *pipeline.Answer, v sdk.RecipientVerdict) pipeline.Opinion {
	o := s.panel.Opinion(a, v)
	if len(v.Detections) == 0 {
		return o
	}
	o.Action, o.Why = s.config.OnInfected, "found "+o.Why
	o.Reply = pipeline.Reply{}
	if o.Action == sdk.Reject {
		o.Reply = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "The message contains a virus: " + v.Detections[0]}.Clean()
	}
	return o
}
