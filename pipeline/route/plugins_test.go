package route

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// router is a router plugin whose answer is fixed.
type router struct {
	name    string
	verdict sdk.Verdict
	err     error
	saw     []string // hops
}

func (r *router) Name() string { return r.name }
func (r *router) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: r.name, Version: "1", Phases: []sdk.Phase{sdk.PhaseRoute}, Changes: []sdk.ChangeKind{
		sdk.AddField, sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveRecipient, sdk.ChangeSender,
	}}
}

func (r *router) Ask(_ context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	for _, to := range q.Envelope().Recipients {
		r.saw = append(r.saw, to.Hops...)
	}
	return r.verdict, r.err
}
func (r *router) Shadow() bool                                                { return false }
func (r *router) OnFailure(pipeline.FailureKind) (action sdk.Action, ok bool) { return 0, false }

// desk commits nothing and remembers all.
type desk struct{ committed, refused *pipeline.Message }

func (d *desk) Commit(_ context.Context, m *pipeline.Message) error { d.committed = m; return nil }
func (d *desk) Refused(_ context.Context, m *pipeline.Message)      { d.refused = m }

type roomy struct{}

func (roomy) Quota(context.Context, storage.AccountID) (storage.Quota, error) {
	return storage.Quota{}, nil
}

// send takes a message to alice and carol through route with plugins.
func send(t *testing.T, quotas Quotas, plugins ...*router) (pipeline.Result, *pipeline.Message) {
	t.Helper()
	return sendThrough(t, quotas, nil, plugins...)
}

// sendThrough is send with stages before route.
func sendThrough(t *testing.T, quotas Quotas, before []pipeline.Stage, plugins ...*router) (pipeline.Result, *pipeline.Message) {
	t.Helper()
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var askers []pipeline.Asker
	for _, p := range plugins {
		askers = append(askers, p)
	}
	stage, d := New(table(t), quotas, askers), &desk{}
	p := pipeline.New(pipeline.Options{
		Name: "inbound", Stages: append(before, stage), Router: stage, Queue: d, Deadline: 10 * time.Second, MaxSize: 1000,
		Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
	})
	sp := blobs.NewSpool()
	_, _ = sp.Write([]byte("Subject: x\r\n\r\nbody\r\n"))
	draft, err := sp.Finish()
	if err != nil {
		t.Fatal(err)
	}
	m := &pipeline.Message{Origin: sdk.Stranger, Peer: &pipeline.Peer{}, Sender: "s@example.net", Received: time.Now()}
	for _, to := range []string{"alice@example.test", "carol@example.test"} {
		if reply := p.Recipient(t.Context(), m, to, pipeline.RecipientParams{}); !reply.OK() {
			t.Fatal(reply)
		}
	}
	if err := m.SetContent(draft); err != nil {
		t.Fatal(err)
	}
	result := p.Submit(t.Context(), m)
	if got := d.committed != nil; got != result.Committed {
		t.Errorf("committed %v, told %v", got, result.Reply)
	}
	return result, m
}

// ways tells where a message goes.
func ways(m *pipeline.Message) string {
	var all []string
	for _, r := range m.Recipients {
		to := ""
		for _, h := range r.Hops {
			to += strings.TrimSuffix(" "+h.Kind.String()+" "+h.Address, " ")
			if h.Sender != "" {
				to += " from " + h.Sender[:5]
			}
			if h.Via != "" {
				to += " via " + h.Via
			}
			if h.Junk {
				to += " (junk)"
			}
		}
		all = append(all, strings.TrimSuffix(r.Address, "@example.test")+strings.ReplaceAll(to, "@example.test", ""))
	}
	return strings.Join(all, "; ")
}

