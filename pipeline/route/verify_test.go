package route

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/route/callout"
	"github.com/sluicemail/sluice/sdk"
)

// judge refuses whoever is called nobody, and remembers what it was asked.
type judge struct{ asked []callout.Question }

func (j *judge) Refused(_ context.Context, q callout.Question) bool {
	j.asked = append(j.asked, q)
	return strings.HasPrefix(q.Address, "nobody@")
}

// TestVerifyRecipients: who is asked about, on whose behalf, and what the client hears. No other server is ever asked than that of a
// relayed domain, whatever the address.
func TestVerifyRecipients(t *testing.T) {
	table, err := NewTable(Options{Accounts: people{"carol@far.test", "alice@here.test"}, Domains: map[string]Domain{
		"here.test": {Aliases: map[string]AddressList{"away": {"nobody@elsewhere.test"}, "far": {"nobody@far.test"}}, CatchAll: AddressList{"nobody@far.test"}},
		"far.test":  {Accept: AcceptRelay, Verify: true, Subaddress: "+", Aliases: map[string]AddressList{"team": {"nobody@far.test", "carol@far.test"}}},
		"old.test":  {Accept: AcceptRelay},
	}})
	if err != nil {
		t.Fatal(err)
	}
	peer := netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct {
		origin  sdk.Origin
		address string
		asked   string // about whom, and with "!" on the client's account; "": nobody
		reply   pipeline.Reply
	}{
		{sdk.Stranger, "bob@far.test", "bob@far.test!", pipeline.Reply{}},
		{sdk.Stranger, "Bob+x@FAR.test.", "Bob+x@far.test!", pipeline.Reply{}},
		{sdk.Stranger, "nobody@far.test", "nobody@far.test!", pipeline.ReplyNoMailbox},
		{sdk.Login, "nobody@far.test", "nobody@far.test!", pipeline.ReplyNoMailbox},
		{sdk.Trusted, "nobody@far.test", "nobody@far.test", pipeline.ReplyNoMailbox},
		{sdk.LMTP, "nobody@far.test", "nobody@far.test", pipeline.ReplyNoMailbox},
		{sdk.Stranger, "nobody%elsewhere.test@far.test", "nobody%elsewhere.test@far.test!", pipeline.Reply{}},
		{sdk.Stranger, `"nobody@elsewhere.test"@far.test`, `"nobody@elsewhere.test"@far.test!`, pipeline.Reply{}},
		{sdk.Stranger, "carol@far.test", "", pipeline.Reply{}},   // an account here
		{sdk.Stranger, "carol+x@far.test", "", pipeline.Reply{}}, //
		{sdk.Stranger, "team@far.test", "", pipeline.Reply{}},    // the administrator wrote where it leads
		{sdk.Stranger, "far@here.test", "", pipeline.Reply{}},
		{sdk.Stranger, "whoever@here.test", "", pipeline.Reply{}},
		{sdk.Stranger, "away@here.test", "", pipeline.Reply{}},
		{sdk.Stranger, "nobody@old.test", "", pipeline.Reply{}},
		{sdk.Stranger, "nobody@sub.far.test", "", pipeline.ReplyNoRelay},
		{sdk.Stranger, "nobody@elsewhere.test", "", pipeline.ReplyNoRelay},
		{sdk.Login, "nobody@elsewhere.test", "", pipeline.Reply{}},
		{sdk.Stranger, "nobody@[192.0.2.9]", "", pipeline.ReplyNoRelay},
		{sdk.Login, "nobody@[192.0.2.9]", "", pipeline.ReplyNoLiteral},
	} {
		j := &judge{}
		stage := New(table, roomy{}, nil)
		stage.Verifier = j
		m := &pipeline.Message{Origin: test.origin, Pipeline: "gate", Peer: &pipeline.Peer{Addr: peer}}
		reply := stage.Recipient(t.Context(), m, &pipeline.Recipient{Address: test.address})
		var asked []string
		for _, q := range j.asked {
			if asked = append(asked, q.Address); q.Client == peer {
				asked[len(asked)-1] += "!"
			}
			if q.Pipeline != "gate" || q.Client.IsValid() && q.Client != peer {
				t.Errorf("%s %s: the question is %+v", test.origin, test.address, q)
			}
		}
		if got := strings.Join(asked, " "); got != test.asked || reply != test.reply {
			t.Errorf("%s %s: asked about %q, reply %q; want %q and %q", test.origin, test.address, got, reply, test.asked, test.reply)
		}
	}
	way, err := table.Resolve(t.Context(), Asked{Address: "bob@far.test", Origin: sdk.Stranger, Explain: true})
	if err != nil || !slices.ContainsFunc(way.Steps, func(s Step) bool { return slices.Contains(s.Key, "verify_recipients") }) {
		t.Errorf("nothing tells of it: %+v, %v", way, err)
	}
	local := Domain{Verify: true}
	if err := local.Validate(); err == nil || !strings.Contains(err.Error(), "verify_recipients") {
		t.Errorf("a domain that is delivered here: %v", err)
	}
}
