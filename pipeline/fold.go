package pipeline

import (
	"slices"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// Mixed says what happens to recipients that are refused when others are not.
type Mixed string

// The values of [pipeline.X] mixed (RULES A3 c).
const (
	MixedQuarantine Mixed = "quarantine" // default for strangers and lmtp
	MixedReject     Mixed = "reject"     // 5xx for all
	MixedBounce     Mixed = "bounce"     // a DSN; default for login and trusted, an error for strangers
)

// mixedFor returns the policy in force for a message of this origin.
func mixedFor(configured Mixed, origin sdk.Origin) Mixed {
	ours := origin == sdk.Login || origin == sdk.Trusted
	switch {
	case configured == MixedBounce && !ours:
		return MixedQuarantine
	case configured != "":
		return configured
	case ours:
		return MixedBounce
	}
	return MixedQuarantine
}

// Decision is what the opinions about all recipients add up to.
type Decision struct {
	Reply    Reply   // SMTP's one reply; the zero Reply means: commit, then 250
	Each     []Reply // LMTP: a reply for each recipient; the zero Reply means: commit
	Deferred []int   // recipients whose deferral shall be remembered
}

// Commits reports whether anybody gets the message.
func (d *Decision) Commits() bool {
	if d.Each == nil {
		return d.Reply.Code == 0
	}
	for _, r := range d.Each {
		if r.Code == 0 {
			return true
		}
	}
	return false
}

// fold turns the recipients' opinions into the reply or replies (RULES A3). Those whom a
// plugin removed have no part in it. Those whom one added have a part only where they came
// in place of all that the peer named, or where one of them has to wait: then all wait,
// for the peer can't try again for somebody of whom it does not know.
func fold(m *Message, mixed Mixed) Decision {
	who := m.deciding()
	rejected, first, later := 0, Reply{}, Reply{}
	for _, r := range who {
		if r.Opinion.Action == sdk.Reject {
			if rejected == 0 {
				first = orElse(r.Opinion.Reply, ReplyRefused)
			}
			rejected++
		}
	}
	for _, r := range m.Recipients {
		if r.Added != "" && r.Removed == "" && r.Opinion.Action == sdk.Defer && later.Code == 0 {
			later = orElse(r.Opinion.Reply, ReplyTryLater)
			later.Code = 451
		}
	}
	all := rejected > 0 && rejected == len(who)
	if m.Origin == sdk.LMTP {
		return foldEach(m, all, first, later)
	}
	var d Decision
	for i, r := range m.Recipients[:m.asked()] {
		if r.Removed == "" && r.Opinion.Action == sdk.Defer {
			if len(d.Deferred) == 0 {
				d.Reply = orElse(r.Opinion.Reply, ReplyTryLater)
				d.Reply.Code = 451
			}
			d.Deferred = append(d.Deferred, i)
		}
	}
	switch {
	case all:
		d.Reply, d.Deferred = first, nil // (a)
	case len(d.Deferred) > 0: // (b)
		if len(d.Deferred)+rejected == len(who) || later.Code != 0 {
			d.Deferred = nil // nobody would go through on the next attempt either
		}
	case later.Code != 0:
		d.Reply = later
	case rejected > 0 && mixed == MixedReject: // (c)
		d.Reply = first
	}
	return d
}

// foldEach gives each recipient of LMTP a reply of its own. all says that nobody will
// have the message, later that somebody who has no reply has to wait.
func foldEach(m *Message, all bool, first, later Reply) Decision {
	d := Decision{Each: make([]Reply, m.asked())}
	for i := range d.Each {
		r := m.Recipients[i]
		switch {
		case r.Removed != "" && all && len(d.Each) < len(m.Recipients) && m.deciding()[0].Added != "":
			d.Each[i] = first
		case r.Removed != "":
		case r.Opinion.Action == sdk.Reject:
			d.Each[i] = orElse(r.Opinion.Reply, ReplyRefused)
		case r.Opinion.Action == sdk.Defer:
			d.Each[i] = orElse(r.Opinion.Reply, ReplyTryLater)
		}
		if d.Each[i].Code == 0 {
			d.Each[i] = later
		}
	}
	return d
}

func orElse(r, otherwise Reply) Reply {
	if r.Code == 0 {
		return otherwise
	}
	return r
}

// land turns each recipient's opinion into hops: what the queue shall do. Of
// several copies for one mailbox one is kept, INBOX over Junk (RULES A7), and of
// several to one address at another server the first.
func land(m *Message, mixed Mixed) {
	for _, r := range m.Recipients {
		r.leave()
		remote := r.remote()
		o := r.Opinion
		switch o.Action {
		case sdk.Quarantine:
			r.Hops = []Hop{{Kind: HopQuarantine, Why: o.Why}}
		case sdk.Discard:
			r.Hops = []Hop{{Kind: HopDiscard, Why: o.Why}}
		case sdk.Junk:
			for i := range r.Hops {
				r.Hops[i].junk(m.Origin, o.Why)
			}
		case sdk.Reject:
			r.Hops = nil
			if m.Origin == sdk.LMTP {
				continue // its own 5xx
			}
			kind := HopQuarantine
			if mixed == MixedBounce {
				kind = HopBounce
			}
			r.Hops = []Hop{{Kind: kind, Why: o.Reply.String()}}
		case sdk.Defer:
			r.Hops = nil // LMTP only: its own 4xx
		}
		r.Leaves = remote && r.has(HopRemote, HopQuarantine)
	}
	oneCopyEach(m)
}

// remote reports whether mail of a recipient leaves, be it from quarantine.
func (r *Recipient) remote() bool {
	for i := range r.Hops {
		if h := &r.Hops[i]; h.Kind == HopRemote || h.Kind == HopQuarantine && h.Address != "" {
			return true
		}
	}
	return false
}

func (r *Recipient) has(kinds ...HopKind) bool {
	for i := range r.Hops {
		if slices.Contains(kinds, r.Hops[i].Kind) {
			return true
		}
	}
	return false
}

// junk makes a hop one for junk. Into a mailbox it goes as such; to another server it does not go at all unless we know who
// sent it, because that server would hold us to account for it: it waits in quarantine, which knows where it was going (RULES A7).
func (h *Hop) junk(origin sdk.Origin, why string) {
	switch {
	case h.Kind == HopMailbox:
		h.Junk = true
	case h.Kind == HopRemote && !known(origin):
		h.Kind = HopQuarantine
		h.Why = clip("junk does not leave for " + h.Address + ": " + why)
	}
}

// known reports whether the sender of a message is one of ours, or ourselves.
func known(origin sdk.Origin) bool {
	return origin == sdk.Login || origin == sdk.Trusted || origin == sdk.Generated
}

// leave makes nothing of what was thought about a recipient whom a plugin removed, and of
// the copy for one whom a plugin added and another refused: nobody waits for a reply or a
// bounce about it.
func (r *Recipient) leave() {
	switch {
	case r.Removed != "":
		r.Opinion = Opinion{Action: sdk.Discard, Stage: r.Opinion.Stage, Plugin: r.Removed, Why: "removed by plugin " + r.Removed}
	case r.Added != "" && r.Opinion.Action == sdk.Reject:
		r.Opinion.Action, r.Opinion.Why = sdk.Discard, "added by plugin "+r.Added+", and refused: "+r.Opinion.Reply.String()
	}
}

func oneCopyEach(m *Message) {
	if len(m.Recipients) == 1 && len(m.Recipients[0].Hops) <= 1 {
		return
	}
	type place struct{ recipient, hop int }
	have := make(map[storage.AccountID]place)
	var left map[string]bool
	for i, r := range m.Recipients {
		kept := r.Hops[:0:0]
		for _, h := range r.Hops {
			if h.Kind == HopRemote {
				to := h.Via + " " + strings.ToLower(h.Address)
				if left[to] {
					continue
				}
				if left == nil {
					left = make(map[string]bool)
				}
				left[to] = true
			}
			if h.Kind != HopMailbox {
				kept = append(kept, h)
				continue
			}
			at, ok := have[h.Account]
			if !ok {
				have[h.Account] = place{i, len(kept)}
				kept = append(kept, h)
				continue
			}
			if at.recipient == i {
				kept[at.hop].Junk = kept[at.hop].Junk && h.Junk
			} else {
				other := &m.Recipients[at.recipient].Hops[at.hop]
				other.Junk = other.Junk && h.Junk
			}
		}
		r.Hops = kept
	}
}
