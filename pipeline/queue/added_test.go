package queue_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
)

// TestAddedRecipientsAreNobodysBusiness: of what a plugin has added beside the others the sender hears nothing, neither that it is late
// nor that it failed. The copy is kept, and postmaster is told once a day for an address.
func TestAddedRecipientsAreNobodysBusiness(t *testing.T) {
	t.Parallel()
	c := newClock()
	r, w, s := newNoticeRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Manager = func() string { return "postmaster@example.test" }
		o.Owner = func(string) string { return "owner@example.test" }
	})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if p.Domain == "late.example" {
			return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 later", Status: "4.2.0"}, pipeline.PaceSame), nil
		}
		return refused(p), nil
	}
	journal := func(sender string, origin sdk.Origin) *pipeline.Message {
		return r.send(t, "m", func(m *pipeline.Message) {
			m.Origin, m.Sender, m.Received, m.Auth = origin, sender, c.Now(), &pipeline.Auth{SenderVerified: true}
			m.Recipients[0].Address = "named@example.net"
			m.Recipients[1].Address, m.Recipients[1].Added = "journal@archive.example", "journal"
			m.Recipients[2].Address, m.Recipients[2].Added = "late@late.example", "journal"
		}, to("named@example.net"), to("journal@archive.example"), to("late@late.example"))
	}
	first := journal("bob@example.net", sdk.Stranger)
	kept := func(m *pipeline.Message) func() bool {
		return func() bool {
			for _, i := range r.list(t) {
				if i.ID == m.ID.String() {
					return len(i.Recipients) == 2 && i.Recipients[0].State == "quarantined" && i.Recipients[0].Added == "journal" && i.Recipients[1].Attempts > 0
				}
			}
			return false
		}
	}
	eventually(t, "a copy that is kept", kept(first))
	eventually(t, "another", kept(journal("alice@example.test", sdk.Login)))
	eventually(t, "one from nobody", kept(journal("", sdk.Trusted)))
	want := []string{
		"alice@example.test: 1 named@example.net 5.1.1", "bob@example.net: 1 named@example.net 5.1.1",
		"postmaster@example.test: 5 journal@archive.example 5.1.1",
	}
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("told: %q", got)
	}
	for range 6 {
		c.add(time.Hour)
		time.Sleep(30 * time.Millisecond)
	}
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("told of a delay: %q", got)
	}
	if got := r.actions(t, first.ID); !strings.Contains(got, "owner told") || strings.Count(got, "not notified") != 2 {
		t.Errorf("the trace says %q", got)
	}
}

// TestInPlaceOfOthers: who was added in place of those whom the sender named is told about under their names, as they wanted it, and
// without a word of where their mail went.
func TestInPlaceOfOthers(t *testing.T) {
	t.Parallel()
	notices := make(chan queue.Notice, 10)
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Notify = &keeper{notices} })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		return all(p, pipeline.Outcome{
			Kind: pipeline.Failed, Text: "550 5.1.1 <alice@corp.internal>", Reply: "550 5.1.1 <alice@corp.internal>", Remote: "mx.corp.internal", Status: "5.1.1",
		}, pipeline.PaceSame), nil
	}
	m, err := replaced(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-notices:
		if len(n.About) != 2 || n.To != "bob@example.net" {
			t.Fatalf("%+v", n)
		}
		for i, a := range n.About {
			if a.Recipient.Address != []string{"sales@example.test", "info@example.test"}[i] || a.Outcome.Reply != "" || a.Outcome.Remote != "" ||
				a.Outcome.Status != "5.0.0" || strings.Contains(a.Outcome.Text, "internal") {
				t.Errorf("%+v, %+v", a.Recipient, a.Outcome)
			}
		}
		if first := n.About[0].Recipient.Params; first.ORcpt != "rfc822;sales@example.test" || n.About[1].Recipient.Params.ORcpt != "" {
			t.Errorf("%+v", first)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
}

// keeper hands notices on.
type keeper struct{ notices chan queue.Notice }

func (k *keeper) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	k.notices <- *n
	return nil, "nobody is told", nil
}

// replaced is a message of which a plugin has put one recipient in the place of two.
func replaced(r *rig) (*pipeline.Message, error) {
	m, err := message(r.store, "m", to("alice@corp.internal"))
	if err != nil {
		return nil, err
	}
	m.Origin = sdk.Login
	added := m.Recipients[0]
	added.Address, added.Added, m.Recipients = "alice@corp.internal", "tenants", nil
	for _, address := range []string{"sales@example.test", "info@example.test"} {
		named := &pipeline.Recipient{Address: address, Removed: "tenants", Version: added.Version}
		named.Params.ORcpt = "rfc822;" + address
		m.Recipients = append(m.Recipients, named)
	}
	added.Behalf = m.Recipients[:2:2]
	m.Recipients = append(m.Recipients, added)
	return m, nil
}
