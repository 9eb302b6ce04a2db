package route

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// maxRoute is how many addresses a route may have (sdk.Route).
const maxRoute = 100

// route is where a plugin wants a recipient's mail to go.
type route struct {
	by *pipeline.Answer
	to []string
}

// ask asks the router plugins, does what they say, and returns where the recipients lead
// then, those who were added included.
func (s *Stage) ask(ctx context.Context, m *pipeline.Message, ways [][]account.Account) ([][]account.Account, error) {
	answers := s.panel.Ask(ctx, m)
	for i := range answers {
		if a := &answers[i]; a.Failure == nil && tooLong(&a.Verdict) {
			a.Failure = &pipeline.Failure{Kind: pipeline.FailInvalid, Err: fmt.Errorf("a route to more than %d addresses", maxRoute)}
			a.Verdict = sdk.Verdict{}
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
			if routes[at].by == nil && v.Route != nil && len(v.Route.To) > 0 {
				routes[at] = route{a, v.Route.To}
			}
		}
	}
	if err := m.ApplyEnvelope(ctx); err != nil {
		return nil, err
	}
	for i := range routes {
		if r := m.Recipients[i]; routes[i].by != nil && !gone(r) {
			accounts, err := s.follow(ctx, m, r, &routes[i])
			if err != nil {
				return nil, err
			}
			ways[i] = accounts
		}
	}
	return s.resolve(ctx, m, ways)
}

func tooLong(v *sdk.Verdict) bool {
	if v.Route != nil && len(v.Route.To) > maxRoute {
		return true
	}
	for _, r := range v.Recipients {
		if r.Route != nil && len(r.Route.To) > maxRoute {
			return true
		}
	}
	return false
}

// follow gives a recipient the hops of a route, or refuses it.
func (s *Stage) follow(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient, to *route) ([]account.Account, error) {
	event := trace.Event{
		At: time.Now(), Stage: s.Name(), Plugin: to.by.Asker.Name(), Version: to.by.Asker.Manifest().Version,
		Recipient: r.Address, Action: "routed", Text: "to " + strings.Join(to.to, ", "),
	}
	accounts, err := s.table.ResolveTargets(ctx, r.Address, to.to)
	if err != nil {
		reply := refusal(err, m.Origin)
		if reply.Temporary() {
			return nil, fmt.Errorf("resolve the route of %s: %w", r.Address, err)
		}
		r.Hops = nil
		r.Take(pipeline.Opinion{Action: sdk.Reject, Reply: reply, Stage: s.Name(), Plugin: to.by.Asker.Name(), Why: "its route " + event.Text + ": " + err.Error()})
		event.Action, event.Text = sdk.Reject.String(), event.Text+": "+reply.String()
		m.Trace.Add(event)
		return nil, nil
	}
	r.Hops = hops(nil, accounts)
	m.Trace.Add(event)
	return accounts, nil
}
