package pipeline

import (
	"net/netip"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// Peer is what is known about the other side of a connection. It is fixed once
// a transaction has begun.
type Peer struct {
	Listener string     // name of the listener in TOML
	Session  string     // session ID, for logs
	Addr     netip.Addr // client address after PROXY (RULES D3)
	Port     uint16     // and its port, or 0
	Name     string     // verified reverse name (RFC 8601 section 3 "iprev"), or ""
	Reverse  string     // how iprev ended: pass, fail, temperror or permerror; "": not looked up
	Helo     string     // argument of HELO, EHLO or LHLO
	ESMTP    bool       // EHLO or LHLO rather than HELO
	LMTP     bool       //
	TLS      string     // "TLS 1.3", or "" without TLS
	Cipher   string     // name of the cipher suite, or ""
	Login    string     // address of the account that logged in, or ""
}

// SenderParams are the parameters of MAIL FROM that stay with the envelope.
type SenderParams struct {
	Size     int64  // RFC 1870; 0 if not said
	Body     string // "7BIT", "8BITMIME" or "" (RFC 6152)
	SMTPUTF8 bool   // RFC 6531
	Ret      string // "FULL", "HDRS" or "" (RFC 3461 section 4.3)
	EnvID    string // decoded (RFC 3461 section 4.4)
	TLS      bool   // REQUIRETLS (RFC 8689)
}

// RecipientParams are the parameters of RCPT TO that stay with the envelope.
type RecipientParams struct {
	Notify []string // "NEVER", or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 section 4.1)
	ORcpt  string   // "rfc822;user@example.test" as sent (RFC 3461 section 4.2), or ""
}

// Message is one message on its way through the stages. Until Commit it belongs
// to one goroutine; the octets that arrived never change (RULES A4).
type Message struct {
	ID         storage.ID
	Origin     sdk.Origin
	Pipeline   string // name of the pipeline in TOML
	Peer       *Peer
	Received   time.Time // when the transaction began
	Sender     string    // MAIL FROM without angle brackets; "" is the null sender
	Params     SenderParams
	Recipients []*Recipient
	Content    *blob.Draft // header and body as they arrived, CRLF-canonical

	Session *Session // what plugins said about the connection; nil: nothing
	Trace   *trace.Trace
	Auth    *Auth   // what authenticate found; nil before
	Score   float64 // spam points of all phases so far that every recipient shares
	Tags    map[string]string

	said       said      // in the phases sender and recipient
	met        bool      // what was said about the session is in Score and Tags
	arrived    *Version  // the octets as they arrived
	via        *Pipeline // with which it began
	askUntil   time.Time // plugins before route have to answer by then, so that time is left for what follows
	routeUntil time.Time // and those of route by then
	parses     parses

	pending    []envelopeChange // what the plugins of this stage ask for
	bodies     []*blob.Draft    // that plugins gave
	bodyStage  string           // where the body was replaced last
	bodyPlugin string           // and by whom
}

// Recipient is one RCPT TO, or one that a plugin added, and what was decided about it.
type Recipient struct {
	Address  string // without angle brackets
	Params   RecipientParams
	Accounts []string // addresses of the local accounts it leads to, for plugins
	Added    string   // the plugin that added it; "": it was one RCPT TO. Those stand behind the others
	Removed  string   // the plugin that removed it, or "": it gets nothing, whatever was thought about it

	Behalf    []*Recipient // of an added one: on whose behalf, see Instead
	removedIn string       // the stage in which it was removed

	Score   float64  // on top of Message.Score
	Opinion Opinion  // the strongest so far
	Version *Version // the message as this recipient shall get it
	Hops    []Hop    // filled in by route
	Leaves  bool     // set when hops are final: a copy goes to another server, now or when it is released from quarantine
}

// Opinion is what was decided about one recipient, by whom, and why.
type Opinion struct {
	Action sdk.Action
	Reply  Reply  // what the peer is told on Defer and Reject
	Stage  string // who decided
	Plugin string // "" when the stage decided by itself
	Why    string // for the trace and the log
}

// Take lets o replace the recipient's opinion if it is stronger: reject > defer
// > discard > quarantine > junk > accept (RULES A2). Of equals the first stays.
func (r *Recipient) Take(o Opinion) {
	if o.Action > r.Opinion.Action {
		o.Why = clip(o.Why)
		r.Opinion = o
	}
}

// maxWhy bounds why something was decided, in octets: it stands in the log and with each recipient in the queue, whose
// batch is bounded (RULES B2), and a plugin may have hundreds of reasons.
const maxWhy = 500

func clip(why string) string {
	if len(why) <= maxWhy {
		return why
	}
	return strings.ToValidUTF8(why[:maxWhy-len("...")], "") + "..."
}

// TakeAll is Take for every recipient of the message.
func (m *Message) TakeAll(o Opinion) {
	for _, r := range m.Recipients {
		r.Take(o)
	}
}

// HopKind says where a Hop leads.
type HopKind uint8

// The kinds of hop.
const (
	HopMailbox    HopKind = iota + 1 // a mailbox of a local account
	HopQuarantine                    // kept until an administrator or the owner releases it
	HopDiscard                       // nowhere, with a trace
	HopBounce                        // a DSN to the sender (RULES A3 mixed = "bounce")
	HopRemote                        // another server, by SMTP or LMTP
)

// String returns the word used in traces and in the queue's listing.
func (k HopKind) String() string {
	switch k {
	case HopMailbox:
		return "mailbox"
	case HopQuarantine:
		return "quarantine"
	case HopDiscard:
		return "discard"
	case HopBounce:
		return "bounce"
	case HopRemote:
		return "remote"
	}
	return "unknown"
}

// ViaMX is the Hop.Via of mail that goes where its domain's MX records say, whatever [relay] has.
const ViaMX = "mx"

// Hop is one place to which the queue takes a message for a recipient.
type Hop struct {
	Kind    HopKind
	Account storage.AccountID // for HopMailbox
	Address string            // the account's address, for Delivered-To and the trace; for HopRemote the one in RCPT TO; for HopQuarantine "", or where a HopRemote would have led that it took the place of, with its Via and Sender
	Via     string            // for HopRemote: "smtp://host:port", "lmtp://host:port", "lmtp:///path" or ViaMX where somebody decided so; "" asks the configuration at each attempt
	Sender  string            // for HopRemote: MAIL FROM where it is not the message's own (SRS); "" is the message's
	Junk    bool              // into the mailbox with special use \Junk instead of INBOX
	Why     string            // for HopQuarantine, HopDiscard and HopBounce
}
