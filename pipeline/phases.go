package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// This file has the phases before the content: connect, sender and recipient. They
// are asked of the plugins in the anti-spam list (RULES C6) that announce them, each
// while the peer waits for the reply to that command. A pipeline without such plugins
// pays for the look at its list and nothing else.
//
// Reject and defer are the reply, at once. Junk, quarantine and discard stick: to every
// message of the session, to the transaction, or to that recipient. Scores are added to
// what the thresholds of anti-spam compare after the content; no threshold acts
// earlier, since what is still to come may speak for the message. A failure is the
// plugin's on_failure, as in content, with the default of anti-spam.

// PhaseTime bounds one phase before the content, all of its plugins together. A
// client waits five minutes for each reply (RFC 5321 section 4.5.3.2), but a connection
// that waits is one that others can't have.
const PhaseTime = 10 * time.Second

// Asks reports whether a plugin is to be asked in one of the phases before the
// content. It costs next to nothing, and changes with the plugins.
func (p *Pipeline) Asks(phase sdk.Phase) bool {
	for _, a := range p.Early {
		if has(a.Manifest(), phase) {
			return true
		}
	}
	return false
}

// has reports whether a plugin is asked in a phase. One that has never started has not
// said so yet: it is asked in content and route, where its failure counts, and not
// before.
func has(manifest sdk.Manifest, phase sdk.Phase) bool {
	if len(manifest.Phases) == 0 && len(manifest.Events) == 0 {
		return phase == sdk.PhaseContent || phase == sdk.PhaseRoute
	}
	for _, have := range manifest.Phases {
		if have == phase {
			return true
		}
	}
	return false
}

// Connect asks about a connection, before the greeting. A reply that is not OK, 421 or
// 554, stands in its place, and the connection is closed (RFC 5321 section 3.1).
func (p *Pipeline) Connect(ctx context.Context, s *Session) Reply {
	if !p.Asks(sdk.PhaseConnect) {
		return Reply{}
	}
	s.server, s.pipeline = p.Hostname, p.Name
	q := &Question{Phase: sdk.PhaseConnect, Session: s}
	e := p.ask(ctx, q, &s.said)
	s.said.score = bounded(s.said.score + e.score)
	s.said.tags = addTags(s.said.tags, e.tags)
	reply := s.said.obey(e.opinion, &s.said.opinion)
	switch {
	case reply.OK():
		return Reply{}
	case reply.Temporary():
		reply.Code = 421
	default:
		reply.Code = 554
	}
	return reply
}

// Sender asks about MAIL FROM. It is called once, when m has its sender and no
// recipient yet; what is not OK is the reply, and there is no transaction.
func (p *Pipeline) Sender(ctx context.Context, m *Message) Reply {
	m.via, m.Pipeline = p, p.Name
	m.meet()
	if !p.Asks(sdk.PhaseSender) {
		return Reply{}
	}
	e := p.ask(ctx, &Question{Phase: sdk.PhaseSender, Message: m}, &m.said)
	m.Score = bounded(m.Score + e.score)
	m.Tags = addTags(m.Tags, e.tags)
	return m.said.obey(e.opinion, &m.said.opinion)
}

// Recipient decides about one RCPT and, if it is accepted, adds it to m. Plugins are
// asked last: nobody hears from them about an address that does not exist.
func (p *Pipeline) Recipient(ctx context.Context, m *Message, address string, params RecipientParams) Reply {
	if m.via == nil {
		m.via, m.Pipeline = p, p.Name
	}
	m.meet()
	m.said.refusal = Opinion{}
	r := &Recipient{Address: address, Params: params}
	if reply := p.Router.Recipient(ctx, m, r); !reply.OK() {
		return reply
	}
	if m.Peer != nil && p.deferred.take(deferralOf(m.Sender, address, m.Peer.Addr), p.Now()) {
		return ReplyNotNow
	}
	if p.Asks(sdk.PhaseRecipient) {
		e := p.ask(ctx, &Question{Phase: sdk.PhaseRecipient, Message: m, Recipient: r}, &m.said)
		m.Tags = addTags(m.Tags, e.tags)
		r.Score = e.score
		if reply := m.said.obey(e.opinion, &r.Opinion); !reply.OK() {
			return reply
		}
	}
	m.Recipients = append(m.Recipients, r)
	return Reply{}
}

// obey returns the reply that an opinion means now, or lets it stick.
func (s *said) obey(o Opinion, stick *Opinion) Reply {
	s.refusal = Opinion{}
	if o.Action >= sdk.Defer {
		s.refusal = o
		return o.Reply
	}
	if o.Action > stick.Action {
		*stick = o
	}
	return Reply{}
}

