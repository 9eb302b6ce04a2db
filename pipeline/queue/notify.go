package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// NoticeKind says what a notice tells.
type NoticeKind uint8

// The kinds of notice (RFC 3464 section 2.3.3 Action).
const (
	NoticeFailed    NoticeKind = iota + 1 // the message was not delivered, and never will be
	NoticeDelayed                         // the message is late
	NoticeDelivered                       // it is in a mailbox, and the sender asked to be told
	NoticeRelayed                         // a server has it that sends no reports, and the sender asked to be told
	NoticeKept                            // for the owner of an alias, or the postmaster, not for the sender: the copy is in quarantine
)

// Notice is what somebody shall be told about a message after one round of
// attempts: one notice, however many recipients it is about (RULES A8).
type Notice struct {
	Entry *Entry
	To    string // the sender; for NoticeKept the owner of the alias, or the postmaster if a plugin has added the recipient
	About []About
}

// About is what a notice says about one recipient.
type About struct {
	Kind      NoticeKind
	Recipient *Recipient
	Outcome   pipeline.Outcome
	Until     time.Time // for NoticeDelayed: when it is given up
}

// Notifier makes the message that carries a notice: a DSN (RFC 3464) from the
// null sender, routed, sealed, ready to be queued. A nil message means that nobody
// can be told; why then says what was in the way.
type Notifier interface {
	Notice(ctx context.Context, n *Notice) (m *pipeline.Message, why string, err error)
}

// generated is a message of our own on its way into the queue.
type generated struct {
	staged
	message *pipeline.Message
	batch   kv.Batch // of a success report alone: what an atomic move takes along
}

// notify adds to b the notices that a round calls for. Who can't or must not be
// told of a failure loses nothing: the copy goes to postmaster's quarantine, unless
// the sender wants it so or is the null sender (RULES A7).
func (q *Queue) notify(ctx context.Context, b *kv.Batch, e *live, round []*result) (all []*generated, err error) {
	n := &Notice{Entry: &e.Entry, To: e.Sender}
	var told, kept []*result
	for _, r := range round {
		if r.tell == 0 {
			continue
		}
		if r.unknown() {
			r.untold("plugin " + r.Added + " has added it, the sender does not know of it")
			if r.fate == quarantined {
				kept = append(kept, r)
			}
			continue
		}
		if why := q.unwanted(e, r); why != "" {
			r.say("not notified", why)
			continue
		}
		if why := unverified(&e.Entry); why != "" {
			r.untold(why)
			if r.fate == quarantined && r.isForward() {
				kept = append(kept, r)
			}
			continue
		}
		told = append(told, r)
		n.About = append(n.About, q.about(e, r)...)
	}
	defer func() {
		if err != nil {
			for _, g := range all {
				q.admitNotice(g, e.ID, 0, err)
			}
			all = nil
		}
	}()
	if len(told) > 0 {
		g, why, err := q.generate(ctx, b, n)
		if err != nil {
			return all, err
		}
		if g != nil {
			all = append(all, g)
		}
		for _, r := range told {
			if g == nil {
				r.untold(why)
			} else {
				r.say("notified", "the sender is told by "+g.message.ID.String())
			}
		}
	}
	for _, r := range kept {
		g, err := q.tellOwner(ctx, b, e, r)
		if err != nil {
			return all, err
		}
		if g != nil {
			all = append(all, g)
		}
	}
	return all, nil
}

