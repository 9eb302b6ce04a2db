package sdk

import (
	"fmt"
	"time"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of event. Events are told at most once, and dropped when a plugin is
// behind; EventLearnSpam and EventLearnHam carry the message's content and are told
// at least once, as long as they are not older than a week.
const (
	EventDelivered   EventKind = iota + 1 // in a mailbox, or with the next hop
	EventBounced                          // given up; a DSN was due
	EventDeferred                         // a delivery attempt failed and will be repeated
	EventQuarantined                      // kept from the recipient
	EventReleased                         // an administrator let it out of quarantine
	EventDiscarded                        // dropped, with a trace
	EventRefused                          // the peer was told no after the content
	EventLearnSpam                        // the owner of a mailbox moved it into Junk
	EventLearnHam                         // the owner of a mailbox moved it out of Junk
	EventCommand                          // an administrator's `sluice plugin tell NAME WORD...`
)

var eventNames = [...]string{
	EventDelivered: "delivered", EventBounced: "bounced", EventDeferred: "deferred", EventQuarantined: "quarantined",
	EventReleased: "released", EventDiscarded: "discarded", EventRefused: "refused",
	EventLearnSpam: "learn-spam", EventLearnHam: "learn-ham", EventCommand: "command",
}

// String returns the word used in logs and metrics.
func (k EventKind) String() string {
	if k > 0 && int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is what happened to a message, or what an administrator wants of a plugin.
type Event struct {
	Kind      EventKind
	At        time.Time
	Recipient string   // of whom it is told, or ""
	Account   string   // address of the local account whose mailbox is meant, or ""
	Text      string   // the remote's reply, or why
	Words     []string // of EventCommand; the plugin answers with Verdict.Reasons, whose Text lines are printed
}
