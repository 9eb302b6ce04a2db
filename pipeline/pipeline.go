// Package pipeline takes a message through the ordered stages and adds up what
// they think of it.
//
// Promises: everything up to and including route runs while the peer waits,
// within one deadline; Committer.Commit is the only moment at which Sluice takes
// responsibility. Before it every failure is an SMTP reply and nothing is ours;
// after it every failure is a retry or a bounce and nothing is lost. Opinions
// are per recipient (RULES A2) and are folded into SMTP's one reply by RULES A3.
// The octets that arrived never change (RULES A4).
//
// A connection and an envelope are asked about first, by Connect, Sender and Recipient
// (phases.go): what they refuse is refused at once, what they think stays with the session
// or the message. Then start reading at Pipeline.Submit. The stages live in the directories of their
// names; cmd/sluice/serve.go puts them together.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
)

// Committer is the queue as the pipeline sees it. Commit takes responsibility
// for every hop of every recipient: it returns nil only when the message is on
// stable storage, in one batch. On an error nothing was committed. It owns
// m.Content from the call on, whatever it returns.
//
// Refused keeps the trace of a message that the peer was told no about. Nothing
// waits for it, and it may be lost in a crash: the message was never ours.
type Committer interface {
	Commit(ctx context.Context, m *Message) error
	Refused(ctx context.Context, m *Message)
}

// RecipientRouter answers RCPT: where the address leads, or why it is refused.
// It fills in Recipient.Accounts and must not change anything else. Target answers the
// same for an address that a plugin adds, which is looked up like an alias's target.
type RecipientRouter interface {
	Recipient(ctx context.Context, m *Message, r *Recipient) Reply
	Target(ctx context.Context, m *Message, r *Recipient) Reply
}

// Options are what a Pipeline is made of.
type Options struct {
	Name      string
	Hostname  string  // of this server, for plugins
	Early     []Asker // the plugins of anti-spam, for connect, sender and recipient
	Stages    []Stage // authenticate, anti-spam, anti-virus, route
	Router    RecipientRouter
	Queue     Committer
	Sealer    Sealer        // signs what leaves; nil: nothing is signed
	Mixed     Mixed         // "" is the origin's default
	Deadline  time.Duration // for all stages together; 60 s
	PhaseTime time.Duration // for one phase before the content; 0 is PhaseTime
	MaxSize   int64         // octets, checked again after changes
	MaxTo     int           // recipients, those that plugins add included; 0 is 100
	Logger    *slog.Logger
	Now       func() time.Time

	Blobs    *blob.Store                                 // where new bodies go; nil: no plugin may replace one
	Parse    func(r io.ReaderAt, size int64) *sdk.Parsed // the shared parse (RULES C7); nil: there is none
	Observer Observer                                    // may be nil
	Alerter  Alerter                                     // may be nil
}

// Pipeline is the way of a message. All methods may be called from any goroutine.
type Pipeline struct {
	Options
	deferred *deferrals
}

