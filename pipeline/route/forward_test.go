package route

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// node is a server as far as route goes: what it commits can be sent on to another one.
type node struct {
	t     *testing.T
	blobs *blob.Store
	p     *pipeline.Pipeline
	desk  *desk
	table *Table
	auth  *pipeline.Auth // what authenticate would have found
}

func newNode(t *testing.T, o Options) *node {
	t.Helper()
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, blobs: blobs, desk: &desk{}}
	if n.table, err = NewTable(o); err != nil {
		t.Fatal(err)
	}
	stage := New(n.table, roomy{}, nil)
	n.p = pipeline.New(pipeline.Options{
		Name: "inbound", Stages: []pipeline.Stage{stage}, Router: stage, Queue: n.desk, Deadline: 10 * time.Second,
		Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
	})
	return n
}

// take sends a message through a node and returns what it commits: for each recipient its content.
func (n *node) take(origin sdk.Origin, sender, content string, to ...string) (pipeline.Result, *pipeline.Message, []string) {
	n.t.Helper()
	m := &pipeline.Message{Origin: origin, Peer: &pipeline.Peer{}, Sender: sender, Received: time.Now(), Auth: n.auth}
	for _, address := range to {
		if reply := n.p.Recipient(n.t.Context(), m, address, pipeline.RecipientParams{}); !reply.OK() {
			return pipeline.Result{Reply: reply}, m, nil
		}
	}
	sp := n.blobs.NewSpool()
	_, _ = sp.Write([]byte(content))
	draft, err := sp.Finish()
	if err == nil {
		err = m.SetContent(draft)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	var copies []string
	keep := &keeper{desk: n.desk, keep: func(m *pipeline.Message) {
		for _, r := range m.Recipients {
			reader, err := m.Open(r.Version)
			if err != nil {
				n.t.Fatal(err)
			}
			octets, _ := io.ReadAll(io.NewSectionReader(reader, 0, reader.Size()))
			copies = append(copies, string(octets))
		}
	}}
	n.p.Queue = keep
	return n.p.Submit(n.t.Context(), m), m, copies
}

// keeper looks at a message before its content goes.
type keeper struct {
	*desk
	keep func(m *pipeline.Message)
}

func (k *keeper) Commit(ctx context.Context, m *pipeline.Message) error {
	k.keep(m)
	return k.desk.Commit(ctx, m)
}

func forwards(aliases map[string]AddressList) map[string]Domain {
	return map[string]Domain{"here.test": {Aliases: aliases, Subaddress: "+"}}
}

// TestLoopBetweenServers (DRILLS E2.4): two servers that forward to each other stop in one round, whatever else comes their way.
func TestLoopBetweenServers(t *testing.T) {
	here := newNode(t, Options{
		Hostname: "mx.here.test", LoopKey: []byte("key of here"), Accounts: people{"carol@here.test"},
		Domains: forwards(map[string]AddressList{"a": {"b@there.test"}, "list": {"carol@here.test", "b@there.test"}, "other": {"b@there.test"}}),
	})
	there := newNode(t, Options{
		Hostname: "mx.there.test", LoopKey: []byte("key of there"), Accounts: people{},
		Domains: map[string]Domain{"there.test": {Aliases: map[string]AddressList{"b": {"a@here.test", "other@here.test"}}}},
	})
	result, m, copies := here.take(sdk.Stranger, "s@example.net", "Subject: x\r\n\r\nbody\r\n", "a+x@here.test")
	if !result.Committed || ways(m) != "a+x@here.test remote b@there.test" || strings.Count(copies[0], "Sluice-Loop: mx.here.test; ") != 1 {
		t.Fatalf("%v, %s, %q", result.Reply, ways(m), copies)
	}
	result, m, copies = there.take(sdk.Stranger, "s@example.net", copies[0], "b@there.test")
	if !result.Committed || ways(m) != "b@there.test remote a@here.test remote other@here.test" || strings.Count(copies[0], "Sluice-Loop:") != 2 {
		t.Fatalf("%v, %s, %q", result.Reply, ways(m), copies)
	}
	result, m, _ = here.take(sdk.Stranger, "s@example.net", copies[0], "a@here.test")
	if result.Reply != pipeline.ReplyForwardLoop || !strings.Contains(m.Recipients[0].Opinion.Why, "forwarded from a@here.test before") {
		t.Fatalf("%v %+v", result.Reply, m.Recipients[0].Opinion)
	}
	if result, m, _ = here.take(sdk.Stranger, "s@example.net", copies[0], "other@here.test"); !result.Committed {
		t.Errorf("an alias that has not had it: %v, %s", result.Reply, ways(m))
	}
	if result, m, _ = here.take(sdk.Stranger, "s@example.net", copies[0], "carol@here.test"); !result.Committed || ways(m) != "carol@here.test mailbox carol@here.test" {
		t.Errorf("a mailbox: %v, %s", result.Reply, ways(m))
	}
	result, m, copies = here.take(sdk.Login, "carol@here.test", "Subject: x\r\n\r\n", "list@here.test", "carol@here.test", "x@else.test")
	if want := "list@here.test mailbox carol@here.test remote b@there.test; carol@here.test; x@else.test remote x@else.test"; !result.Committed || ways(m) != want {
		t.Errorf("%v, %s, want %s", result.Reply, ways(m), want)
	}
	if !strings.Contains(copies[0], "Sluice-Loop") || strings.Contains(copies[2], "Sluice-Loop") {
		t.Errorf("who wrote himself needs no mark: %q", copies)
	}
	forged := "Sluice-Loop: mx.here.test; AAAAAAAAAAAAAAAA a@here.test\r\n" + strings.Repeat("Sluice-Loop: x; "+strings.Repeat("y ", 50)+"\r\n", 100) + "\r\n"
	if result, _, _ := here.take(sdk.Stranger, "s@example.net", forged, "a@here.test"); !result.Committed {
		t.Errorf("with fields of nobody: %v", result.Reply)
	}
}

// TestOneVersionForAllForwards: forwards share one version, and never make too many.
func TestOneVersionForAllForwards(t *testing.T) {
	aliases := map[string]AddressList{}
	var to []string
	for _, c := range "abcdefghijklmnopqrst" {
		aliases[string(c)] = AddressList{string(c) + "@there.test"}
		to = append(to, string(c)+"@here.test")
	}
	here := newNode(t, Options{Hostname: "mx.here.test", Domains: forwards(aliases), Accounts: people{"carol@here.test"}})
	_, m, copies := here.take(sdk.Stranger, "s@example.net", "Subject: x\r\n\r\n", append(to, "carol@here.test")...)
	versions, _ := m.Versions()
	field, _, _ := strings.Cut(copies[0], "\r\nSubject")
	if len(versions) != 2 || len(strings.Fields(field)) != 2+len(to) || copies[20] != "Subject: x\r\n\r\n" {
		t.Errorf("%d versions, %q, %q", len(versions), copies[0], copies[20])
	}
	for line := range strings.SplitSeq(copies[0], "\r\n") {
		if len(line) > 78 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
	m = &pipeline.Message{}
	for range pipeline.MaxVersions {
		v, forwarded := &pipeline.Version{}, len(m.Recipients) == 0
		m.Recipients = append(m.Recipients, &pipeline.Recipient{Version: v})
		if forwarded {
			m.Recipients = append(m.Recipients, &pipeline.Recipient{Version: v})
		}
	}
	here.table.mark(m, map[int]bool{0: true}, []string{"token"})
	different := make(map[*pipeline.Version]bool)
	for _, r := range m.Recipients {
		different[r.Version] = true
	}
	if len(different) != pipeline.MaxVersions {
		t.Errorf("%d versions", len(different))
	}
}

// TestOwner: the nearest who is responsible.
func TestOwner(t *testing.T) {
	tb, err := NewTable(Options{Postmaster: "root@here.test", Accounts: people{}, Domains: map[string]Domain{
		"here.test":  {Subaddress: "+", Aliases: map[string]AddressList{"owner-list": {"carol@here.test"}, "list": {"x@there.test"}, "other": {"x@there.test"}}},
		"there.test": {Aliases: map[string]AddressList{"postmaster": {"carol@here.test"}}, CatchAll: AddressList{"y@there.test"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"list@here.test": "owner-list@here.test", "List+x@HERE.test": "owner-list@here.test", "other@here.test": "root@here.test",
		"any@there.test": "postmaster@there.test", "x@elsewhere.test": "root@here.test", "nonsense": "root@here.test",
	} {
		if got := tb.Owner(address); got != want {
			t.Errorf("%s is owned by %q, want %q", address, got, want)
		}
	}
}

// TestSenderOfForwards: SRS only when leaving, and only when needed (RULES A9).
func TestSenderOfForwards(t *testing.T) {
	o := Options{
		Hostname: "mx.here.test", Accounts: people{"carol@here.test"}, Forward: Forward{"here.test", []string{"0123456789abcdef"}},
		Domains: map[string]Domain{
			"here.test":   {Aliases: map[string]AddressList{"away": {"x@there.test"}, "near": {"carol@here.test"}, "back": {"x@backup.test"}}, CatchAll: AddressList{"y@there.test"}},
			"backup.test": {Accept: AcceptRelay},
		},
	}
	here := newNode(t, o)
	for _, c := range []struct {
		origin     sdk.Origin
		sender, to string
		want       string // ~ is the hash and the day
	}{
		{sdk.Stranger, "s@example.net", "away@here.test", "SRS0=~=example.net=s@here.test"},
		{sdk.Stranger, "S.T@EXAMPLE.net", "away@here.test", "SRS0=~=example.net=S.T@here.test"},
		{sdk.Stranger, `"a b"@example.net`, "away@here.test", `"SRS0=~=example.net=a b"@here.test`},
		{sdk.LMTP, "s@b\u00fccher.example", "away@here.test", "SRS0=~=xn--bcher-kva.example=s@here.test"},
		{sdk.Stranger, "s@example.net", "anybody@here.test", "SRS0=~=example.net=s@here.test"},
		{sdk.Stranger, "s@backup.test", "away@here.test", "SRS0=~=backup.test=s@here.test"},
		{sdk.Stranger, "s@here.test", "away@here.test", ""},
		{sdk.Stranger, "", "away@here.test", ""},
		{sdk.Stranger, "s@example.net", "near@here.test", ""},
		{sdk.Stranger, "s@example.net", "back@here.test", ""},
		{sdk.Stranger, "s@example.net", "x@backup.test", ""},
		{sdk.Login, "carol@here.test", "x@there.test", ""},
		{sdk.Trusted, "s@example.net", "x@there.test", ""},
		{sdk.Trusted, "s@example.net", "away@here.test", "SRS0=~=example.net=s@here.test"},
	} {
		_, m, _ := here.take(c.origin, c.sender, "Subject: x\r\n\r\n", c.to)
		got := m.Recipients[0].Hops[0].Sender
		if at := strings.Index(got, "SRS0="); at >= 0 {
			got = got[:at+5] + "~" + got[at+5+8+3:]
		}
		if got != c.want {
			t.Errorf("%s from %q to %s: %q, want %q", c.origin, c.sender, c.to, got, c.want)
		}
	}
	_, m, _ := here.take(sdk.Stranger, "s@example.net", "Subject: x\r\n\r\n", "away@here.test")
	back := m.Recipients[0].Hops[0].Sender
	if result, m, _ := here.take(sdk.Stranger, "", "Subject: bounce\r\n\r\n", back); !result.Committed || ways(m) != back+" remote s@example.net" {
		t.Errorf("a bounce: %v, %s", result.Reply, ways(m))
	}
	if result, _, _ := here.take(sdk.Stranger, "spam@example.org", "Subject: x\r\n\r\n", back); result.Reply != pipeline.ReplyNoMailbox {
		t.Errorf("from somebody: %v", result.Reply)
	}
	if result, _, _ := here.take(sdk.Stranger, "", "Subject: x\r\n\r\n", strings.Replace(back, "=s@", "=victim@", 1)); result.Reply != pipeline.ReplyNoMailbox {
		t.Errorf("for somebody else: %v", result.Reply)
	}
	o.Now = func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }
	later := newNode(t, o)
	if result, _, _ := later.take(sdk.Stranger, "", "Subject: x\r\n\r\n", back); result.Reply != pipeline.ReplyNoMailbox {
		t.Errorf("a month later: %v", result.Reply)
	}
}

// TestOurNameIsNotLent: a forward of mail that is not from a domain of ours, by the domain's own records, does not make it so
// at the next server.
func TestOurNameIsNotLent(t *testing.T) {
	here := newNode(t, Options{
		Hostname: "mx.here.test", Accounts: people{"carol@here.test"}, Forward: Forward{"here.test", []string{"0123456789abcdef"}},
		Domains: map[string]Domain{"here.test": {Aliases: map[string]AddressList{"away": {"carol@here.test", "x@there.test"}}}},
	})
	const local, rewritten, kept, waits = "away@here.test mailbox carol@here.test ", "remote x@there.test from SRS0=", "remote x@there.test", "quarantine x@there.test"
	for _, c := range []struct {
		name   string
		origin sdk.Origin
		sender string
		auth   *pipeline.Auth
		want   string
	}{
		{"nobody looked", sdk.Stranger, "s@example.net", nil, rewritten},
		{"somebody", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "fail", SPFDomain: "example.net", DMARC: "fail", DMARCDomain: "example.net", DMARCFailed: []string{"example.net"}}, rewritten},
		{"our author", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "pass", SenderVerified: true, DMARC: "fail", DMARCDomain: "here.test", DMARCFailed: []string{"here.test"}}, kept},
		{"an author beside us", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "pass", SenderVerified: true, DMARC: "fail", DMARCDomain: "sub.here.test", DMARCFailed: []string{"sub.here.test"}}, kept},
		{"our author, from a list that signs for him", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "pass", SenderVerified: true, DMARC: "pass", DMARCDomain: "here.test"}, rewritten},
		{"our author, null sender", sdk.Stranger, "", &pipeline.Auth{DMARC: "fail", DMARCDomain: "here.test", DMARCFailed: []string{"here.test"}}, waits},
		{"our author beside another", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "pass", SenderVerified: true, DMARC: "fail", DMARCDomain: "example.net", DMARCFailed: []string{"example.net", "here.test"}}, kept},
		{"an author for each reader", sdk.Stranger, "s@example.net", &pipeline.Auth{SPF: "pass", SenderVerified: true, DMARC: "permerror"}, kept},
		{"and null sender", sdk.Stranger, "", &pipeline.Auth{DMARC: "permerror"}, waits},
		{"a bounce", sdk.Stranger, "", &pipeline.Auth{DMARC: "fail", DMARCDomain: "example.net", DMARCFailed: []string{"example.net"}}, kept},
		{"our sender", sdk.Stranger, "s@here.test", &pipeline.Auth{SPF: "softfail", SPFDomain: "here.test"}, waits},
		{"our sender and author", sdk.Stranger, "s@here.test", &pipeline.Auth{SPF: "none", DMARC: "fail", DMARCDomain: "here.test", DMARCFailed: []string{"here.test"}}, waits},
		{"our sender, without records", sdk.Stranger, "s@here.test", &pipeline.Auth{SPF: "none", DMARC: "none"}, kept},
		{"our sender, signed", sdk.Stranger, "s@here.test", &pipeline.Auth{SPF: "fail", SenderVerified: true}, kept},
		{"our user", sdk.Login, "carol@here.test", &pipeline.Auth{SenderVerified: true}, kept},
	} {
		here.auth = c.auth
		result, m, _ := here.take(c.origin, c.sender, "Subject: x\r\n\r\n", "away@here.test")
		if got := ways(m); !result.Committed || got != local+c.want {
			t.Errorf("%s: %v, %s, want %s", c.name, result.Reply, got, local+c.want)
		}
		if !m.Recipients[0].Leaves {
			t.Errorf("%s: it is not sealed", c.name)
		}
	}
}

