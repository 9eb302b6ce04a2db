package pipeline

import (
	"context"
	"io"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// Transport is how mail for a domain leaves: a fixed next hop of the configuration,
// or, with no Hosts, the domain's MX records.
type Transport struct {
	Name     string   // the table that says so, "relay.*" for one; "" for MX
	LMTP     bool     // LMTP (RFC 2033) in place of SMTP
	Hosts    []string // "name:port" or "unix:/path", tried in order, without an MX look-up
	TLS      string   // "opportunistic", "require", "verify", "none" or "implicit"; "" is opportunistic
	Username string   // to log in with (RFC 4954); "": no login
	Password string
}

// NextHop is where a Courier takes parcels at the moment. Two domains with the same
// servers have the same Key: limits on concurrency and rate hold for it.
type NextHop struct {
	Key string // "mx1.example.net,mx2.example.net" or "127.0.0.1:2600", in lower case; at most 255 octets
}

// Parcel is one message on its way to some recipients over one next hop, in one
// transaction as long as the peer takes them all.
type Parcel struct {
	ID         storage.ID // queue ID
	Pipeline   string
	Received   time.Time
	Domain     string // of all recipients, in A-labels and lower case: the domain of Hop.Address
	Via        string // as in Hop.Via
	Sender     string // MAIL FROM; Hop.Sender where route has rewritten it (SRS)
	Params     SenderParams
	Recipients []ParcelRecipient
	Size       int64 // octets of Content

	// Open returns the message as it leaves, header and body. It may be called several
	// times; what it returns is closed by who called it.
	Open func(ctx context.Context) (Octets, error)
}

// Octets are a message's. Reads may come from any offset.
type Octets interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// ParcelRecipient is one RCPT TO of a Parcel.
type ParcelRecipient struct {
	Address  string // of Hop.Address
	Params   RecipientParams
	Attempts int // this one included
}

// Pace is what an attempt says about its next hop, for the parcels behind it.
type Pace uint8

// The paces.
const (
	PaceSame  Pace = iota // nothing new: a reply about these recipients alone
	PaceFine              // it took a message
	PaceSlow              // it wants less of us: 421, 4.7.x, 4.3.2, too many connections (RFC 5321 section 3.8)
	PaceWait              // it can't be reached, or answers nobody: all that waits for it may wait
	PaceNever             // it takes no mail at all: null MX (RFC 7505), no such domain, 521 as greeting (RFC 7504)
)

// String returns the word used in metrics.
func (p Pace) String() string {
	switch p {
	case PaceFine:
		return "fine"
	case PaceSlow:
		return "slow"
	case PaceWait:
		return "wait"
	case PaceNever:
		return "never"
	}
	return "same"
}

// Sent is how an attempt for a parcel ended.
type Sent struct {
	Outcomes []Outcome // one for each recipient, in order
	Pace     Pace
	Why      string // of Pace, for listings
}

// Courier takes parcels to other servers. Its methods are called from any goroutine;
// when ctx ends they return soon.
type Courier interface {
	// NextHop says where mail of a domain goes now. An error is temporary: nobody could
	// tell. A domain that takes no mail has a next hop too; Send says so.
	NextHop(ctx context.Context, domain, via string) (NextHop, error)

	// Send makes one attempt. done is never nil and has to be called once the outcomes are durable:
	// the connection serves no other transaction before (RULES B8). An attempt that
	// failed for reasons of our own (content unreadable) returns an error instead, and
	// counts as delayed for all.
	Send(ctx context.Context, hop NextHop, p *Parcel) (s Sent, done func(), err error)
}

// Sealer signs what leaves: ARC seals and DKIM signatures, after the last change (RULES A6). It is asked about what waits in
// quarantine too (Recipient.Leaves): when that is released nothing about it can be changed any more.
// An error defers the message: nothing was changed then.
type Sealer interface {
	Seal(ctx context.Context, m *Message) error
}
