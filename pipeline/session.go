package pipeline

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Session is one connection as the plugins see it in the phase connect, and what
// they said about it: that stays with it as long as it lasts, over STARTTLS, RSET and
// every message, and is part of each message's score, tags, opinion and trace.
//
// It is made by who accepts the connection, only where a plugin is asked in connect,
// and belongs to the connection's goroutine.
type Session struct {
	Peer   Peer       // as known before the greeting: no name that it gives itself, no login
	Origin sdk.Origin // of the messages that will come; sdk.Login on a submission listener
	Opened time.Time

	server, pipeline string // of the Pipeline that was asked
	said             said
}

func (s *Session) envelope() sdk.Envelope {
	e := sdk.Envelope{Origin: s.Origin, Received: s.Opened, Server: s.server, Pipeline: s.pipeline}
	s.Peer.fill(&e)
	return e
}

// Blame returns which plugin refused the session, and why.
func (s *Session) Blame() (plugin, why string) { return s.said.blame() }

// Bounds on the events of the phases before content, in each of session and
// transaction: a client may try many recipients, and a plugin have many reasons.
const (
	maxNotes      = 100
	maxNoteOctets = 64 << 10 // about; of more only the action and its text are kept
)

// said is what plugins said before the content, about a session or a transaction.
// Its owner is one goroutine; shadow plugins note from others.
type said struct {
	opinion Opinion           // junk, quarantine or discard that sticks
	refusal Opinion           // of the command that was refused last
	score   float64           // of a session; a message has it in Message.Score
	tags    map[string]string // of a session; a message has them in Message.Tags
	missed  []missed

	mu      sync.Mutex
	events  []trace.Event
	octets  int // of events, about
	dropped int
	taken   bool // a transaction's: the trace has begun
}

// missed is a plugin that failed while the mail went on.
type missed struct {
	plugin string
	phase  sdk.Phase
	kind   FailureKind
}

func (s *said) blame() (plugin, why string) { return s.refusal.Plugin, s.refusal.Why }

// miss remembers a failure for X-Sluice-Unscanned, once.
func (s *said) miss(plugin string, phase sdk.Phase, kind FailureKind) {
	one := missed{plugin, phase, kind}
	for _, have := range s.missed {
		if have == one {
			return
		}
	}
	if len(s.missed) < maxNotes {
		s.missed = append(s.missed, one)
	}
}

func (s *said) note(e trace.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.taken:
		return false
	case len(s.events) >= maxNotes:
		s.dropped++
	default:
		octets := e.Trim()
		if s.octets+octets > maxNoteOctets {
			octets = e.Bare()
		}
		s.octets += octets
		s.events = append(s.events, e)
	}
	return true
}

// tell adds the events to a message's trace.
func (s *said) tell(t *trace.Trace, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		t.Add(e)
	}
	s.taken = last
	if s.dropped > 0 {
		t.Add(trace.Event{At: time.Now(), Stage: StageAntiSpam, Action: "cut", Text: "more was said before the content"})
	}
}

// maxTags bounds the tags of one message.
const maxTags = 100

// addTags returns a map with more tags; one that is there is replaced. The old map stays as it is: questions hold it, and
// one that was given up may be on its way to the wire still.
func addTags(to, tags map[string]string) map[string]string {
	if len(tags) == 0 {
		return to
	}
	all := make(map[string]string, len(to)+len(tags))
	maps.Copy(all, to)
	for _, k := range slices.Sorted(maps.Keys(tags)) { // where there is no room for all, the same ones each time
		if _, have := all[k]; have || len(all) < maxTags {
			all[k] = tags[k]
		}
	}
	return all
}

// ownTags begins the names of tags that the server alone gives: they say what a question is about, not what somebody
// thinks (sdk/PROTOCOL.md, sluice.control).
const ownTags = "sluice."

// refuseTags takes out of a verdict the tags that only the server may give, and returns how many those were.
func refuseTags(v *sdk.Verdict, event *trace.Event) (refused int) {
	for _, k := range slices.Sorted(maps.Keys(v.Tags)) {
		if len(k) >= len(ownTags) && strings.EqualFold(k[:len(ownTags)], ownTags) {
			delete(v.Tags, k)
			refused++
			noteChange(event, refusedPrefix+"tag "+k)
		}
	}
	return refused
}

// meet gives a message that begins what was said about its session.
func (m *Message) meet() {
	if m.met {
		return
	}
	m.met = true
	if m.Session != nil {
		m.Score = bounded(m.Score + m.Session.said.score)
		m.Tags = addTags(m.Session.said.tags, m.Tags)
	}
}

// join adds the opinions about the session and the transaction to those about the
// recipients, and tells the trace what was said so far.
func (m *Message) join() {
	m.meet()
	if m.Session != nil {
		m.TakeAll(m.Session.said.opinion)
		m.Session.said.tell(m.Trace, false)
	}
	m.TakeAll(m.said.opinion)
	m.said.tell(m.Trace, true)
}

// maxScore bounds sums of scores, so that a later one still counts.
const maxScore = 1e9

func bounded(score float64) float64 { return min(max(score, -maxScore), maxScore) }

// missedEarly returns which plugins failed before the content, about the session, the
// transaction and all of its recipients, while the mail went on.
func (m *Message) missedEarly() []missed {
	if m.Session == nil {
		return m.said.missed
	}
	return append(m.Session.said.missed[:len(m.Session.said.missed):len(m.Session.said.missed)], m.said.missed...)
}

// Blame returns which plugin refused MAIL or the last RCPT, and why; empty where it
// was none.
func (m *Message) Blame() (plugin, why string) { return m.said.blame() }