// TestRouterPlugins holds what a plugin may do in route, case by case.
func TestRouterPlugins(t *testing.T) {
	for1 := func(v sdk.RecipientVerdict) sdk.Verdict {
		v.Recipient = "alice@example.test"
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{v}}
	}
	to := func(list ...string) *sdk.Route { return &sdk.Route{To: list} }
	change := func(kind sdk.ChangeKind, address string) sdk.Verdict {
		return sdk.Verdict{Changes: []sdk.Change{{Kind: kind, Address: address}}}
	}
	cases := []struct {
		name    string
		verdict sdk.Verdict
		code    int
		want    string
	}{
		{"no objection", sdk.Verdict{}, 250, "alice mailbox alice; carol mailbox carol"},
		{"a route for all: one copy", sdk.Verdict{Route: to("bob@example.test")}, 250, "alice mailbox Bob; carol"},
		{"a route for one", for1(sdk.RecipientVerdict{Route: to("bob@example.test")}), 250, "alice mailbox Bob; carol mailbox carol"},
		{"to an alias", for1(sdk.RecipientVerdict{Route: to("team@example.test")}), 250, "alice mailbox alice mailbox Bob; carol mailbox carol"},
		{"to herself", for1(sdk.RecipientVerdict{Route: to("alice@example.test")}), 250, "alice mailbox alice; carol mailbox carol"},
		{"an unknown target among others", for1(sdk.RecipientVerdict{Route: to("nobody@example.test", "bob@example.test")}), 250, "alice mailbox Bob; carol mailbox carol"},
		{"an unknown target", sdk.Verdict{Route: to("nobody@example.test")}, 550, ""},
		{"a remote target: one copy", sdk.Verdict{Route: to("x@elsewhere.test")}, 250, "alice remote x@elsewhere.test from SRS0=; carol"},
		{"an address literal", sdk.Verdict{Route: to("x@[192.0.2.1]")}, 550, ""},
		{"a line break in a remote target", sdk.Verdict{Route: to("x>\r\nDATA@elsewhere.test")}, 553, ""},
		{"another server, for herself", for1(sdk.RecipientVerdict{Route: &sdk.Route{Via: "lmtp://127.0.0.1:24"}}), 250, "alice remote alice via lmtp://127.0.0.1:24; carol mailbox carol"},
		{"another server, for somebody else", for1(sdk.RecipientVerdict{Route: &sdk.Route{To: []string{"bob@example.test"}, Via: "smtp://store.example.test:25"}}), 250, "alice remote bob via smtp://store.example.test:25; carol mailbox carol"},
		{"another server, in no way: a failure, deferred", sdk.Verdict{Route: &sdk.Route{Via: "smtp://user:secret@store.example.test"}}, 451, ""},
		{"a loop", sdk.Verdict{Route: to("a@example.test")}, 550, ""},
		{"no address", sdk.Verdict{Route: to("nonsense")}, 553, ""},
		{"one is refused: quarantine for a stranger", for1(sdk.RecipientVerdict{Route: to("nobody@example.test")}), 250, "alice quarantine; carol mailbox carol"},
		{"a route that is empty is none", sdk.Verdict{Route: to()}, 250, "alice mailbox alice; carol mailbox carol"},
		{"too many targets: a failure, deferred", sdk.Verdict{Route: to(make([]string, 101)...)}, 451, ""},
		{"junk", for1(sdk.RecipientVerdict{Action: sdk.Junk}), 250, "alice mailbox alice (junk); carol mailbox carol"},
		{"quarantine with a route", for1(sdk.RecipientVerdict{Action: sdk.Quarantine, Route: to("bob@example.test")}), 250, "alice quarantine; carol mailbox carol"},
		{"discard", for1(sdk.RecipientVerdict{Action: sdk.Discard}), 250, "alice discard; carol mailbox carol"},
		{"defer", for1(sdk.RecipientVerdict{Action: sdk.Defer}), 451, ""},
		{"reject", sdk.Verdict{Action: sdk.Reject}, 550, ""},
		{"a recipient more", change(sdk.AddRecipient, "bob@example.test"), 250, "alice mailbox alice; carol mailbox carol; bob mailbox Bob"},
		{"one by an alias", change(sdk.AddRecipient, "team@example.test"), 250, "alice mailbox alice; carol mailbox carol; team mailbox Bob"},
		{"an unknown one more", change(sdk.AddRecipient, "nobody@example.test"), 250, "alice mailbox alice; carol mailbox carol"},
		{"a remote one more", change(sdk.AddRecipient, "x@elsewhere.test"), 250, "alice mailbox alice; carol mailbox carol; x@elsewhere.test remote x@elsewhere.test from SRS0="},
		{"a recipient less", change(sdk.RemoveRecipient, "carol@example.test"), 250, "alice mailbox alice; carol discard"},
		{"no new body here", change(sdk.ReplaceBody, ""), 250, "alice mailbox alice; carol mailbox carol"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &router{name: "r", verdict: c.verdict}
			result, m := send(t, roomy{}, p)
			if result.Reply.Code != c.code {
				t.Errorf("reply %v, want %d", result.Reply, c.code)
			}
			if got := ways(m); result.Committed && got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := fmt.Sprint(p.saw); got != "[mailbox alice@example.test mailbox carol@example.test]" {
				t.Errorf("the plugin saw hops %s", got)
			}
		})
	}
}

