package deliver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// attempt is one parcel's way over its servers. It belongs to one goroutine.
type attempt struct {
	ctx     context.Context // of Send: it ends when we stop, and not with the attempt's time
	r       *Remote
	p       *pipeline.Parcel
	config  Config
	plan    plan
	start   time.Time
	content wire.Content

	sender     string           // as it is sent
	recipients []wire.Recipient // as they are sent, each under its index in p
	utf8       bool             // sender or header need SMTPUTF8
	outcomes   []pipeline.Outcome
	open       []int // indexes of recipients without an outcome

	session  *session // that had the last word, to be given back
	best     *trouble // the most telling of all
	hopes    int      // troubles that may be over later
	private  bool     // a trouble says nothing about other messages to the same servers
	loop     bool     // the server is ourselves: those behind it would only send the mail back (RFC 5321 section 5.1)
	answered bool     // somebody has an answer, or nobody can know
	fine     bool     // a message was taken
	taken    int      // for so many recipients
	slow     string   // why we should send less
	dropped  string   // how a connection ended in the middle of a transaction
	ours     error    // what is wrong on our side

	question *question // not nil: nothing is sent, a server is asked about the recipient
}

func (a *attempt) left() int { return len(a.open) }

// travel goes from server to server until everybody has an answer, or there are no more. Addresses that failed a moment ago come at the end.
func (a *attempt) travel(ctx context.Context) {
	var err error
	if a.plan, err = a.r.plan(ctx, a.p.Domain, a.p.Via, uint16(a.config.Port)); err != nil {
		a.nowhere(err)
		return
	}
	var domain *tlspolicy.Domain
	if !a.local() {
		if domain, err = a.policies(ctx); err != nil {
			a.note(a.policyTrouble(nil, err))
			return
		}
	}
	rules := a.config.rules(a.r.Own)
	rules.Trusted = a.plan.fixed
	a.knownFirst()
	for round := range 2 {
		for i := range a.plan.targets {
			if a.left() == 0 || a.ours != nil || a.loop || ctx.Err() != nil {
				return
			}
			if t := &a.plan.targets[i]; round == 0 || len(t.rest) > 0 {
				a.visit(ctx, t, domain, rules, round == 1)
			}
		}
	}
}

// local reports whether all servers are sockets in the file system, for which there is no TLS.
func (a *attempt) local() bool {
	for i := range a.plan.targets {
		if a.plan.targets[i].unix == "" {
			return false
		}
	}
	return true
}

func (a *attempt) policies(ctx context.Context) (*tlspolicy.Domain, error) {
	level := a.config.TLS
	if a.plan.fixed {
		level = a.plan.transport.TLS
	}
	return a.r.Policies.Domain(ctx, tlspolicy.Asked{
		Domain: a.p.Domain, Exchangers: a.plan.exchangers, Level: level, Fixed: a.plan.fixed,
		DANE: a.config.DANE, MTASTS: a.config.MTASTS, Optional: a.content.NoTLS,

		// A bounce is sent with REQUIRETLS where that is offered, and is not discarded where it is not (RFC 8689 section 5).
		RequireTLS: a.p.Params.TLS && a.p.Sender != "",

		// TLS reports have a null sender, like all that we write ourselves: reported about, they would lead to a report
		// on every day for ever (RFC 8460 section 3). Bounces are left out with them.
		Unreported: a.p.Sender == "",
	})
}

// knownFirst puts a server to which a connection waits in front of others of the same preference (RFC 5321 section 5.1 leaves the order among
// those to us).
func (a *attempt) knownFirst() {
	targets := a.plan.targets
	if a.plan.fixed || len(targets) < 2 {
		return
	}
	for i := range targets {
		if targets[i].host.Preference != targets[0].host.Preference {
			return
		}
		if a.r.pool.has(targets[i].host.Name) {
			targets[0], targets[i] = targets[i], targets[0]
			return
		}
	}
}

// visit tries one server at its addresses. Those that are known to be dead are left for the end of the attempt, which last says it is.
func (a *attempt) visit(ctx context.Context, t *target, domain *tlspolicy.Domain, rules mx.Rules, last bool) {
	if t.unix != "" {
		a.call(ctx, a.dialer(t, nil, rules, netip.AddrPort{}))
		return
	}
	addrs := t.rest
	t.rest = nil
	if !last {
		found, _, err := a.r.Finder.Addresses(ctx, t.host, rules)
		if err != nil {
			a.note(a.unknown(t, err))
			return
		}
		addrs = mixed(found, maxAddrs)
	}
	policy, err := domain.Host(ctx, t.host)
	if err != nil {
		a.note(a.policyTrouble(t, err))
		return
	}
	now := a.r.Now()
	for _, addr := range addrs {
		if a.left() == 0 || a.ours != nil || a.loop || ctx.Err() != nil {
			return
		}
		at := netip.AddrPortFrom(addr, t.host.Port)
		if !last && a.r.dead.has(at, now) {
			t.rest = append(t.rest, addr)
			continue
		}
		if a.call(ctx, a.dialer(t, policy, rules, at)) {
			t.rest = nil // it has spoken
			return
		}
	}
}

