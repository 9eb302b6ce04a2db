package pipeline

import (
	"fmt"
	"strings"
)

// Reply is one SMTP reply (RFC 5321 section 4.2) with its enhanced status code
// (RFC 3463). The zero Reply means that nothing has to be said.
type Reply struct {
	Code     int    // 250, 451, 550 ...
	Enhanced string // "5.7.1"
	Text     string // one line of printable ASCII
}

// The plain sentences that a peer hears. A peer never sees inner error text.
var (
	ReplyBusy         = Reply{451, "4.3.2", "The server is busy, please try again later"}
	ReplyTryLater     = Reply{451, "4.3.0", "A temporary problem here, please try again later"}
	ReplyNotNow       = Reply{451, "4.7.1", "Not accepted now, please try again later"}
	ReplyRefused      = Reply{550, "5.7.1", "Refused by the policy of this server"}
	ReplyNoRelay      = Reply{550, "5.7.1", "This server does not relay mail for strangers"}
	ReplyNoLiteral    = Reply{550, "5.1.2", "Mail for an address literal does not leave this server"}
	ReplyNoMailbox    = Reply{550, "5.1.1", "There is no mailbox of this name here"}
	ReplyBadAddress   = Reply{553, "5.1.3", "This is not a valid address"}
	ReplyMailboxFull  = Reply{452, "4.2.2", "The mailbox is full"}
	ReplyAliasLoop    = Reply{550, "5.4.6", "This address leads back to itself"}
	ReplyForwardLoop  = Reply{554, "5.4.6", "The message was forwarded from this address before, it runs in a circle"}
	ReplyDiskFull     = Reply{452, "4.3.1", "Not enough free space here, please try again later"}
	ReplyTooManyParts = Reply{550, "5.6.0", "The message could not be processed"}
)

// OK reports whether the reply is positive (2yz, or nothing to say).
func (r Reply) OK() bool { return r.Code == 0 || r.Code/100 == 2 }

// Temporary reports whether the peer shall try again (4yz).
func (r Reply) Temporary() bool { return r.Code/100 == 4 }

// String returns the reply as it stands in a trace: "550 5.7.1 text".
func (r Reply) String() string {
	if r.Code == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text)
}

// Clean returns r with a text that is safe on the wire: printable ASCII, one
// line, at most 400 octets (RFC 5321 section 4.5.3.1.5 allows 512 in all).
func (r Reply) Clean() Reply {
	const limit = 400
	var b strings.Builder
	for _, c := range r.Text {
		if b.Len() >= limit {
			break
		}
		switch {
		case c >= ' ' && c < 0x7f:
			b.WriteRune(c)
		case c == '\t':
			b.WriteByte(' ')
		default:
			b.WriteByte('?')
		}
	}
	r.Text = b.String()
	return r
}

// accepted is the reply to a message that was committed.
func accepted(id string) Reply { return Reply{250, "2.0.0", "OK " + id} }