// TestFirstRouteDecides: of several routes the first in the configuration's order counts, and a
// refusal of another plugin counts all the same.
func TestFirstRouteDecides(t *testing.T) {
	to := func(address string) sdk.Verdict { return sdk.Verdict{Route: &sdk.Route{To: []string{address}}} }
	_, m := send(t, roomy{}, &router{name: "none"}, &router{name: "x", verdict: to("bob@example.test")}, &router{name: "y", verdict: to("carol@example.test")})
	if got := ways(m); got != "alice mailbox Bob; carol" {
		t.Error(got)
	}
	result, _ := send(t, roomy{}, &router{name: "x", verdict: to("bob@example.test")}, &router{name: "y", verdict: sdk.Verdict{Action: sdk.Reject}})
	if result.Reply.Code != 550 {
		t.Error(result.Reply)
	}
}

// TestRouterFails: what fails in route waits at the peer; a route in a full mailbox does too.
func TestRouterFails(t *testing.T) {
	result, m := send(t, roomy{}, &router{name: "r", err: &pipeline.Failure{Kind: pipeline.FailCrash, Err: context.Canceled}})
	if result.Reply.Code != 451 {
		t.Errorf("%v", result.Reply)
	}
	_ = m
	found := false
	result, m = send(t, roomy{}, &router{name: "r", verdict: sdk.Verdict{Route: &sdk.Route{To: []string{"x@[192.0.2.1]"}}}})
	for _, e := range m.Trace.Events() {
		found = found || e.Plugin == "r" && e.Recipient == "alice@example.test" && strings.Contains(e.Text, "to x@[192.0.2.1]: "+pipeline.ReplyNoLiteral.String())
	}
	if !found || result.Reply.Text != pipeline.ReplyNoLiteral.Text {
		t.Errorf("%v %+v", result.Reply, m.Trace.Events())
	}
}

// scanner is a stage before route that does nothing but ask a plugin.
type scanner struct{ panel pipeline.Panel }

func (s *scanner) Name() string { return s.panel.Stage }
func (s *scanner) Process(ctx context.Context, m *pipeline.Message) error {
	s.panel.Settle(m, s.panel.Ask(ctx, m))
	return nil
}

// reader is a plugin that is asked about the content.
type reader struct{ *router }

func (r reader) Manifest() sdk.Manifest {
	m := r.router.Manifest()
	m.Phases = []sdk.Phase{sdk.PhaseContent}
	return m
}

// TestAddedAgain: a recipient whom a plugin of an earlier stage removed and one of route adds again gets the message: it is
// not acknowledged and then in no place at all.
func TestAddedAgain(t *testing.T) {
	change := func(kind sdk.ChangeKind, address string) *router {
		return &router{name: string(kind), verdict: sdk.Verdict{Changes: []sdk.Change{{Kind: kind, Address: address}}}}
	}
	for _, c := range []struct{ again, want string }{
		{"carol@example.test", "alice mailbox alice; carol mailbox carol"},
		{"Carol@Example.test", "alice mailbox alice; carol mailbox carol"},
	} {
		before := &scanner{pipeline.Panel{Stage: pipeline.StageAntiSpam, Askers: []pipeline.Asker{reader{change(sdk.RemoveRecipient, "carol@example.test")}}, Default: sdk.Accept}}
		result, m := sendThrough(t, roomy{}, []pipeline.Stage{before}, change(sdk.AddRecipient, c.again))
		if got := ways(m); !result.Committed || got != c.want {
			t.Errorf("%s: %v, %s, want %s", c.again, result.Reply, got, c.want)
		}
	}
	added := &scanner{pipeline.Panel{Stage: pipeline.StageAntiSpam, Askers: []pipeline.Asker{reader{change(sdk.AddRecipient, "x@elsewhere.test")}}, Default: sdk.Accept}}
	removed := &scanner{pipeline.Panel{Stage: pipeline.StageAntiVirus, Askers: []pipeline.Asker{reader{change(sdk.RemoveRecipient, "x@elsewhere.test")}}, Default: sdk.Accept}}
	_, m := sendThrough(t, roomy{}, []pipeline.Stage{added, removed}, change(sdk.AddRecipient, "x@elsewhere.test"))
	if got, want := ways(m), "alice mailbox alice; carol mailbox carol; x@elsewhere.test remote x@elsewhere.test from SRS0="; got != want {
		t.Errorf("a remote one: %s, want %s", got, want)
	}
}
