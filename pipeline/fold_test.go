package pipeline

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// message makes a message with one recipient for each action.
func message(origin sdk.Origin, actions ...sdk.Action) *Message {
	m := &Message{Origin: origin, Peer: &Peer{Addr: netip.MustParseAddr("192.0.2.7")}, Sender: "a@example.net"}
	for i, a := range actions {
		r := &Recipient{Address: string(rune('a'+i)) + "@example.test"}
		r.Hops = []Hop{{Kind: HopMailbox, Account: storage.AccountID{byte(i + 1)}}}
		reply := Reply{}
		switch a {
		case sdk.Reject:
			reply = Reply{550, "5.7.1", "no " + r.Address}
		case sdk.Defer:
			reply = Reply{450, "4.7.1", "wait " + r.Address}
		}
		r.Take(Opinion{Action: a, Reply: reply})
		m.Recipients = append(m.Recipients, r)
	}
	return m
}

// TestFold holds RULES A3, case by case.
func TestFold(t *testing.T) {
	const a, j, q, x, d, r = sdk.Accept, sdk.Junk, sdk.Quarantine, sdk.Discard, sdk.Defer, sdk.Reject
	cases := []struct {
		name     string
		actions  []sdk.Action
		mixed    Mixed
		code     int    // 0: commit
		text     string // of the reply
		deferred int
	}{
		{"one accepted", []sdk.Action{a}, MixedQuarantine, 0, "", 0},
		{"one refused", []sdk.Action{r}, MixedQuarantine, 550, "no a@example.test", 0},
		{"one deferred", []sdk.Action{d}, MixedQuarantine, 451, "wait a@example.test", 0},
		{"all refused: the first one's words", []sdk.Action{r, r}, MixedQuarantine, 550, "no a@example.test", 0},
		{"a deferral beats an acceptance", []sdk.Action{a, d}, MixedQuarantine, 451, "wait b@example.test", 1},
		{"a deferral beats a refusal", []sdk.Action{r, d}, MixedQuarantine, 451, "wait b@example.test", 0},
		{"refused, deferred, accepted", []sdk.Action{r, d, a}, MixedQuarantine, 451, "wait b@example.test", 1},
		{"mixed = quarantine", []sdk.Action{a, r}, MixedQuarantine, 0, "", 0},
		{"mixed = bounce", []sdk.Action{a, r}, MixedBounce, 0, "", 0},
		{"mixed = reject", []sdk.Action{a, r}, MixedReject, 550, "no b@example.test", 0},
		{"discard is ours", []sdk.Action{x, x}, MixedQuarantine, 0, "", 0},
		{"junk and quarantine are ours", []sdk.Action{j, q}, MixedQuarantine, 0, "", 0},
		{"refused and discarded is mixed", []sdk.Action{r, x}, MixedReject, 550, "no a@example.test", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := fold(message(sdk.Stranger, c.actions...), c.mixed)
			if got.Reply.Code != c.code || got.Reply.Text != c.text || len(got.Deferred) != c.deferred {
				t.Errorf("got %v, deferred %v", got.Reply, got.Deferred)
			}
			if got.Commits() != (c.code == 0) {
				t.Errorf("commits: %v", got.Commits())
			}
		})
	}
}

func TestFoldLMTP(t *testing.T) {
	m := message(sdk.LMTP, sdk.Accept, sdk.Reject, sdk.Defer, sdk.Junk)
	d := fold(m, MixedQuarantine)
	want := []int{0, 550, 450, 0}
	for i, code := range want {
		if d.Each[i].Code != code {
			t.Errorf("recipient %d: %v, want code %d", i, d.Each[i], code)
		}
	}
	if !d.Commits() {
		t.Error("nothing is committed although two recipients were accepted")
	}
	land(m, MixedQuarantine)
	if len(m.Recipients[1].Hops) != 0 || len(m.Recipients[2].Hops) != 0 {
		t.Error("a recipient with its own refusal has hops")
	}
	if all := fold(message(sdk.LMTP, sdk.Reject, sdk.Defer), ""); all.Commits() {
		t.Error("a message for nobody is committed")
	}
}

func TestMixedFor(t *testing.T) {
	cases := []struct {
		configured Mixed
		origin     sdk.Origin
		want       Mixed
	}{
		{"", sdk.Stranger, MixedQuarantine},
		{"", sdk.LMTP, MixedQuarantine},
		{"", sdk.Login, MixedBounce},
		{"", sdk.Trusted, MixedBounce},
		{MixedBounce, sdk.Stranger, MixedQuarantine}, // never backscatter
		{MixedReject, sdk.Stranger, MixedReject},
		{MixedQuarantine, sdk.Login, MixedQuarantine},
	}
	for _, c := range cases {
		if got := mixedFor(c.configured, c.origin); got != c.want {
			t.Errorf("mixed = %q for %s: %s, want %s", c.configured, c.origin, got, c.want)
		}
	}
}

func TestLand(t *testing.T) {
	m := message(sdk.Stranger, sdk.Accept, sdk.Junk, sdk.Quarantine, sdk.Discard, sdk.Reject)
	land(m, MixedQuarantine)
	want := []struct {
		kind HopKind
		junk bool
	}{{HopMailbox, false}, {HopMailbox, true}, {HopQuarantine, false}, {HopDiscard, false}, {HopQuarantine, false}}
	for i, w := range want {
		hops := m.Recipients[i].Hops
		if len(hops) != 1 || hops[0].Kind != w.kind || hops[0].Junk != w.junk {
			t.Errorf("recipient %d: %+v, want %v junk=%v", i, hops, w.kind, w.junk)
		}
	}
	bounced := message(sdk.Login, sdk.Accept, sdk.Reject)
	land(bounced, MixedBounce)
	if got := bounced.Recipients[1].Hops; len(got) != 1 || got[0].Kind != HopBounce || got[0].Why != "550 5.7.1 no b@example.test" {
		t.Errorf("bounce: %+v", got)
	}
}

