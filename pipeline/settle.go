package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Settle applies the changes that the answers ask for, in order, tags the
// message, stamps what was not looked at, writes the trace, and tells the pipeline's
// Observer and Alerter. An answer whose changes are too many becomes a failure (RULES
// A4), so a stage calls Settle before it obeys the answers.
func (p *Panel) Settle(m *Message, answers []Answer) {
	for i := range answers {
		a := &answers[i]
		event := p.event(a)
		refused := 0
		if p.phase() != sdk.PhaseRoute {
			refused = refuseRoutes(&a.Verdict, &event)
		}
		refuseTags(&a.Verdict, &event) // counted below, like changes
		if err := p.change(m, a, &event); err != nil {
			a.Failure, a.Verdict = &Failure{FailInvalid, err}, sdk.Verdict{}
		}
		a.discardBody()
		for _, line := range event.Changes {
			if strings.HasPrefix(line, refusedPrefix) && line != refusedRoute {
				refused++
			}
		}
		report := p.report(m.via, a, refused)
		if a.Failure != nil {
			policy := p.Policy(a)
			failed(&event, policy, a.Failure)
			report.Action, report.Unscanned = policy.Action, policy.Action < sdk.Defer
			if report.Unscanned {
				m.stamp(a.Recipients, unscanned(p.Stage, a.Asker.Name(), a.Failure.Kind, ""))
			}
		}
		m.Tags = addTags(m.Tags, a.Verdict.Tags)
		m.Trace.Add(event)
		p.traceRecipients(m, a)
		if m.via != nil {
			m.via.Observer.Plugin(&report)
			m.via.alert(a, &Question{Message: m})
		}
	}
}

// How the trace says that a plugin asked for what it may not have.
const (
	refusedPrefix = "refused: "
	refusedRoute  = refusedPrefix + "route"
)

// event is what the trace tells of an answer.
func (p *Panel) event(a *Answer) trace.Event {
	event := trace.Event{
		At: time.Now(), Stage: p.Stage, Plugin: a.Asker.Name(), Version: a.Manifest().Version,
		Action: a.Verdict.Action.String(), Score: a.Verdict.Score, Reasons: a.Verdict.Reasons,
		Detections: a.Verdict.Detections, Took: a.Took,
	}
	if a.Verdict.Reply != nil {
		event.Text = Reply{a.Verdict.Reply.Code, a.Verdict.Reply.Enhanced, a.Verdict.Reply.Text}.Clean().String()
	}
	return event
}

// failed makes an event tell of a failure and what it stands for.
func failed(event *trace.Event, policy Opinion, f *Failure) {
	event.Action, event.Text = policy.Action.String(), f.Error()
	event.Reasons = []sdk.Reason{{Symbol: "FAILED_" + strings.ToUpper(string(f.Kind))}}
}

// report is what the Observer hears of an answer.
func (p *Panel) report(via *Pipeline, a *Answer, refused int) PluginReport {
	r := PluginReport{
		Stage: p.Stage, Phase: p.phase(), Plugin: a.Asker.Name(), Action: a.Verdict.Action, Refused: refused, Took: a.Took,
	}
	if via != nil {
		r.Pipeline = via.Name
	}
	if a.Failure != nil {
		r.Failure = a.Failure.Kind
	}
	return r
}

// unscanned is the field of a message that goes on although a plugin has failed. phase
// is "" for that of the stage itself.
func unscanned(stage, plugin string, kind FailureKind, phase sdk.Phase) []byte {
	value := fmt.Sprintf("%s; plugin=%s; failure=%s", stage, plugin, kind)
	if phase != "" {
		value += "; phase=" + string(phase)
	}
	return FormatField("X-Sluice-Unscanned", value)
}

// stamp puts a field in front of some recipients' versions. All whom a question was about
// shared a version and get the same field, so there are not more versions than before.
func (m *Message) stamp(recipients []int, field []byte) {
	done := make(map[*Version]*Version, 1)
	for _, i := range recipients {
		r := m.Recipients[i]
		if done[r.Version] == nil {
			done[r.Version] = r.Version.Front(field)
		}
		r.Version = done[r.Version]
	}
}

// StampEarly puts X-Sluice-Unscanned on a message for each plugin that failed in the
// phases before the content. The stage anti-spam calls it: what arrived under that name
// is gone by then.
func (m *Message) StampEarly() {
	for _, e := range m.missedEarly() {
		m.Front(unscanned(StageAntiSpam, e.plugin, e.kind, e.phase))
	}
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

func (p *Panel) traceRecipients(m *Message, a *Answer) {
	for _, r := range a.Verdict.Recipients {
		m.Trace.Add(trace.Event{
			At: time.Now(), Stage: p.Stage, Plugin: a.Asker.Name(), Version: a.Manifest().Version,
			Recipient: r.Recipient, Action: r.Action.String(), Score: r.Score,
			Reasons: r.Reasons, Detections: r.Detections,
		})
	}
}
