// Package antispam is the stage anti-spam: it asks the plugins of its list, adds
// their scores, and compares the sum with thresholds.
//
// Every plugin is asked about the same version of the message; the thresholds'
// result joins the plugins' explicit actions, the strongest wins, and all of it
// is per recipient (RULES A2). A plugin that fails stands for its on_failure,
// here by default accept: mail goes on, with a field X-Sluice-Unscanned.
//
// The plugins of the list that ask for it are also asked at connect, MAIL and RCPT
// (package pipeline, phases.go). What they said then about the session, the
// transaction and a recipient is part of the score that is compared here, once for
// each message; what they wanted done has been done, or sticks to the recipients.
//
// Untrusted input: the plugins' verdicts. Package pipeline checks them.
package antispam

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Config is [pipeline.NAME.anti-spam].
type Config struct {
	Plugins      []string `toml:"plugins" doc:"names of the plugins that score the message, all asked at once; those that want to be are asked at connect, MAIL and RCPT too"`
	JunkAt       float64  `toml:"junk_at" doc:"from this score on the message goes into the mailbox with special use Junk; 0 is off"`
	QuarantineAt float64  `toml:"quarantine_at" doc:"from this score on the message is kept in quarantine; 0 is off"`
	RejectAt     float64  `toml:"reject_at" doc:"from this score on the message is refused; 0 is off"`
}

// DefaultConfig returns the defaults of RULES A2.
func DefaultConfig() Config { return Config{JunkAt: 6, QuarantineAt: 0, RejectAt: 20} }

// Validate reports thresholds that are not numbers, are negative, or do not rise.
func (c *Config) Validate() error {
	var problems []error
	last, lastKey := 0.0, ""
	for _, t := range []struct {
		key string
		at  float64
	}{{"junk_at", c.JunkAt}, {"quarantine_at", c.QuarantineAt}, {"reject_at", c.RejectAt}} {
		switch {
		case math.IsNaN(t.at) || math.IsInf(t.at, 0) || t.at < 0:
			problems = append(problems, &pipeline.FieldError{Key: t.key, Problem: fmt.Sprintf("%v is not a threshold, expected a number above 0, or 0 for off", t.at)})
		case t.at == 0:
		case t.at <= last:
			problems = append(problems, &pipeline.FieldError{Key: t.key, Problem: fmt.Sprintf("%v is not above %s = %v, expected thresholds that rise", t.at, lastKey, last)})
		default:
			last, lastKey = t.at, t.key
		}
	}
	return errors.Join(problems...)
}

// Stage is the stage anti-spam of one pipeline.
type Stage struct {
	config Config
	panel  pipeline.Panel
}

// New returns the stage; askers are the plugins of config.Plugins in that order.
func New(config Config, askers []pipeline.Asker) *Stage {
	return &Stage{config, pipeline.Panel{Stage: pipeline.StageAntiSpam, Askers: askers, Default: sdk.Accept}}
}

// Name returns "anti-spam".
func (s *Stage) Name() string { return pipeline.StageAntiSpam }

// Process asks the plugins and compares each recipient's score with the thresholds.
func (s *Stage) Process(ctx context.Context, m *pipeline.Message) error {
	start := time.Now()
	scored := m.Score != 0
	for _, r := range m.Recipients {
		scored = scored || r.Score != 0
	}
	m.StampEarly()
	answers := s.panel.Ask(ctx, m)
	s.panel.Settle(m, answers)
	for i := range answers {
		s.take(m, &answers[i])
	}
	for _, r := range m.Recipients {
		r.Take(s.threshold(m.Score + r.Score))
	}
	if scored || len(answers) > 0 {
		s.stampScore(m)
	}
	s.traceTotal(m, time.Since(start))
	return nil
}

func (s *Stage) take(m *pipeline.Message, a *pipeline.Answer) {
	for _, i := range a.Recipients {
		r := m.Recipients[i]
		if a.Failure != nil {
			r.Take(s.panel.Policy(a))
			continue
		}
		v := a.For(r.Address)
		r.Score = bounded(r.Score + v.Score)
		r.Take(s.panel.Opinion(a, v))
	}
}

// threshold returns what a score means.
func (s *Stage) threshold(score float64) pipeline.Opinion {
	var o pipeline.Opinion
	reaches := func(at float64) bool { return at > 0 && score >= at }
	switch {
	case reaches(s.config.RejectAt):
		o.Action = sdk.Reject
		o.Reply = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "The message looks like spam"}
	case reaches(s.config.QuarantineAt):
		o.Action = sdk.Quarantine
	case reaches(s.config.JunkAt):
		o.Action = sdk.Junk
	default:
		return o
	}
	o.Stage, o.Why = pipeline.StageAntiSpam, "score "+format(score)
	return o
}

// bounded keeps a sum of finite scores finite, so that a later one still counts.
func bounded(score float64) float64 { return min(max(score, -maxScore), maxScore) }

const maxScore = 1e9

// stampScore tells readers what the score was; recipients whose scores are equal
// go on sharing a version. Where that would make too many versions (RULES A4)
// only the trace tells.
func (s *Stage) stampScore(m *pipeline.Message) {
	type key struct {
		from  *pipeline.Version
		score float64
	}
	done := make(map[key]*pipeline.Version, 1)
	for _, r := range m.Recipients {
		k := key{r.Version, m.Score + r.Score}
		if done[k] == nil {
			done[k] = r.Version.Front(pipeline.FormatField("X-Sluice-Score", format(k.score)))
		}
	}
	if len(done) > pipeline.MaxVersions {
		return
	}
	for _, r := range m.Recipients {
		r.Version = done[key{r.Version, m.Score + r.Score}]
	}
}

func (s *Stage) traceTotal(m *pipeline.Message, took time.Duration) {
	first := m.Recipients[0]
	total := trace.Event{At: time.Now(), Stage: pipeline.StageAntiSpam, Score: m.Score + first.Score, Took: took}
	same := true
	for _, r := range m.Recipients {
		same = same && r.Score == first.Score
	}
	if same {
		total.Action = s.threshold(total.Score).Action.String()
		m.Trace.Add(total)
		return
	}
	for _, r := range m.Recipients {
		each := total
		each.Recipient, each.Score = r.Address, m.Score+r.Score
		each.Action = s.threshold(each.Score).Action.String()
		m.Trace.Add(each)
	}
}

func format(score float64) string { return strconv.FormatFloat(score, 'f', -1, 64) }