// TestSenderKeptIsTold: a sender that can't be rewritten stays, and the trace says why.
func TestSenderKeptIsTold(t *testing.T) {
	here := newNode(t, Options{
		Hostname: "mx.here.test", Accounts: people{}, Forward: Forward{"here.test", []string{"0123456789abcdef"}},
		Domains: forwards(map[string]AddressList{"away": {"x@there.test", "y@there.test"}}),
	})
	_, m, _ := here.take(sdk.Stranger, strings.Repeat("x", 120)+"@example.net", "Subject: x\r\n\r\n", "away@here.test")
	told := 0
	for _, e := range m.Trace.Events() {
		if e.Action == "sender kept" && strings.Contains(e.Text, "too long") {
			told++
		}
	}
	if told != 1 || ways(m) != "away@here.test remote x@there.test remote y@there.test" {
		t.Errorf("told %d times, %s", told, ways(m))
	}
}

// TestGatewayBringsItBack: what a router plugin sent to a gateway, and comes back, may be forwarded by an alias; sent to the
// gateway once more it runs in a circle.
func TestGatewayBringsItBack(t *testing.T) {
	here := newNode(t, Options{
		Hostname: "mx.here.test", LoopKey: []byte("key"), Accounts: people{}, Domains: forwards(map[string]AddressList{"away": {"x@there.test"}}),
	})
	stage := here.p.Stages[0]
	here.p.Stages = []pipeline.Stage{New(here.table, roomy{}, []pipeline.Asker{&router{name: "r", verdict: sdk.Verdict{Route: &sdk.Route{Via: "smtp://127.0.0.1:10024"}}}})}
	result, m, copies := here.take(sdk.Stranger, "s@example.net", "Subject: x\r\n\r\n", "away@here.test")
	if !result.Committed || ways(m) != "away@here.test remote away@here.test via smtp://127.0.0.1:10024" {
		t.Fatalf("%v, %s", result.Reply, ways(m))
	}
	if result, _, _ := here.take(sdk.Trusted, "s@example.net", copies[0], "away@here.test"); result.Reply != pipeline.ReplyForwardLoop {
		t.Errorf("to the gateway again: %v", result.Reply)
	}
	here.p.Stages = []pipeline.Stage{stage}
	if result, m, _ := here.take(sdk.Trusted, "s@example.net", copies[0], "away@here.test"); !result.Committed || ways(m) != "away@here.test remote x@there.test" {
		t.Errorf("%v, %s", result.Reply, ways(m))
	}
}