// New returns a pipeline ready for messages.
func New(o Options) *Pipeline {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PhaseTime <= 0 {
		o.PhaseTime = PhaseTime
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Alerter == nil {
		o.Alerter = nobody{}
	}
	return &Pipeline{Options: o, deferred: newDeferrals()}
}

// Result is what the peer is told after the content.
type Result struct {
	Reply     Reply   // SMTP and submission
	Each      []Reply // LMTP: one for each RCPT
	Committed bool
}

// ErrAbandoned is the cause of a ctx whose peer has gone; nothing is committed
// for it (RULES A11).
var ErrAbandoned = errors.New("the peer has gone")

// Submit takes a message whose content has arrived through the stages and
// commits it. It owns m from then on. When ctx ends before the commit, nothing
// is committed.
//
// A panic in a stage goes on to the session, which recovers from it and answers
// 4yz; the content does not stay behind.
func (p *Pipeline) Submit(ctx context.Context, m *Message) Result {
	defer m.Discard() // whoever keeps the content has it by then
	p.begin(m)
	staged, cancel := context.WithTimeout(ctx, p.Deadline)
	defer cancel()
	m.askUntil = time.Now().Add(p.Deadline - min(p.Deadline/10, routeTime))
	m.routeUntil = time.Now().Add(p.Deadline - min(p.Deadline/20, foldTime))
	p.runStages(staged, m)
	p.checkSize(m)
	mixed := mixedFor(p.Mixed, m.Origin)
	decision := fold(m, mixed)
	if ctx.Err() != nil {
		return p.abandon(ctx, m)
	}
	if !decision.Commits() {
		return p.refuse(ctx, m, &decision)
	}
	land(m, mixed)
	if err := p.seal(staged, m); err != nil {
		return p.unsealed(ctx, m, err)
	}
	p.traceEnds(m, &decision)
	return p.commit(ctx, m, &decision)
}

// seal signs what leaves, after the last change (RULES A6).
func (p *Pipeline) seal(ctx context.Context, m *Message) error {
	if p.Sealer == nil {
		return nil
	}
	if err := p.Sealer.Seal(ctx, m); err != nil {
		return fmt.Errorf("seal %s: %w", m.ID, err)
	}
	return nil
}

// unsealed answers for a message that can't be signed: it is not to leave without.
func (p *Pipeline) unsealed(ctx context.Context, m *Message, err error) Result {
	p.Logger.Error("not sealed", "id", m.ID, "stage", StageAuthenticate, "action", "defer", "why", err)
	m.TakeAll(Opinion{Action: sdk.Defer, Reply: ReplyTryLater, Stage: StageAuthenticate, Why: err.Error()})
	d := Decision{Reply: ReplyTryLater}
	if m.Origin == sdk.LMTP {
		d.Each = same(m, ReplyTryLater)
	}
	return p.refuse(ctx, m, &d)
}

// routeTime is what plugins leave of the deadline for route, at most: a plugin
// that takes all of its time is a failed plugin, not a failed pipeline (RULES C2).
const routeTime = 5 * time.Second

// foldTime is what plugins of route leave, at most, for the same reason.
const foldTime = time.Second

// traceEnds writes the end of recipients that the queue will not hear of.
func (p *Pipeline) traceEnds(m *Message, d *Decision) {
	for i, r := range m.Recipients {
		e := trace.Event{At: p.Now(), Stage: StageRoute, Recipient: r.Address}
		switch {
		case i < len(d.Each) && d.Each[i].Code != 0: // LMTP: its own reply
			e.Stage, e.Action, e.Text = orStage(r.Opinion.Stage), "refused", d.Each[i].Clean().String()
		case len(r.Hops) == 0:
			e.Action, e.Text = "merged", "the same place gets a copy as another recipient's"
		default:
			continue
		}
		m.Trace.End(e)
	}
}

func (p *Pipeline) begin(m *Message) {
	p.open(m, m.Content.Size(), trace.Event{Action: sdk.Accept.String()})
}

// open begins the trace of a message of so many octets with what receive thinks of it, and goes on with what was said
// before the content.
func (p *Pipeline) open(m *Message, size int64, first trace.Event) {
	m.Trace = &trace.Trace{Head: headOf(m, p.Name, size)}
	m.Pipeline = p.Name
	if m.via == nil {
		m.via = p
	}
	first.At, first.Stage = p.Now(), StageReceive
	first.Took = first.At.Sub(m.Received)
	m.Trace.Add(first)
	m.join()
}

// maxMessageID bounds what a trace keeps of a Message-ID, which a stranger wrote:
// an honest one is one line (RFC 5322 section 2.1.1).
const maxMessageID = 998

func headOf(m *Message, pipeline string, size int64) trace.Head {
	h := trace.Head{
		ID: m.ID.String(), Received: m.Received, Origin: string(m.Origin), Pipeline: pipeline,
		Sender: m.Sender, Size: size, Recipients: make([]string, len(m.Recipients)),
	}
	for i, r := range m.Recipients {
		h.Recipients[i] = r.Address
	}
	if m.arrived != nil { // nil: receive has not taken the content
		if f, ok := m.arrived.Get("Message-ID"); ok {
			h.MessageID = f.Value()
			h.MessageID = h.MessageID[:min(len(h.MessageID), maxMessageID)]
		}
	}
	if peer := m.Peer; peer != nil {
		h.Listener, h.ClientName, h.Helo, h.TLS, h.Login = peer.Listener, peer.Name, peer.Helo, peer.TLS, peer.Login
		if peer.Addr.IsValid() {
			h.Client = peer.Addr.String()
		}
	}
	return h
}

// runStages asks the stages in order until one fails or everybody is refused.
func (p *Pipeline) runStages(ctx context.Context, m *Message) {
	for _, stage := range p.Stages {
		start := p.Now()
		err := stage.Process(ctx, m)
		if err == nil {
			err = m.ApplyEnvelope(ctx)
		}
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		took := p.Now().Sub(start)
		if err != nil {
			m.TakeAll(Opinion{Action: sdk.Defer, Reply: ReplyTryLater, Stage: stage.Name(), Why: err.Error()})
			m.Trace.Add(trace.Event{At: p.Now(), Stage: stage.Name(), Action: sdk.Defer.String(), Text: err.Error(), Took: took})
			p.Observer.Stage(&StageReport{p.Name, stage.Name(), sdk.Defer, took})
			if !errors.Is(context.Cause(ctx), ErrAbandoned) { // of which abandon tells
				p.Logger.Error("stage failed", "id", m.ID, "stage", stage.Name(), "action", "defer", "why", err)
			}
			return
		}
		strongest, all := m.strongest()
		p.Observer.Stage(&StageReport{p.Name, stage.Name(), strongest, took})
		if all && strongest == sdk.Reject {
			return
		}
	}
}

// strongest returns the strongest action among the recipients, and whether it is
// everybody's.
func (m *Message) strongest() (action sdk.Action, all bool) {
	n := 0
	for _, r := range m.Recipients {
		switch {
		case r.Opinion.Action > action:
			action, n = r.Opinion.Action, 1
		case r.Opinion.Action == action:
			n++
		}
	}
	return action, n == len(m.Recipients)
}

// ownFields is the room for what the core itself adds: a message of exactly
// max_size passes.
const ownFields = 64 << 10

// checkSize refuses what changes have made larger than the limit (RULES A4).
func (p *Pipeline) checkSize(m *Message) {
	if p.MaxSize <= 0 {
		return
	}
	for _, r := range m.Recipients {
		if r.Version == m.arrived {
			continue
		}
		if size := m.Size(r.Version); size > p.MaxSize+ownFields {
			r.Take(Opinion{
				Action: sdk.Reject, Stage: StageRoute, Why: fmt.Sprintf("%d octets after changes", size),
				Reply: Reply{552, "5.3.4", "The message is too large"},
			})
		}
	}
}

func (p *Pipeline) abandon(ctx context.Context, m *Message) Result {
	m.Content.Discard()
	p.Logger.Info("message abandoned", "id", m.ID, "stage", StageReceive, "action", "abandoned", "why", context.Cause(ctx))
	return Result{Reply: ReplyTryLater, Each: same(m, ReplyTryLater)}
}

func (p *Pipeline) refuse(ctx context.Context, m *Message, d *Decision) Result {
	m.Content.Discard()
	for _, i := range d.Deferred {
		if m.Peer != nil {
			p.deferred.add(deferralOf(m.Trace.Head.Sender, m.Recipients[i].Address, m.Peer.Addr), p.Now())
		}
	}
	p.traceRefusal(m, d)
	p.Queue.Refused(ctx, m)
	p.logFate(m, d.Reply)
	return Result{Reply: d.Reply.Clean(), Each: d.Each}
}

// traceRefusal writes what the peer is told, and where that does not say it all,
// what was thought about each recipient.
func (p *Pipeline) traceRefusal(m *Message, d *Decision) {
	_, same := m.strongest()
	for i, r := range m.Recipients {
		switch {
		case i < len(d.Each):
			m.Trace.End(trace.Event{
				At: p.Now(), Stage: orStage(r.Opinion.Stage), Recipient: r.Address, Action: "refused", Text: d.Each[i].Clean().String(),
			})
		case !same:
			m.Trace.End(trace.Event{
				At: p.Now(), Stage: orStage(r.Opinion.Stage), Recipient: r.Address, Action: r.Opinion.Action.String(), Text: r.Opinion.Why,
			})
		}
	}
	m.Trace.End(trace.Event{
		At: p.Now(), Stage: StageReceive, Action: "refused", Took: p.Now().Sub(m.Received), Text: d.Reply.Clean().String(),
	})
}

func (p *Pipeline) commit(ctx context.Context, m *Message, d *Decision) Result {
	if err := p.Queue.Commit(ctx, m); err != nil {
		reply := ReplyTryLater
		if errors.Is(err, kv.ErrFull) {
			reply = ReplyDiskFull
		}
		p.Logger.Error("commit failed", "id", m.ID, "stage", StageQueue, "action", "defer", "why", err)
		return Result{Reply: reply, Each: same(m, reply)}
	}
	p.logFate(m, Reply{})
	ok := accepted(m.ID.String())
	for i := range d.Each {
		if d.Each[i].Code == 0 {
			d.Each[i] = ok
		}
	}
	return Result{Reply: ok, Each: d.Each, Committed: true}
}

func same(m *Message, r Reply) []Reply {
	each := make([]Reply, m.asked())
	for i := range each {
		each[i] = r
	}
	return each
}

// logFate writes one line for a message whose fate has changed, and one for each
// recipient whose fate is another. refusal is what the peer was told no with:
// then nobody gets the message, whatever was thought about him.
func (p *Pipeline) logFate(m *Message, refusal Reply) {
	logger := p.Logger
	if refusal.Code != 0 {
		logger = logger.With("reply", refusal.Clean().String())
	}
	strongest, all := m.strongest()
	if all {
		o := m.Recipients[0].Opinion
		logger.Info("message", "id", m.ID, "stage", orStage(o.Stage), "action", strongest.String(), "why", o.Why,
			"from", m.Sender, "recipients", len(m.Recipients), "size", m.Content.Size())
		return
	}
	for _, r := range m.Recipients {
		logger.Info("message", "id", m.ID, "stage", orStage(r.Opinion.Stage), "action", r.Opinion.Action.String(),
			"why", r.Opinion.Why, "from", m.Sender, "to", r.Address)
	}
}

func orStage(s string) string {
	if s == "" {
		return StageQueue
	}
	return s
}
