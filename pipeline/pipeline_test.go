package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// bench is a pipeline of which a test writes one stage.
type bench struct {
	*Pipeline
	blobs     *blob.Store
	committed []*Message
	refused   []*Message
	fail      error
}

func (b *bench) Commit(_ context.Context, m *Message) error {
	b.committed = append(b.committed, m)
	return b.fail
}
func (b *bench) Refused(_ context.Context, m *Message) { b.refused = append(b.refused, m) }

// everybody lets all recipients in.
type everybody struct{}

func (everybody) Recipient(context.Context, *Message, *Recipient) Reply { return Reply{} }

// Target knows everybody but a few.
func (everybody) Target(_ context.Context, _ *Message, r *Recipient) Reply {
	switch local, _, _ := strings.Cut(r.Address, "@"); local {
	case "nobody":
		return ReplyNoMailbox
	case "remote":
		return ReplyNoRelay
	case "full":
		return ReplyMailboxFull
	case "later":
		return ReplyTryLater
	}
	return Reply{}
}

// stageFunc is a stage.
type stageFunc func(context.Context, *Message) error

func (stageFunc) Name() string                                    { return StageRoute }
func (f stageFunc) Process(ctx context.Context, m *Message) error { return f(ctx, m) }

func newBench(t *testing.T, stages ...Stage) *bench { return newBenchFor(t, stages...) }

func newBenchFor(t testing.TB, stages ...Stage) *bench {
	t.Helper()
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{blobs: blobs}
	b.Pipeline = New(Options{
		Name: "inbound", Stages: stages, Router: everybody{}, Queue: b, Deadline: 10 * time.Second, MaxSize: 1000,
		Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
	})
	return b
}

// message makes one with accounts 1, 2, 3 ... behind its recipients.
func (b *bench) message(t *testing.T, origin sdk.Origin, recipients ...string) *Message {
	t.Helper()
	return b.messageOf(t, nil, origin, recipients...)
}

// messageOf makes one in a session.
func (b *bench) messageOf(t *testing.T, s *Session, origin sdk.Origin, recipients ...string) *Message {
	t.Helper()
	sp := b.blobs.NewSpool()
	fmt.Fprintf(sp, "Subject: x\r\n\r\n%s\r\n", strings.Repeat("x", 900))
	draft, err := sp.Finish()
	if err != nil {
		t.Fatal(err)
	}
	m := &Message{Origin: origin, Peer: &Peer{}, Session: s, Sender: "a@example.net", Received: time.Now()}
	if reply := b.Sender(context.Background(), m); !reply.OK() {
		t.Fatal(reply)
	}
	for i, address := range recipients {
		if reply := b.Recipient(context.Background(), m, address, RecipientParams{}); !reply.OK() {
			t.Fatal(reply)
		}
		m.Recipients[i].Hops = []Hop{{Kind: HopMailbox, Account: storage.AccountID{byte(i + 1)}}}
	}
	if err := m.SetContent(draft); err != nil {
		t.Fatal(err)
	}
	return m
}

// ends returns the trace's last events in short.
func ends(m *Message) string {
	var list []string
	for _, e := range m.Trace.Events()[1:] {
		list = append(list, strings.TrimSpace(e.Recipient+" "+e.Action))
	}
	return strings.Join(list, "; ")
}

func (b *bench) gone(t *testing.T, m *Message) {
	t.Helper()
	if _, err := m.Content.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("the content is still held")
	}
}

// TestPanicReleasesTheContent: the session recovers; nothing may stay behind.
func TestPanicReleasesTheContent(t *testing.T) {
	b := newBench(t, stageFunc(func(context.Context, *Message) error { panic("a bug") }))
	m := b.message(t, sdk.Stranger, "a@example.test")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		b.Submit(context.Background(), m)
	}()
	b.gone(t, m)
	if len(b.committed) != 0 {
		t.Error("committed")
	}
}

type panics struct{ plugin }

func (panics) Ask(context.Context, *Question) (sdk.Verdict, error) { panic("a bug") }

// TestPanicOfAQuestionIsTheSessions: two plugins are asked in goroutines of their
// own, where a panic would end the process.
func TestPanicOfAQuestionIsTheSessions(t *testing.T) {
	p := &Panel{Stage: StageAntiSpam, Askers: []Asker{&panics{plugin{name: "first"}}, &plugin{name: "second"}}}
	defer func() {
		if v := fmt.Sprint(recover()); !strings.Contains(v, "a bug") || !strings.Contains(v, "first") {
			t.Errorf("recovered %.100s", v)
		}
	}()
	p.Ask(context.Background(), asked(t, "a@example.test"))
	t.Error("no panic")
}

// slow is a plugin that takes all of the time that it gets.
type slow struct{ plugin }

func (s *slow) Ask(ctx context.Context, _ *Question) (sdk.Verdict, error) {
	s.asked++
	<-ctx.Done()
	return sdk.Verdict{}, &Failure{FailTimeout, ctx.Err()}
}

