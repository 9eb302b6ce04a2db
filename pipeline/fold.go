package pipeline

import (
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
	known := origin == sdk.Login || origin == sdk.Trusted
	switch {
	case configured == MixedBounce && !known:
		return MixedQuarantine
	case configured != "":
		return configured
	case known:
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

// fold turns the recipients' opinions into the reply or replies (RULES A3).
func fold(m *Message, mixed Mixed) Decision {
	if m.Origin == sdk.LMTP {
		return foldEach(m)
	}
	var d Decision
	rejected, first := 0, Reply{}
	for i, r := range m.Recipients {
		switch r.Opinion.Action {
		case sdk.Reject:
			if rejected == 0 {
				first = orElse(r.Opinion.Reply, ReplyRefused)
			}
			rejected++
		case sdk.Defer:
			if len(d.Deferred) == 0 {
				d.Reply = orElse(r.Opinion.Reply, ReplyTryLater)
				d.Reply.Code = 451
			}
			d.Deferred = append(d.Deferred, i)
		}
	}
	switch {
	case rejected == len(m.Recipients):
		d.Reply = first // (a)
	case len(d.Deferred) > 0: // (b)
		if len(d.Deferred)+rejected == len(m.Recipients) {
			d.Deferred = nil // nobody would go through on the next attempt either
		}
	case rejected > 0 && mixed == MixedReject: // (c)
		d.Reply = first
	}
	return d
}

func foldEach(m *Message) Decision {
	d := Decision{Each: make([]Reply, len(m.Recipients))}
	for i, r := range m.Recipients {
		switch r.Opinion.Action {
		case sdk.Reject:
			d.Each[i] = orElse(r.Opinion.Reply, ReplyRefused)
		case sdk.Defer:
			d.Each[i] = orElse(r.Opinion.Reply, ReplyTryLater)
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
// several copies for one mailbox one is kept, INBOX over Junk (RULES A7).
func land(m *Message, mixed Mixed) {
	for _, r := range m.Recipients {
		o := r.Opinion
		switch o.Action {
		case sdk.Quarantine:
			r.Hops = []Hop{{Kind: HopQuarantine, Why: o.Why}}
		case sdk.Discard:
			r.Hops = []Hop{{Kind: HopDiscard, Why: o.Why}}
		case sdk.Junk:
			for i := range r.Hops {
				r.Hops[i].Junk = r.Hops[i].Kind == HopMailbox
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
	}
	oneCopyEach(m)
}

func oneCopyEach(m *Message) {
	if len(m.Recipients) == 1 && len(m.Recipients[0].Hops) <= 1 {
		return
	}
	type place struct{ recipient, hop int }
	have := make(map[storage.AccountID]place)
	for i, r := range m.Recipients {
		kept := r.Hops[:0:0]
		for _, h := range r.Hops {
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
