package sdk

import "context"

// Phase is a moment at which a plugin can be asked.
type Phase string

// The phases. Connect, Sender and Recipient are asked of the plugins in the
// anti-spam list of the listener's pipeline, each while the peer waits for the
// reply to that command; Content of those in anti-spam and anti-virus; Route of
// those in route.
const (
	PhaseConnect   Phase = "connect"   // a client has connected; no envelope yet
	PhaseSender    Phase = "sender"    // MAIL FROM
	PhaseRecipient Phase = "recipient" // RCPT TO; Recipients holds that one alone
	PhaseContent   Phase = "content"   // after the final dot, before the message is accepted
	PhaseRoute     Phase = "route"     // after anti-virus: where it goes; a Route in the verdict
	PhaseEvent     Phase = "event"     // something has happened; nobody obeys the verdict
)

// Want says how much of a message a plugin is sent in the phases content, route
// and event.
type Want string

// The amounts.
const (
	WantNone   Want = "none"   // the envelope only
	WantHeader Want = "header" // up to and including the empty line
	WantAll    Want = "all"    // everything
)

// Manifest is what a plugin says about itself when asked to Describe.
type Manifest struct {
	Name       string       // [a-z0-9-]+
	Version    string       // free text, shown in traces
	Phases     []Phase      // when it is asked; PhaseEvent is implied by Events
	Events     []EventKind  // what it is told
	Want       Want         // how much of the message it is sent; "" is WantNone
	MaxContent int64        // it is sent at most so many octets of a message; 0: no limit of its own
	Parsed     bool         // it is also sent the shared parse, see Message.Parsed
	Changes    []ChangeKind // which changes it may ask for; others are refused by the core
	MaxLanes   int          // questions it can work on at once; 0 is no limit of its own
	Overlap    bool         // a second instance may run beside the first during replacement
	CheckOnly  bool         // Configure obeys Settings.CheckOnly: sluice check can let it look at its settings
}

// Plugin is what an author implements. Describe is called first, then Configure
// once, then Ask from many goroutines at a time, at most Manifest.MaxLanes and one
// for events.
//
// Ask returns an opinion, or an error if it could not form one; the
// administrator's on_failure decides what an error means. ctx ends when nobody
// waits for the answer any more. Ask may return before it has read all of
// m.Content, and must not keep m.
//
// A Plugin that is an io.Closer too and was configured is closed before the process ends in order:
// no Ask runs any more, and it has two seconds.
type Plugin interface {
	Describe() Manifest
	Configure(ctx context.Context, s Settings) error
	Ask(ctx context.Context, m *Message) (Verdict, error)
}