func TestOneCopyForOneMailbox(t *testing.T) {
	m := message(sdk.Stranger, sdk.Junk, sdk.Accept, sdk.Junk)
	for _, r := range m.Recipients {
		r.Hops[0].Account = storage.AccountID{9}
	}
	land(m, MixedQuarantine)
	if len(m.Recipients[0].Hops) != 1 || len(m.Recipients[1].Hops) != 0 || len(m.Recipients[2].Hops) != 0 {
		t.Fatalf("hops: %v %v %v", m.Recipients[0].Hops, m.Recipients[1].Hops, m.Recipients[2].Hops)
	}
	if m.Recipients[0].Hops[0].Junk {
		t.Error("Junk won over INBOX")
	}
}

func TestDeferralsAreRememberedOnceAndBounded(t *testing.T) {
	d := newDeferrals()
	d.limit = 100
	now := time.Now()
	key := deferralOf("S@example.net", "R@example.test", netip.MustParseAddr("192.0.2.7"))
	d.add(key, now)
	same := deferralOf("s@EXAMPLE.net", "r@example.test", netip.MustParseAddr("192.0.2.99"))
	if !d.take(same, now) {
		t.Error("the neighbour in the same /24 is not recognised")
	}
	if d.take(same, now) {
		t.Error("a deferral is remembered twice")
	}
	d.add(key, now)
	if d.take(key, now.Add(2*time.Hour)) {
		t.Error("a deferral is remembered for longer than an hour")
	}
	for i := range 10_000 {
		d.add(deferral{sender: string(rune(i))}, now.Add(time.Duration(i)*time.Second))
		if len(d.until) > d.limit {
			t.Fatalf("%d deferrals, limit %d", len(d.until), d.limit)
		}
	}
}

func TestReplyClean(t *testing.T) {
	dirty := Reply{550, "5.7.1", "a\r\nb\x00\u00fc\t" + string(make([]byte, 1000))}
	got := dirty.Clean().Text
	if len(got) > 400 {
		t.Errorf("%d octets", len(got))
	}
	for _, c := range got {
		if c < ' ' || c > '~' {
			t.Fatalf("%q is on the wire", c)
		}
	}
}

// TestLandAway: what leaves. Junk of people whom we do not know stays, and one address gets one copy (RULES A7).
func TestLandAway(t *testing.T) {
	for _, c := range []struct {
		name   string
		origin sdk.Origin
		action sdk.Action
		want   string
	}{
		{"accepted", sdk.Stranger, sdk.Accept, "mailbox,remote X@there.test,remote y@there.test via lmtp:///run/lmtp;remote Y@there.test"},
		{"junk", sdk.Stranger, sdk.Junk, "mailbox junk,quarantine X@there.test,quarantine y@there.test via lmtp:///run/lmtp;quarantine x@there.test,quarantine Y@there.test"},
		{"junk by LMTP", sdk.LMTP, sdk.Junk, "mailbox junk,quarantine X@there.test,quarantine y@there.test via lmtp:///run/lmtp;quarantine x@there.test,quarantine Y@there.test"},
		{"junk of our user", sdk.Login, sdk.Junk, "mailbox junk,remote X@there.test,remote y@there.test via lmtp:///run/lmtp;remote Y@there.test"},
		{"quarantine", sdk.Stranger, sdk.Quarantine, "quarantine;quarantine"},
		{"discard", sdk.Stranger, sdk.Discard, "discard;discard"},
	} {
		m := message(c.origin, c.action, c.action)
		m.Recipients[0].Hops = append(m.Recipients[0].Hops, Hop{Kind: HopRemote, Address: "X@there.test", Sender: "srs@here.test"},
			Hop{Kind: HopRemote, Address: "y@there.test", Via: "lmtp:///run/lmtp"})
		m.Recipients[1].Hops = []Hop{{Kind: HopRemote, Address: "x@there.test"}, {Kind: HopRemote, Address: "Y@there.test"}}
		land(m, MixedQuarantine)
		for _, r := range m.Recipients { // what is released from quarantine leaves sealed (RULES A6)
			if want := c.action != sdk.Discard; r.Leaves != want {
				t.Errorf("%s: %s leaves: %v", c.name, r.Address, r.Leaves)
			}
		}
		var each []string
		for _, r := range m.Recipients {
			var hops []string
			for _, h := range r.Hops {
				text := strings.TrimSpace(h.Kind.String() + " " + h.Address)
				if h.Junk {
					text += " junk"
				}
				if h.Via != "" {
					text += " via " + h.Via
				}
				if h.Kind == HopQuarantine && h.Address != "" && !strings.Contains(h.Why, h.Address) {
					t.Errorf("%s: no word about %s in %q", c.name, h.Address, h.Why)
				}
				hops = append(hops, text)
			}
			each = append(each, strings.Join(hops, ","))
		}
		if got := strings.Join(each, ";"); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	m := message(sdk.Stranger, sdk.Quarantine, sdk.Accept)
	if land(m, MixedQuarantine); m.Recipients[0].Leaves || m.Recipients[1].Leaves {
		t.Error("mail for mailboxes leaves")
	}
}
