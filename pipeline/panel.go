package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Panel is the plugins of one stage. All are asked at the same time about the
// same version of the message; an accept hides nobody's refusal (RULES A2).
type Panel struct {
	Stage   string
	Askers  []Asker
	Default sdk.Action // what a failure means where the plugin's table does not say
}

// Answer is what one plugin said, or how it failed to.
type Answer struct {
	Asker      Asker
	Recipients []int // for whom: indexes into Message.Recipients
	Verdict    sdk.Verdict
	Failure    *Failure
	Took       time.Duration

	panicked any // what Ask panicked with, and where
}

// For returns what the answer says about one recipient.
func (a *Answer) For(address string) sdk.RecipientVerdict {
	v := a.Verdict
	out := sdk.RecipientVerdict{
		Recipient: address, Action: v.Action, Score: v.Score,
		Reasons: v.Reasons, Detections: v.Detections, Reply: v.Reply, Changes: v.Changes,
	}
	for _, r := range v.Recipients {
		if r.Recipient != address {
			continue
		}
		out.Action, out.Reply = r.Action, r.Reply
		out.Score += r.Score
		out.Reasons = append(out.Reasons[:len(out.Reasons):len(out.Reasons)], r.Reasons...)
		out.Detections = append(out.Detections[:len(out.Detections):len(out.Detections)], r.Detections...)
		out.Changes = append(out.Changes[:len(out.Changes):len(out.Changes)], r.Changes...)
	}
	return out
}

// Ask asks every plugin of the panel and returns their answers in the order of
// the configuration; answers of shadow plugins are left out. Recipients who are
// refused already are not asked about.
func (p *Panel) Ask(ctx context.Context, m *Message) []Answer {
	if len(p.Askers) == 0 {
		return nil
	}
	if !m.askUntil.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, m.askUntil)
		defer cancel()
	}
	questions := questionsOf(m)
	answers := make([]Answer, len(p.Askers)*len(questions))
	var wg sync.WaitGroup
	for i, asker := range p.Askers {
		for k, q := range questions {
			answer := &answers[i*len(questions)+k]
			answer.Asker, answer.Recipients = asker, q.Recipients
			if len(answers) == 1 {
				answer.ask(ctx, q)
				continue
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer answer.carryPanic()
				answer.ask(ctx, q)
			}()
		}
	}
	wg.Wait()
	kept := answers[:0]
	for _, a := range answers {
		if a.panicked != nil {
			panic(a.panicked)
		}
		if !a.Asker.Shadow() {
			kept = append(kept, a)
		}
	}
	return kept
}

// questionsOf groups the recipients that are not refused by version.
func questionsOf(m *Message) []*Question {
	var list []*Question
	for i, r := range m.Recipients {
		if r.Opinion.Action == sdk.Reject {
			continue
		}
		var q *Question
		for _, have := range list {
			if have.Version == r.Version {
				q = have
			}
		}
		if q == nil {
			q = &Question{Message: m, Version: r.Version}
			list = append(list, q)
		}
		q.Recipients = append(q.Recipients, i)
	}
	return list
}

// carryPanic takes a panic over to the goroutine that waits, which belongs to a
// session: there it ends one connection, here it would end the server.
func (a *Answer) carryPanic() {
	if v := recover(); v != nil {
		a.panicked = fmt.Sprintf("ask plugin %s: %v\n%s", a.Asker.Name(), v, debug.Stack())
	}
}

func (a *Answer) ask(ctx context.Context, q *Question) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) { // RULES C2
		a.Failure = &Failure{FailTimeout, errors.New("not reached within the deadline of the pipeline")}
		return
	}
	start := time.Now()
	verdict, err := a.Asker.Ask(ctx, q)
	a.Took = time.Since(start)
	if err == nil {
		err = checkScores(&verdict)
	}
	if err == nil {
		a.Verdict = verdict
		return
	}
	if !errors.As(err, &a.Failure) {
		a.Failure = &Failure{FailError, err}
	}
}

// checkScores refuses numbers that can't be added (RULES A2).
func checkScores(v *sdk.Verdict) error {
	bad := func(f float64) bool { return math.IsNaN(f) || math.IsInf(f, 0) }
	if bad(v.Score) {
		return &Failure{FailInvalid, errors.New("the score is not a finite number")}
	}
	for _, r := range v.Recipients {
		if bad(r.Score) {
			return &Failure{FailInvalid, fmt.Errorf("the score for %s is not a finite number", r.Recipient)}
		}
	}
	return nil
}

// Policy returns the opinion that a failed answer stands for: the only place
// where a failure becomes an opinion.
func (p *Panel) Policy(a *Answer) Opinion {
	o := Opinion{Stage: p.Stage, Plugin: a.Asker.Name(), Why: a.Failure.Error()}
	switch a.Failure.Kind {
	case FailBusy: // whatever on_failure says (RULES C2)
		o.Action, o.Reply = sdk.Defer, ReplyBusy
		return o
	case FailPoison: // whatever on_crash says (RULES C3)
		o.Action = sdk.Quarantine
		return o
	}
	action, ok := a.Asker.OnFailure(a.Failure.Kind)
	if !ok {
		action = p.Default
	}
	o.Action = action
	switch action {
	case sdk.Defer:
		o.Reply = ReplyTryLater
	case sdk.Reject:
		o.Reply = ReplyRefused
	}
	return o
}

