// Package trace is what happened to a message, told so that a person can follow
// it: one Trace a message, one Event for each question that was asked and for
// each attempt that was made. It is always on.
//
// The pipeline writes events while a message is received and hands the Trace to
// the queue, which keeps it in the same batch as the message; later events
// (delivery attempts, releases) are added to the stored trace. `sluice trace`
// reads it. A trace holds envelope addresses, verdicts and replies; it never
// holds secrets or content.
package trace

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Limits on what one message's trace keeps; what is over is cut and counted.
const (
	MaxEvents  = 500
	MaxReasons = 100 // in one event
	MaxText    = 500 // octets of one text

	// Octets, about. What is over maxDetail is told without its reasons, detections and changes, so that a plugin with
	// much to say leaves room for what the others decided.
	maxDetail = 64 << 10          // of one plugin in one message, and of one event
	maxOctets = 512 << 10         // of all events together; the ends come on top
	maxFull   = 3 * maxOctets / 4 // of those with all that they say
	forAll    = 100               // events about all recipients, on top of MaxEvents
)

// Trace is the story of one message. Head is fixed; events are added from any
// goroutine.
type Trace struct {
	Head Head

	mu      sync.Mutex
	events  []Event
	octets  int
	detail  map[string]int // octets by plugin
	dropped int
}

// Head says which message the trace is about.
type Head struct {
	ID         string    `json:"id"`
	Received   time.Time `json:"received"`
	Origin     string    `json:"origin"`
	Pipeline   string    `json:"pipeline"`
	Listener   string    `json:"listener,omitempty"`
	Client     string    `json:"client,omitempty"`      // IP address
	ClientName string    `json:"client_name,omitempty"` // verified reverse name
	Helo       string    `json:"helo,omitempty"`
	TLS        string    `json:"tls,omitempty"`
	Login      string    `json:"login,omitempty"`
	Sender     string    `json:"sender"`
	Recipients []string  `json:"recipients"`
	MessageID  string    `json:"message_id,omitempty"` // the field's value, angle brackets included
	Size       int64     `json:"size"`                 // octets as they arrived
}

// Event is one thing that happened.
type Event struct {
	At         time.Time     `json:"at"`
	Stage      string        `json:"stage"`
	Plugin     string        `json:"plugin,omitempty"`
	Version    string        `json:"version,omitempty"`
	Recipient  string        `json:"recipient,omitempty"` // "" is all of them
	Action     string        `json:"action"`              // accept, reject, ..., delivered, failed, skipped
	Score      float64       `json:"score,omitempty"`
	Reasons    []sdk.Reason  `json:"reasons,omitempty"`
	Detections []string      `json:"detections,omitempty"`
	Changes    []string      `json:"changes,omitempty"`
	Took       time.Duration `json:"took_ns"`        // in the stage receive, and of "queued": since MAIL FROM
	Text       string        `json:"text,omitempty"` // a reply, a failure, a place
}

// Add appends an event, if there is room; its texts are cut to their limits.
func (t *Trace) Add(e Event) { t.add(e, false) }

// End appends the end of a recipient or of the whole message. There is always
// room for it: where everybody ended is what a trace is for.
func (t *Trace) End(e Event) { t.add(e, true) }

func (t *Trace) add(e Event, always bool) {
	octets := e.Trim()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !always {
		if t.detail[e.Plugin]+octets > maxDetail || t.octets+octets > maxFull {
			octets = e.Bare()
		}
		most := MaxEvents
		if e.Recipient == "" {
			most += forAll
		}
		if len(t.events) >= most || t.octets+octets > maxOctets {
			t.dropped++
			return
		}
		if e.Plugin != "" {
			if t.detail == nil {
				t.detail = make(map[string]int, 4)
			}
			t.detail[e.Plugin] += octets
		}
	}
	t.octets += octets
	t.events = append(t.events, e)
}

// Trim cuts what is too long and returns about how many octets are left. What the event
// shares with others is not changed.
func (e *Event) Trim() (octets int) {
	octets = e.bare()
	list := e.Reasons[:min(len(e.Reasons), MaxReasons)]
	e.Reasons = make([]sdk.Reason, 0, len(list))
	for _, r := range list {
		r.Symbol, r.Text = cut(r.Symbol), cut(r.Text)
		if octets += 10 + len(r.Symbol) + len(r.Text); octets > maxDetail/2 {
			break
		}
		e.Reasons = append(e.Reasons, r)
	}
	if len(e.Reasons) == 0 {
		e.Reasons = nil
	}
	fits := func(list []string) []string {
		for i, s := range list {
			if octets += len(s); i >= MaxReasons || octets > maxDetail {
				return list[:i:i]
			}
		}
		return list
	}
	e.Detections = fits(e.Detections)
	e.Changes = fits(e.Changes)
	return min(octets, maxDetail)
}

// Bare leaves who did what, and the text, and returns about how many octets that is.
func (e *Event) Bare() (octets int) {
	e.Reasons, e.Detections, e.Changes = nil, nil, nil
	return e.bare()
}

func (e *Event) bare() (octets int) {
	e.Text = cut(e.Text)
	return 100 + len(e.Text) + len(e.Recipient) + len(e.Plugin) + len(e.Version)
}

// Events returns a copy of the events so far, in the order in which they were
// added; the last one says how many were left out.
func (t *Trace) Events() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := append([]Event(nil), t.events...)
	if t.dropped > 0 {
		last := list[len(list)-1]
		list = append(list, Event{At: last.At, Stage: last.Stage, Action: "cut", Text: fmt.Sprintf("%d more events were left out", t.dropped)})
	}
	return list
}

func cut(s string) string {
	if len(s) > MaxText {
		return strings.ToValidUTF8(s[:MaxText], "")
	}
	return s
}
