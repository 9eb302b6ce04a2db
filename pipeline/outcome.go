package pipeline

import (
	"context"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Attempt is one try to take a message one hop further for one recipient.
type Attempt struct {
	ID        storage.ID // queue ID
	Sender    string
	Recipient string // as given at RCPT
	Hop       Hop
	Content   storage.ContentInfo
	Received  time.Time
	Number    int    // 1 is the first
	Use       string // the queue's use of the content if this is the entry's last recipient, else ""

	// Settle adds to the batch of an atomic move what the queue has to write when the
	// attempt ends with this outcome.
	Settle func(b *kv.Batch, o Outcome)
}

// OutcomeKind is how an attempt ended.
type OutcomeKind uint8

// The kinds of outcome.
const (
	Delivered OutcomeKind = iota + 1 // the next hop has it
	Delayed                          // not now; try again later
	Failed                           // never; tell the sender
	Gone                             // the account went away after the 250: postmaster's quarantine (RULES A7)
)

// String returns the word used in traces.
func (k OutcomeKind) String() string {
	switch k {
	case Delivered:
		return "delivered"
	case Delayed:
		return "delayed"
	case Failed:
		return "failed"
	case Gone:
		return "gone"
	}
	return "unknown"
}

// Outcome is the result of an attempt: neither an opinion nor a failure of ours.
type Outcome struct {
	Kind  OutcomeKind
	Text  string // the remote's reply, or the place: "INBOX, UID 5"
	Start time.Time

	// For HopRemote, for DSNs (RFC 3464 section 2.3) and the trace. All is clean: printable, one line, bounded.
	Remote  string // name of the server that answered, or ""
	Reply   string // what it answered, "550 5.1.1 No such user", or "" where nobody did
	Status  string // enhanced status code (RFC 3463), also where no server answered
	TLS     string // "TLS 1.3, TLS_AES_128_GCM_SHA256, dane", or "" without
	Relayed bool   // delivered, to a server that does not send success reports (RFC 3461 section 6.2.7.4)

	// Again says of one that is delayed that it was not tried: the server takes it in another transaction, at once, when what it
	// has taken in this one is durable (RULES B8). It is no attempt. Others of the same parcel are not Again.
	Again bool
}

// Deliverer takes messages over one kind of hop. Deliver is called from the
// queue's workers. If it settles the attempt itself (an atomic move), settled is
// true and the outcome is in the store already; otherwise the queue settles it.
// An error is a failure of ours: the attempt counts as Delayed.
type Deliverer interface {
	Deliver(ctx context.Context, a *Attempt) (o Outcome, settled bool, err error)
}
