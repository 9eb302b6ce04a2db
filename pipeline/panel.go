package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// Panel is the plugins of one stage. All are asked at the same time about the
// same version of the message; an accept hides nobody's refusal (RULES A2).
type Panel struct {
	Stage   string
	Phase   sdk.Phase // "" is content
	Askers  []Asker
	Default sdk.Action // what a failure means where the plugin's table does not say
}

// Answer is what one plugin said, or how it failed to.
type Answer struct {
	Asker      Asker
	Recipients []int // for whom: indexes into Message.Recipients
	Verdict    sdk.Verdict
	Body       *blob.Spool // the new body that the plugin sent, if it may; Settle discards what nobody has finished
	Failure    *Failure
	Took       time.Duration

	by       *sdk.Manifest // of the version that answered, where that is not the Asker's
	panicked any           // what Ask panicked with, and where
}

// Manifest returns what the version of the plugin that answered says about itself: the changes that it may make are its own.
func (a *Answer) Manifest() sdk.Manifest {
	if a.by != nil {
		return *a.by
	}
	return a.Asker.Manifest()
}

// For returns what the answer says about one recipient.
func (a *Answer) For(address string) sdk.RecipientVerdict {
	v := a.Verdict
	out := sdk.RecipientVerdict{
		Recipient: address, Action: v.Action, Score: v.Score, Route: v.Route,
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
		if r.Route != nil {
			out.Route = r.Route
		}
	}
	return out
}

func (p *Panel) phase() sdk.Phase {
	if p.Phase == "" {
		return sdk.PhaseContent
	}
	return p.Phase
}

// Ask asks every plugin of the panel that has its phase, and returns their answers in
// the order of the configuration; answers of shadow plugins are left out. Recipients who
// are refused already are not asked about.
func (p *Panel) Ask(ctx context.Context, m *Message) []Answer {
	if len(p.Askers) == 0 {
		return nil
	}
	until := m.askUntil
	if p.phase() == sdk.PhaseRoute {
		until = m.routeUntil
	}
	if !until.IsZero() {
		limited := lazy.WithDeadline(ctx, until)
		defer limited.Stop()
		ctx = limited
	}
	return p.ask(ctx, m.via, questionsOf(m, p.phase()))
}

// ask puts each question to each plugin. via may be nil: then no body can be taken in.
func (p *Panel) ask(ctx context.Context, via *Pipeline, questions []*Question) []Answer {
	answers := make([]Answer, 0, len(p.Askers)*len(questions))
	for _, asker := range p.Askers {
		manifest := asker.Manifest()
		lost := p.misplaced(&manifest)
		if lost == nil && !has(manifest, p.phase()) {
			continue
		}
		for _, q := range questions {
			answers = append(answers, Answer{Asker: asker, Recipients: q.Recipients, Failure: lost})
		}
	}
	for _, q := range questions { // made here, once: the plugins only read it
		q.Envelope()
		if q.Version != nil {
			_, _ = q.Content() // who needs it fails
		}
	}
	list := make([]asking, len(answers))
	for i := range list {
		list[i] = asking{Answer: &answers[i], ctx: ctx, q: *questions[i%len(questions)], via: via, over: answers[i].Failure != nil}
	}
	askAll(list)
	for i := range answers {
		if v := answers[i].panicked; v != nil {
			for k := range answers {
				answers[k].discardBody()
			}
			panic(v)
		}
	}
	kept := answers[:0]
	for _, a := range answers {
		if !a.Asker.Shadow() {
			kept = append(kept, a)
		}
	}
	return kept
}

// misplaced returns the failure of a plugin that takes part in phases, and in none of those in which this stage asks: a scanner
// that came back from a restart or a reload without its phase, or stands in the wrong list. It was named here to be asked, so its on_failure decides,
// and nothing goes by unseen. Who is told events alone may stand anywhere.
func (p *Panel) misplaced(m *sdk.Manifest) *Failure {
	asks := [...]sdk.Phase{p.phase(), p.phase(), p.phase(), p.phase()}
	switch {
	case p.phase() != sdk.PhaseContent && p.phase() != sdk.PhaseRoute:
		return nil // content will tell
	case p.Stage == StageAntiSpam:
		asks = [...]sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent}
	}
	takesPart := false
	for _, phase := range m.Phases {
		if slices.Contains(asks[:], phase) {
			return nil
		}
		takesPart = takesPart || phase != sdk.PhaseEvent
	}
	if !takesPart {
		return nil
	}
	return &Failure{FailError, fmt.Errorf("it takes no part in %s, only in %v", p.phase(), m.Phases)}
}

// questionsOf groups the recipients that are not refused by version.
func questionsOf(m *Message, phase sdk.Phase) []*Question {
	var list []*Question
	for i, r := range m.Recipients {
		if r.Opinion.Action == sdk.Reject || r.Removed != "" {
			continue
		}
		var q *Question
		for _, have := range list {
			if have.Version == r.Version {
				q = have
			}
		}
		if q == nil {
			q = &Question{Phase: phase, Message: m, Version: r.Version}
			list = append(list, q)
		}
		q.Recipients = append(q.Recipients, i)
	}
	return list
}

// discardBody throws away a new body that nobody has finished.
func (a *Answer) discardBody() {
	if a.Body != nil {
		a.Body.Discard()
		a.Body = nil
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
	code := r.Code
	if code == 421 { // it says that we close the connection (RFC 5321 section 3.8), which is not a plugin's to say
		code = otherwise.Code
	}
	enhanced := r.Enhanced
	if !validEnhanced(enhanced, class) {
		enhanced = otherwise.Enhanced
	}
	return Reply{code, enhanced, r.Text}.Clean()
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
		return clip(strings.Join(v.Detections, ", "))
	}
	words := make([]string, 0, len(v.Reasons))
	for _, r := range v.Reasons {
		words = append(words, r.Symbol)
	}
	return clip(strings.Join(words, ", "))
}