// Opinion returns what a verdict about one recipient wants, with a reply that is
// fit for the wire: one of the wrong class is replaced.
func (p *Panel) Opinion(a *Answer, v sdk.RecipientVerdict) Opinion {
	o := Opinion{Action: v.Action, Stage: p.Stage, Plugin: a.Asker.Name(), Why: why(v)}
	switch v.Action {
	case sdk.Defer:
		o.Reply = replyOf(v.Reply, 4, ReplyNotNow)
	case sdk.Reject:
		o.Reply = replyOf(v.Reply, 5, ReplyRefused)
	}
	return o
}

func replyOf(r *sdk.Reply, class int, otherwise Reply) Reply {
	if r == nil || r.Code/100 != class || r.Code > 599 || r.Text == "" {
		return otherwise
	}
	enhanced := r.Enhanced
	if !validEnhanced(enhanced, class) {
		enhanced = otherwise.Enhanced
	}
	return Reply{r.Code, enhanced, r.Text}.Clean()
}

// validEnhanced reports whether s is an enhanced status code of that class (RFC
// 3463 section 2).
func validEnhanced(s string, class int) bool {
	var c, subject, detail int
	if n, err := fmt.Sscanf(s, "%d.%d.%d", &c, &subject, &detail); n != 3 || err != nil {
		return false
	}
	return c == class && subject >= 0 && subject <= 999 && detail >= 0 && detail <= 999 &&
		s == fmt.Sprintf("%d.%d.%d", c, subject, detail)
}

func why(v sdk.RecipientVerdict) string {
	if len(v.Detections) > 0 {
		return strings.Join(v.Detections, ", ")
	}
	words := make([]string, 0, len(v.Reasons))
	for _, r := range v.Reasons {
		words = append(words, r.Symbol)
	}
	return strings.Join(words, ", ")
}

// Settle applies the changes that the answers ask for, in order, tags the
// message, stamps what was not looked at, and writes the trace. An answer whose
// changes are too many becomes a failure (RULES A4), so a stage calls Settle
// before it obeys the answers.
func (p *Panel) Settle(m *Message, answers []Answer) {
	if len(answers) == 0 {
		return
	}
	for i := range answers {
		a := &answers[i]
		event := trace.Event{
			At: time.Now(), Stage: p.Stage, Plugin: a.Asker.Name(), Version: a.Asker.Manifest().Version,
			Action: a.Verdict.Action.String(), Score: a.Verdict.Score, Reasons: a.Verdict.Reasons,
			Detections: a.Verdict.Detections, Took: a.Took,
		}
		if a.Verdict.Reply != nil {
			event.Text = Reply{a.Verdict.Reply.Code, a.Verdict.Reply.Enhanced, a.Verdict.Reply.Text}.Clean().String()
		}
		if err := p.change(m, a, &event); err != nil {
			a.Failure, a.Verdict = &Failure{FailInvalid, err}, sdk.Verdict{}
		}
		if a.Failure != nil {
			p.stamp(m, a, &event)
		}
		m.tag(a.Verdict.Tags)
		m.Trace.Add(event)
		p.traceRecipients(m, a)
	}
}

// stamp records a failure; a message that goes on without having been looked at
// carries a field that says so. All whom the question was about shared a version
// and get the same field, so there are not more versions than before.
func (p *Panel) stamp(m *Message, a *Answer, event *trace.Event) {
	policy := p.Policy(a)
	event.Action, event.Text = policy.Action.String(), a.Failure.Error()
	event.Reasons = []sdk.Reason{{Symbol: "FAILED_" + strings.ToUpper(string(a.Failure.Kind))}}
	if policy.Action > sdk.Quarantine {
		return
	}
	field := FormatField("X-Sluice-Unscanned", fmt.Sprintf("%s; plugin=%s; failure=%s", p.Stage, a.Asker.Name(), a.Failure.Kind))
	done := make(map[*Version]*Version, 1)
	for _, i := range a.Recipients {
		r := m.Recipients[i]
		if done[r.Version] == nil {
			done[r.Version] = r.Version.Front(field)
		}
		r.Version = done[r.Version]
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

func (m *Message) tag(tags map[string]string) {
	const limit = 100
	for k, v := range tags {
		if m.Tags == nil {
			m.Tags = make(map[string]string)
		}
		if _, have := m.Tags[k]; have || len(m.Tags) < limit {
			m.Tags[k] = v
		}
	}
}

func (p *Panel) traceRecipients(m *Message, a *Answer) {
	for _, r := range a.Verdict.Recipients {
		m.Trace.Add(trace.Event{
			At: time.Now(), Stage: p.Stage, Plugin: a.Asker.Name(), Version: a.Asker.Manifest().Version,
			Recipient: r.Recipient, Action: r.Action.String(), Score: r.Score,
			Reasons: r.Reasons, Detections: r.Detections,
		})
	}
}
