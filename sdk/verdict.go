package sdk

import (
	"fmt"
	"io"
)

// Action is what a plugin, a threshold or a failure policy wants to happen to
// a message for one recipient. Actions are ordered by strength: where several
// plugins of one stage disagree about a recipient the greatest Action wins.
// The zero Action is Accept: "no objection".
type Action uint8

// The actions, weakest first.
const (
	Accept     Action = iota // no objection
	Junk                     // deliver into the mailbox with special use \Junk; mailbox hops only
	Quarantine               // take responsibility, but keep it from the recipient until released
	Discard                  // take responsibility and drop it, with a trace
	Defer                    // 451: the peer shall try again
	Reject                   // 550: the peer is told no
)

var actionNames = [...]string{"accept", "junk", "quarantine", "discard", "defer", "reject"}

// String returns the word used in TOML, JSON, traces and logs.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// ParseAction reads the word that String writes.
func ParseAction(word string) (Action, error) {
	for i, name := range actionNames {
		if name == word {
			return Action(i), nil
		}
	}
	return Accept, fmt.Errorf("unknown action %q, expected accept, junk, quarantine, discard, defer or reject", word)
}

// MarshalText and UnmarshalText let an Action stand in TOML and JSON as its word.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (a *Action) UnmarshalText(text []byte) error {
	parsed, err := ParseAction(string(text))
	*a = parsed
	return err
}

// Reason is one cause of a verdict, in the words of the plugin.
type Reason struct {
	Symbol string  `json:"symbol"`          // short and stable: "GTUBE", "RBL_SPAMHAUS"
	Score  float64 `json:"score,omitempty"` // its part of Verdict.Score; may be negative
	Text   string  `json:"text,omitempty"`  // one sentence for a person
}

// Reply is what the peer is told on Defer and Reject (RFC 5321 section 4.2, RFC 3463).
// The core replaces what is not a well-formed reply of the right class by its own,
// which it also has for a verdict without a reply: how an opinion is worded does
// not change the opinion.
type Reply struct {
	Code     int    `json:"code"`     // 4xx for Defer, 5xx for Reject
	Enhanced string `json:"enhanced"` // "5.7.1"
	Text     string `json:"text"`     // one line of printable ASCII, at most 400 octets
}

// ChangeKind says what a Change does.
type ChangeKind uint8

// The kinds of change.
const (
	AddField        ChangeKind = iota + 1 // put a field in front of the header
	ReplaceField                          // give the Index-th field of that name a new value
	RemoveField                           // delete the Index-th field of that name
	ReplaceBody                           // everything after the header's empty line; one a stage, in content only
	AddRecipient                          // Address gets the message too
	RemoveRecipient                       // Address, one of the envelope, does not; the trace says so
	ChangeSender                          // Address becomes MAIL FROM, "" the null sender; not for one recipient alone
)

var changeNames = [...]string{
	AddField: "add field", ReplaceField: "replace field", RemoveField: "remove field", ReplaceBody: "replace body",
	AddRecipient: "add recipient", RemoveRecipient: "remove recipient", ChangeSender: "change sender",
}

// String returns the word used in traces.
func (k ChangeKind) String() string {
	if k > 0 && int(k) < len(changeNames) {
		return changeNames[k]
	}
	return fmt.Sprintf("change(%d)", uint8(k))
}

// Change is one change that a plugin asks for. The core applies the changes of
// a stage in order after all of its plugins have answered, and attributes each
// in the trace.
type Change struct {
	Kind    ChangeKind `json:"kind"`
	Name    string     `json:"name,omitempty"`    // field name (RFC 5322 section 2.2)
	Value   string     `json:"value,omitempty"`   // unfolded; CR, LF and NUL are refused
	Index   int        `json:"index,omitempty"`   // 1 is the first field of that name from the top, -1 the last; 0 with RemoveField: all
	Address string     `json:"address,omitempty"` // of recipients and senders, without angle brackets

	// Body is the new body of ReplaceBody: lines ended by CRLF or LF, no bare CR. It is
	// read to its end after Ask returned, and closed if it is an io.Closer. A verdict has at
	// most one; changes for several recipients may name the same reader.
	Body io.Reader `json:"-"`
}

// Verdict is a plugin's opinion. The zero Verdict is "no objection".
type Verdict struct {
	Action     Action             `json:"action"`
	Score      float64            `json:"score,omitempty"` // spam points; NaN and infinities are a plugin failure
	Reasons    []Reason           `json:"reasons,omitempty"`
	Detections []string           `json:"detections,omitempty"` // names of what was found; in anti-virus, on_infected then decides
	Reply      *Reply             `json:"reply,omitempty"`
	Changes    []Change           `json:"changes,omitempty"`
	Tags       map[string]string  `json:"tags,omitempty"`       // for later stages and plugins
	Recipients []RecipientVerdict `json:"recipients,omitempty"` // where it differs from the above
	Route      *Route             `json:"route,omitempty"`      // in PhaseRoute: where it goes instead, for every recipient
	Alerts     []Alert            `json:"alerts,omitempty"`     // for the administrator
}

// Route says where a recipient's mail goes, in place of what the configuration says. It
// counts in PhaseRoute only. Of several plugins the first in the configuration's order
// decides.
type Route struct {
	To  []string `json:"to,omitempty"`  // addresses, resolved like an alias's targets; at most 100
	Via string   `json:"via,omitempty"` // the server that gets it, as To or for the recipient itself: "smtp://host:port", "lmtp://host:port" or "lmtp:///path"; nothing is resolved then
}

// Alert is something that the administrator should hear of soon. The server logs it,
// counts it, and writes to postmaster at most once a day for each Key.
type Alert struct {
	Key  string `json:"key"`  // what it is about: "account alice@example.test"
	Text string `json:"text"` // one sentence for a person
}

// RecipientVerdict replaces Action and Reply, and adds Score, Reasons and
// Detections, for one recipient.
type RecipientVerdict struct {
	Recipient  string   `json:"recipient"` // exactly as in Envelope.Recipients
	Action     Action   `json:"action"`
	Score      float64  `json:"score,omitempty"`
	Reasons    []Reason `json:"reasons,omitempty"`
	Detections []string `json:"detections,omitempty"`
	Reply      *Reply   `json:"reply,omitempty"`
	Changes    []Change `json:"changes,omitempty"` // after Verdict.Changes, for this recipient alone
	Route      *Route   `json:"route,omitempty"`   // in place of Verdict.Route
}