// heard is what the plugins of one phase add up to.
type heard struct {
	opinion Opinion
	score   float64
	tags    map[string]string
}

// ask asks the plugins that have the question's phase, and notes what they say.
func (p *Pipeline) ask(ctx context.Context, q *Question, s *said) heard {
	ctx, cancel := context.WithTimeout(ctx, p.PhaseTime)
	defer cancel()
	panel := Panel{Stage: StageAntiSpam, Phase: q.Phase, Askers: p.Early, Default: sdk.Accept}
	answers := panel.ask(ctx, p, []*Question{q})
	var h heard
	for i := range answers {
		a := &answers[i]
		event := panel.event(a)
		event.Text = joinText("at "+string(q.Phase), event.Text)
		v := sdk.RecipientVerdict{Action: a.Verdict.Action, Score: a.Verdict.Score, Reasons: a.Verdict.Reasons, Detections: a.Verdict.Detections, Reply: a.Verdict.Reply}
		if q.Recipient != nil {
			event.Recipient = q.Recipient.Address
			v = a.For(q.Recipient.Address)
			event.Action, event.Score, event.Reasons, event.Detections = v.Action.String(), v.Score, v.Reasons, v.Detections
		}
		refused := refuseAll(&a.Verdict, &event) + refuseTags(&a.Verdict, &event)
		report := panel.report(p, a, refused)
		var o Opinion
		if a.Failure != nil {
			o = panel.Policy(a)
			failed(&event, o, a.Failure)
			event.Text = joinText("at "+string(q.Phase), event.Text)
			report.Action, report.Unscanned = o.Action, o.Action < sdk.Defer
			if report.Unscanned {
				s.miss(a.Asker.Name(), q.Phase, a.Failure.Kind)
			}
		} else {
			o = panel.Opinion(a, v)
			h.score = bounded(h.score + v.Score)
			h.tags = addTags(h.tags, a.Verdict.Tags)
		}
		if o.Action > h.opinion.Action {
			h.opinion = o
		}
		s.note(event)
		p.Observer.Plugin(&report)
		p.alert(a, q)
	}
	return h
}

func joinText(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}

// refuseAll refuses everything in a verdict that has no place before the content, and
// returns how much that was.
func refuseAll(v *sdk.Verdict, event *trace.Event) int {
	refused := refuseRoutes(v, event)
	refuse := func(list []sdk.Change) {
		for _, c := range list {
			refused++
			noteChange(event, refusedPrefix+changeLine(c))
		}
	}
	refuse(v.Changes)
	for _, r := range v.Recipients {
		refuse(r.Changes)
	}
	return refused
}

// refuseRoutes refuses the routes in a verdict of another phase than route.
func refuseRoutes(v *sdk.Verdict, event *trace.Event) (refused int) {
	if v.Route != nil {
		v.Route, refused = nil, 1
	}
	for i := range v.Recipients {
		if v.Recipients[i].Route != nil {
			v.Recipients[i].Route = nil
			refused++
		}
	}
	if refused > 0 {
		noteChange(event, refusedRoute)
	}
	return refused
}

// noteChange adds a line to an event, once.
func noteChange(event *trace.Event, line string) {
	if len(event.Changes) < trace.MaxReasons && !contains(event.Changes, line) {
		event.Changes = append(event.Changes, line)
	}
}

func changeLine(c sdk.Change) string {
	switch {
	case c.Name != "":
		return c.Kind.String() + " " + c.Name
	case c.Kind == sdk.ChangeSender:
		return c.Kind.String() + " <" + c.Address + ">"
	case c.Address != "":
		return c.Kind.String() + " " + c.Address
	}
	return c.Kind.String()
}

// alert passes on what the administrator should know soon.
func (p *Pipeline) alert(a *Answer, q *Question) {
	for _, one := range a.Verdict.Alerts {
		id, session := "", ""
		if q.Message != nil {
			id = q.Message.ID.String()
			if q.Message.Peer != nil {
				session = q.Message.Peer.Session
			}
		} else {
			session = q.Session.Peer.Session
		}
		p.Logger.Warn("alert of a plugin", "plugin", a.Asker.Name(), "id", id, "session", session, "action", "alert", "key", one.Key, "why", one.Text)
		p.Alerter.Alert(a.Asker.Name(), one)
	}
}

// errNotReached is why a plugin failed that the deadline left no time for.
var errNotReached = errors.New("not reached within the deadline of the pipeline")