// about is what a notice says of a recipient. Of one who stands in others' places it speaks as of them, and has no word
// of where their mail went (RFC 3464 section 4.2).
func (q *Queue) about(e *live, r *result) (list []About) {
	a := About{Kind: r.tell, Recipient: r.Recipient, Outcome: r.outcome}
	if r.tell == NoticeDelayed {
		t := q.timetable(e.Pipeline, r.domain())
		a.Until = e.began(r.Recipient).Add(t.giveUpAfter)
	}
	for i, address := range r.Instead {
		one, known := a, *r.Recipient
		known.Address = address
		if i > 0 {
			known.Params.ORcpt = "" // the first one's
		}
		one.Recipient = &known
		one.Outcome.Reply, one.Outcome.Remote, one.Outcome.Text = "", "", ""
		if class, _, ok := strings.Cut(a.Outcome.Status, "."); ok {
			one.Outcome.Status = class + ".0.0"
		}
		switch r.tell {
		case NoticeFailed:
			one.Outcome.Text = "It could not be delivered to where mail for this address goes."
		case NoticeDelayed:
			one.Outcome.Text = "It could not be delivered yet to where mail for this address goes."
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		list = []About{a}
	}
	return list
}

// generate makes a notice and adds it to b; nil means that nobody can be told.
func (q *Queue) generate(ctx context.Context, b *kv.Batch, n *Notice) (*generated, string, error) {
	m, why, err := q.notice(ctx, n)
	if err != nil {
		return nil, "", fmt.Errorf("make the notice about %s: %w", n.Entry.ID, err)
	}
	if m == nil {
		return nil, why, nil
	}
	s, err := q.stage(ctx, b, m)
	if err != nil {
		return nil, "", fmt.Errorf("queue the notice about %s: %w", n.Entry.ID, err)
	}
	return &generated{staged: s, message: m}, "", nil
}

// notice asks the Notifier. Neither its patience nor a panic of it is ours.
func (q *Queue) notice(ctx context.Context, n *Notice) (m *pipeline.Message, why string, err error) {
	const patience = time.Minute
	defer func() {
		if v := recover(); v != nil {
			m, err = nil, fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return q.Notify.Notice(ctx, n)
}

// isForward reports whether the mail leaves because an address of ours leads elsewhere.
func (r *Recipient) isForward() bool {
	return r.Hop.Kind == pipeline.HopRemote && sameAddress(r.Hop.Address) != sameAddress(r.Address)
}

// unknown reports whether a plugin has added the recipient beside those whom the sender knows: where copies go is nobody's business
// outside, so he hears nothing of it.
func (r *Recipient) unknown() bool { return r.Added != "" && len(r.Instead) == 0 }

// ownersPatience is how often the owner of an alias is told at most that forwards fail.
const ownersPatience = 24 * time.Hour

// ownerOf returns who is told in the sender's place, and under which key it stands when that was.
func (q *Queue) ownerOf(r *result) (owner string, key []byte) {
	key = append(key, toldPrefix...)
	switch {
	case q.Notify == nil:
	case r.unknown():
		key = append(key, "plugin/"...)
		if q.Manager != nil {
			owner = q.Manager()
		}
	case q.Owner != nil:
		owner = q.Owner(r.Address)
	}
	if strings.EqualFold(owner, r.Hop.Address) { // that is who can't be reached
		owner = ""
	}
	return owner, append(key, strings.ToLower(r.Address)...)
}

// tellOwner adds to b a word to the owner of an alias, or to postmaster, if there was none today.
func (q *Queue) tellOwner(ctx context.Context, b *kv.Batch, e *live, r *result) (*generated, error) {
	owner, key := q.ownerOf(r)
	if owner == "" {
		return nil, nil
	}
	value, err := q.Store.KV().Get(ctx, key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return nil, fmt.Errorf("read when the owner of %s was told: %w", r.Address, err)
	}
	if err == nil {
		d := codec.New(value)
		if at := d.Time(); !d.Bad() && r.now.Sub(at).Abs() < ownersPatience {
			return nil, nil
		}
	}
	n := &Notice{Entry: &e.Entry, To: owner, About: []About{{Kind: NoticeKept, Recipient: r.Recipient, Outcome: r.outcome}}}
	g, why, err := q.generate(ctx, b, n)
	switch {
	case err != nil:
		return nil, err
	case g == nil:
		r.say("owner not told", why)
		return nil, nil
	}
	b.Set(key, codec.AppendTime(nil, r.now))
	r.say("owner told", owner+" is told by "+g.message.ID.String())
	return g, nil
}

// success makes the report that the sender of a local recipient asked for, ready to be added to
// the batch that delivers it; nil if nobody has to be told.
func (q *Queue) success(ctx context.Context, e *live, r *Recipient) (*generated, error) {
	o := pipeline.Outcome{Kind: pipeline.Delivered, Start: q.Now(), Status: "2.0.0"}
	one := &result{Recipient: r, outcome: o, tell: successOf(e, r, &o, nil)}
	if one.tell == 0 || q.unwanted(e, one) != "" || unverified(&e.Entry) != "" {
		return nil, nil
	}
	var b kv.Batch
	g, _, err := q.generate(ctx, &b, &Notice{Entry: &e.Entry, To: e.Sender, About: q.about(e, one)})
	if g != nil {
		g.batch = b
	}
	return g, err
}

// addTo adds a report to the batch of a delivery.
func (g *generated) addTo(b *kv.Batch) {
	if g == nil {
		return
	}
	for _, op := range g.batch.Ops() {
		switch op.Kind {
		case kv.OpSet:
			b.Set(op.Key, op.Value)
		case kv.OpDelete:
			b.Delete(op.Key)
		case kv.OpDeleteRange:
			b.DeleteRange(op.Key, op.Value)
		}
	}
}

var errNotDelivered = errors.New("not delivered")

// endSuccess ends what success has begun.
func (q *Queue) endSuccess(g *generated, e *live, delivered bool) {
	if g == nil {
		return
	}
	if delivered {
		q.admitNotice(g, e.ID, q.Store.KV().Tail(), nil)
	} else {
		q.admitNotice(g, e.ID, 0, errNotDelivered)
	}
}

// successOf says what the sender is told about a delivery: something only if NOTIFY=SUCCESS asks for it (RFC 3461
// section 4.1), and for all hops of one recipient once, with the last of them. A server that sends reports itself was asked
// to (section 5.2.2). Those of the round before this one have their fates.
func successOf(e *live, r *Recipient, o *pipeline.Outcome, round []*result) NoticeKind {
	if !slices.Contains(r.Params.Notify, "SUCCESS") {
		return 0
	}
	for _, other := range e.recipients {
		if other != r && other.Address == r.Address && !slices.ContainsFunc(round, func(ended *result) bool {
			return ended.Recipient == other && (ended.fate == finished || ended.fate == quarantined)
		}) {
			return 0
		}
	}
	switch {
	case r.Hop.Kind != pipeline.HopRemote:
		return NoticeDelivered
	case o.Relayed:
		return NoticeRelayed
	}
	return 0
}

// unwanted says why there is no notice and need not be one.
func (q *Queue) unwanted(e *live, r *result) string {
	want := "FAILURE"
	switch r.tell {
	case NoticeDelayed:
		want = "DELAY"
	case NoticeDelivered, NoticeRelayed:
		want = "SUCCESS"
	}
	switch {
	case e.Sender == "":
		return "the sender is the null sender"
	case q.Notify == nil:
		return "notices are off"
	case len(r.Params.Notify) > 0 && !slices.Contains(r.Params.Notify, want):
		return "the sender asked for NOTIFY=" + strings.Join(r.Params.Notify, ",")
	}
	return ""
}

// unverified says why the sender of such a message must not be told: anybody can
// write any sender.
func unverified(e *Entry) string {
	if (e.Origin == sdk.Stranger || e.Origin == sdk.LMTP) && !e.Verified {
		return "nobody has verified the sender"
	}
	return ""
}
