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
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Limits on what one message's trace keeps; what is over is cut and counted.
const (
	MaxEvents  = 500
	MaxReasons = 100 // in one event
	MaxText    = 500 // octets of one text
)

// Trace is the story of one message. Head is fixed; events are added from any
// goroutine.
type Trace struct {
	Head Head

	mu      sync.Mutex
	events  []Event
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
	Took       time.Duration `json:"took_ns"`
	Text       string        `json:"text,omitempty"` // a reply, a failure, a place
}

// Add appends an event; its texts are cut to their limits.
func (t *Trace) Add(e Event) {
	e.Text = cut(e.Text)
	if len(e.Reasons) > MaxReasons {
		e.Reasons = e.Reasons[:MaxReasons]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) >= MaxEvents {
		t.dropped++
		return
	}
	t.events = append(t.events, e)
}

// Events returns a copy of the events so far, in the order in which they were added.
func (t *Trace) Events() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Event(nil), t.events...)
}

func cut(s string) string {
	if len(s) > MaxText {
		return s[:MaxText]
	}
	return s
}