// TestPluginThatTakesTheDeadline: its on_timeout decides, and who is not reached
// in time counts as timed out (RULES C2); route still has time.
func TestPluginThatTakesTheDeadline(t *testing.T) {
	first := &slow{plugin{name: "first"}}
	second := &slow{plugin{name: "second", policy: map[FailureKind]sdk.Action{FailTimeout: sdk.Junk}}}
	ask := func(p *Panel) Stage {
		return stageFunc(func(ctx context.Context, m *Message) error {
			answers := p.Ask(ctx, m)
			p.Settle(m, answers)
			m.Recipients[0].Take(p.Policy(&answers[0]))
			return nil
		})
	}
	b := newBench(t,
		ask(&Panel{Stage: StageAntiSpam, Default: sdk.Accept, Askers: []Asker{first}}),
		ask(&Panel{Stage: StageAntiVirus, Default: sdk.Defer, Askers: []Asker{second}}),
		stageFunc(func(ctx context.Context, _ *Message) error { return ctx.Err() }))
	b.Deadline = 2 * time.Second // what is left to the last stage is a twentieth
	m := b.message(t, sdk.Stranger, "a@example.test")
	if result := b.Submit(context.Background(), m); !result.Committed {
		t.Errorf("%v; the trace says %s", result.Reply, ends(m))
	}
	if m.Recipients[0].Opinion.Action != sdk.Junk || second.asked != 0 {
		t.Errorf("opinion %+v, second asked %d times", m.Recipients[0].Opinion, second.asked)
	}
}

// take is a stage that decides for each recipient.
func take(actions ...sdk.Action) Stage {
	return stageFunc(func(_ context.Context, m *Message) error {
		for i, a := range actions {
			m.Recipients[i].Take(Opinion{Action: a, Stage: StageAntiSpam, Why: "test"})
		}
		return nil
	})
}

// TestEveryRecipientsEndIsInTheTrace (RULES A3).
func TestEveryRecipientsEndIsInTheTrace(t *testing.T) {
	const a, d, r = sdk.Accept, sdk.Defer, sdk.Reject
	for _, c := range []struct {
		origin  sdk.Origin
		actions []sdk.Action
		want    string
	}{
		{sdk.Stranger, []sdk.Action{r, r}, "refused"},
		{sdk.Stranger, []sdk.Action{a, d}, "a@example.test accept; b@example.test defer; refused"},
		{sdk.LMTP, []sdk.Action{r, d}, "a@example.test refused; b@example.test refused; refused"},
		{sdk.LMTP, []sdk.Action{a, r}, "b@example.test refused"},
		{sdk.LMTP, []sdk.Action{a, a}, ""},
	} {
		b := newBench(t, take(c.actions...))
		m := b.message(t, c.origin, "a@example.test", "b@example.test")
		b.Submit(context.Background(), m)
		if got := ends(m); got != c.want {
			t.Errorf("%s %v: %s", c.origin, c.actions, got)
		}
		b.gone(t, m)
	}
	b := newBench(t, take(a, a))
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
	m.Recipients[1].Hops[0].Account = m.Recipients[0].Hops[0].Account
	b.Submit(context.Background(), m)
	if got := ends(m); got != "b@example.test merged" {
		t.Errorf("two recipients of one mailbox: %s", got)
	}
}

// TestSizeAfterChanges (RULES A4): the core's own fields do not count, what
// plugins add does.
func TestSizeAfterChanges(t *testing.T) {
	for _, c := range []struct {
		add  int
		code int
	}{{1000, 250}, {ownFields + 1000, 552}} {
		b := newBench(t, stageFunc(func(_ context.Context, m *Message) error {
			m.Front(FormatField("X-Long", strings.Repeat("word ", c.add/5)))
			return nil
		}))
		m := b.message(t, sdk.Stranger, "a@example.test")
		if got := b.Submit(context.Background(), m).Reply.Code; got != c.code {
			t.Errorf("%d octets more: %d, want %d", c.add, got, c.code)
		}
	}
}

func TestMessageIDOfAStrangerIsBounded(t *testing.T) {
	b := newBench(t)
	m := b.message(t, sdk.Stranger, "a@example.test")
	m.arrived = newVersion([]byte("Message-ID: <" + strings.Repeat("x", 900_000) + ">\r\n\r\n"))
	if h := headOf(m, "inbound", m.Content.Size()); len(h.MessageID) != maxMessageID {
		t.Errorf("%d octets", len(h.MessageID))
	}
}

// TestDeferralsOutliveAReload (RULES A3 b).
func TestDeferralsOutliveAReload(t *testing.T) {
	b := newBench(t, take(sdk.Accept, sdk.Defer))
	s := NewSwitch(b.Pipeline)
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
	if got := s.Submit(context.Background(), m).Reply.Code; got != 451 {
		t.Fatal(got)
	}
	s.Set(newBench(t, take(sdk.Accept, sdk.Defer)).Pipeline)
	next := &Message{Sender: "a@example.net", Peer: &Peer{}}
	for address, code := range map[string]int{"a@example.test": 0, "b@example.test": 451} {
		if got := s.Recipient(context.Background(), next, address, RecipientParams{}); got.Code != code {
			t.Errorf("%s: %v", address, got)
		}
	}
}