// mixed takes the first n addresses, of both families in turn where there are both: one that leads nowhere does not use up the attempt.
func mixed(addrs []netip.Addr, n int) []netip.Addr {
	if len(addrs) <= 1 {
		return addrs
	}
	first := addrs[0].Is4()
	var families [2][]netip.Addr
	for _, addr := range addrs {
		i := 0
		if addr.Is4() != first {
			i = 1
		}
		families[i] = append(families[i], addr)
	}
	if len(families[1]) == 0 {
		return addrs[:min(n, len(addrs))]
	}
	out := make([]netip.Addr, 0, n)
	for i := 0; len(out) < n && (i < len(families[0]) || i < len(families[1])); i++ {
		for _, f := range families {
			if i < len(f) && len(out) < n {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// call makes the transactions with one address. A connection that was kept and has died meanwhile is replaced. It reports whether
// the server said something about the message or to it, so that its other addresses need not be asked.
func (a *attempt) call(ctx context.Context, d dialer) (heard bool) {
	for {
		s, t := d.session(ctx)
		if t != nil {
			a.note(t)
			return t.reply.Code != 0
		}
		a.giveBack() // of a server before
		if d.whole {
			s.conn.Extensions.Chunking = false
		}
		until, _ := ctx.Deadline()
		release := s.conn.BindUntil(a.ctx, until)
		converse := a.transact
		if a.question != nil {
			converse = a.ask
		}
		verdict, t := converse(s, &d)
		release()
		switch verdict {
		case stale:
			s.conn.Close()
			continue
		case spent:
			a.r.pool.put(s)
			continue
		case moveOn:
			a.session = s
			a.note(t)
			return t.reply.Code != 0 && t.reply.Code != 421
		}
		a.session = s
		return true
	}
}

// giveBack returns the connection to the pool. It is what done is.
func (a *attempt) giveBack() {
	if s := a.session; s != nil {
		a.session = nil
		a.r.pool.put(s)
	}
}

// note remembers a trouble. One with a reply says more than one without, and the first of equals stays.
func (a *attempt) note(t *trouble) {
	if t == nil {
		return
	}
	if !t.never {
		a.hopes++
	}
	switch t.pace {
	case pipeline.PaceSlow:
		if a.dropped = t.line(); t.reply.Code != 0 {
			a.slow = a.dropped
		}
	case pipeline.PaceSame:
		a.private = true
	}
	switch {
	case a.best == nil, a.best.reply.Code == 0 && t.reply.Code != 0, a.best.never && !t.never && a.best.reply.Code == 0:
		a.best = t
	}
}

// unknown is a server whose addresses are not to be had.
func (a *attempt) unknown(t *target, err error) *trouble {
	tr := &trouble{remote: t.String(), text: clean(err.Error()), status: "4.4.3", pace: pipeline.PaceWait}
	if !mx.Temporary(err) {
		tr.never, tr.status = true, statusOfDNS(err)
		a.loop = errors.Is(err, mx.ErrSelf) && !a.plan.fixed
		if f := mx.Families(a.config.Families); errors.Is(err, mx.ErrForbidden) && !errors.Is(err, mx.ErrSelf) || f == mx.IP4 || f == mx.IP6 {
			tr.pace = pipeline.PaceSame // another pipeline may be allowed to go there
		}
	}
	return tr
}

// policyTrouble is a server, or with nil a domain, that TLS policy does not let us send to now.
func (a *attempt) policyTrouble(t *target, err error) *trouble {
	// Other domains with the same servers have other policies, and other messages may not ask for TLS: they do not wait for this one.
	tr := &trouble{text: clean(err.Error()), status: "4.7.5", pace: pipeline.PaceSame}
	if t != nil {
		tr.name, tr.remote = t.String(), t.String()
	}
	var policy *tlspolicy.Error
	if errors.As(err, &policy) {
		tr.never = policy.Permanent
		if policy.Status != "" {
			tr.status = policy.Status
		}
	}
	return tr
}

// nowhere is a domain whose servers are not known, or that has none.
func (a *attempt) nowhere(err error) {
	tr := &trouble{text: clean(err.Error()), status: "4.4.3", pace: pipeline.PaceWait}
	if definite(err) {
		tr.never, tr.pace, tr.status = true, pipeline.PaceNever, statusOfDNS(err)
	}
	a.note(tr)
}

// result gives everybody who has no answer the most telling trouble, and adds up what is to be said about the next hop.
func (a *attempt) result() pipeline.Sent {
	why := ""
	if t := a.best; t != nil {
		why = t.line()
	}
	for _, i := range a.open {
		a.outcomes[i] = a.unanswered()
	}
	s := pipeline.Sent{Outcomes: a.outcomes, Pace: pipeline.PaceSame}
	switch {
	case a.slow != "":
		s.Pace, s.Why = pipeline.PaceSlow, a.slow
	case a.fine:
		s.Pace = pipeline.PaceFine
	case a.answered || a.best == nil || a.private:
	case a.dropped != "":
		s.Pace, s.Why = pipeline.PaceSlow, a.dropped
	case a.best.never && a.hopes == 0:
		s.Pace, s.Why = pipeline.PaceNever, why
	default:
		s.Pace, s.Why = pipeline.PaceWait, why
	}
	return s
}

// unanswered is the outcome of a recipient about whom nobody said anything: failed if no server can ever do better.
func (a *attempt) unanswered() pipeline.Outcome {
	t := a.best
	if t == nil {
		t = &trouble{text: "there was no time for it", status: "4.4.7"}
	}
	if a.ours != nil {
		t = &trouble{text: "given up here: " + clean(a.ours.Error()), status: "4.3.0"}
	}
	o := pipeline.Outcome{
		Kind: pipeline.Delayed, Text: t.line(), Start: a.start, Remote: t.remote, Reply: t.reply.String(), Status: t.status, TLS: t.tls,
	}
	if t.never && a.hopes == 0 {
		o.Kind = pipeline.Failed
	}
	o.Status = ofKind(o.Status, o.Kind)
	return o
}
