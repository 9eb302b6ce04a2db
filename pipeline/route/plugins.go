package route

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// maxRoute is how many addresses a route may have (sdk.Route).
const maxRoute = 100

// stated reports whether a verdict has a route.
func stated(r *sdk.Route) bool { return r != nil && (len(r.To) > 0 || r.Via != "") }

// unfit says why a route can't be followed, whatever its addresses are.
func unfit(r *sdk.Route) error {
	if r == nil {
		return nil
	}
	if len(r.To) > maxRoute {
		return fmt.Errorf("a route to more than %d addresses", maxRoute)
	}
	if r.Via != "" {
		if _, err := Via(r.Via); err != nil {
			return fmt.Errorf("a route via a server that %w", err)
		}
	}
	return nil
}

// route is where a plugin wants a recipient's mail to go.
type route struct {
	by  *pipeline.Answer
	to  []string
	via string
}

// ask asks the router plugins, does what they say, and returns where the recipients lead
// then, those who were added included.
func (s *Stage) ask(ctx context.Context, m *pipeline.Message, ways [][]Target) ([][]Target, error) {
	answers := s.panel.Ask(ctx, m)
	for i := range answers {
		if a := &answers[i]; a.Failure == nil {
			if err := unfitRoutes(&a.Verdict); err != nil {
				a.Failure, a.Verdict = &pipeline.Failure{Kind: pipeline.FailInvalid, Err: err}, sdk.Verdict{}
			}
		}
	}
	s.panel.Settle(m, answers)
	routes := make([]route, len(m.Recipients))
	for i := range answers {
		a := &answers[i]
		for _, at := range a.Recipients {
			r := m.Recipients[at]
			if a.Failure != nil {
				r.Take(s.panel.Policy(a))
				continue
			}
			v := a.For(r.Address)
			r.Take(s.panel.Opinion(a, v))
			if routes[at].by == nil && stated(v.Route) {
				routes[at] = route{a, v.Route.To, v.Route.Via}
			}
		}
	}
	if err := m.ApplyEnvelope(ctx); err != nil {
		return nil, err
	}
	for i := range routes {
		if r := m.Recipients[i]; routes[i].by != nil && !gone(r) {
			targets, err := s.follow(ctx, m, r, &routes[i])
			if err != nil {
				return nil, err
			}
			ways[i] = targets
		}
	}
	return s.resolve(ctx, m, ways)
}

func unfitRoutes(v *sdk.Verdict) error {
	if err := unfit(v.Route); err != nil {
		return err
	}
	for i := range v.Recipients {
		if err := unfit(v.Recipients[i].Route); err != nil {
			return err
		}
	}
	return nil
}

// follow gives a recipient the hops of a route, or refuses it.
func (s *Stage) follow(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient, to *route) ([]Target, error) {
	event := trace.Event{
		At: time.Now(), Stage: s.Name(), Plugin: to.by.Asker.Name(), Version: to.by.Manifest().Version,
		Recipient: r.Address, Action: "routed", Text: strings.TrimSpace("to " + strings.Join(to.to, ", ")),
	}
	var way Way
	var err error
	if to.via != "" {
		event.Text += " via " + to.via
		way, err = s.table.direct(r.Address, to.to, to.via)
	} else {
		way, err = s.table.ResolveTargets(ctx, r.Address, to.to)
	}
	if err != nil {
		reply := Refusal(err)
		if !definite(err) {
			return nil, fmt.Errorf("resolve the route of %s: %w", r.Address, err)
		}
		r.Hops = nil
		r.Take(pipeline.Opinion{Action: sdk.Reject, Reply: reply, Stage: s.Name(), Plugin: to.by.Asker.Name(), Why: "its route " + event.Text + ": " + err.Error()})
		event.Action, event.Text = sdk.Reject.String(), event.Text+": "+reply.String()
		m.Trace.Add(event)
		return nil, nil
	}
	r.Hops = hops(nil, way.Targets)
	m.Trace.Add(event)
	return way.Targets, nil
}

// direct returns targets at a server that somebody named: nothing is resolved, its users are what it says. That server is
// the administrator's, so the sender stays. It may be a gateway that brings the mail back, to be forwarded by an alias then: so
// this way of the recipient has a mark of its own.
func (t *Table) direct(recipient string, to []string, via string) (Way, error) {
	via, err := Via(via)
	if err != nil {
		return Way{}, err
	}
	w := newWalk(t, Asked{})
	if len(to) == 0 {
		_, _, address, err := w.locate(recipient)
		if err != nil {
			return Way{}, err
		}
		to = []string{address}
	}
	for _, address := range to {
		wire, err := onWire(address)
		if err != nil {
			return Way{}, err
		}
		if err := w.add(Target{Remote: wire, Through: "via " + fold(recipient), Via: via}); err != nil {
			return Way{}, err
		}
	}
	return w.way(nil)
}
