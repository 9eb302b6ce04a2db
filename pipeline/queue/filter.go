package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// Filter says which recipients of which entries are meant. All of its parts have to hold for a recipient; the zero
// value of a part holds for all. A pattern is compared without case; * stands for any text and ? for one character.
type Filter struct {
	From      string        `json:"from,omitempty"`     // pattern of the sender; "<>" is the null sender
	To        string        `json:"to,omitempty"`       // pattern of the recipient, as it was given or as it leaves
	Domain    string        `json:"domain,omitempty"`   // pattern of the recipient's domain, in A-labels or as people write it
	NextHop   string        `json:"next_hop,omitempty"` // pattern of where the mail goes: a key of Sites or one of its hosts, a Hop.Via, "local"
	OlderThan time.Duration `json:"older_than,omitempty"`
	NewerThan time.Duration `json:"newer_than,omitempty"`
	State     string        `json:"state,omitempty"`    // queued, held or quarantined
	Pipeline  string        `json:"pipeline,omitempty"` // pattern
	Origin    string        `json:"origin,omitempty"`   // stranger, trusted, login, lmtp or generated
	SizeOver  int64         `json:"size_over,omitempty"`
	Attempts  int           `json:"attempts_over,omitempty"` // more than so many
	Reason    string        `json:"reason,omitempty"`        // a part of the last outcome, or, with * or ?, a pattern of all of it
}

// maxPattern bounds a pattern, in octets.
const maxPattern = 1000

// Validate reports what no recipient can ever be.
func (f *Filter) Validate() error {
	states := []string{"", stateQueued, stateHeld, stateQuarantined}
	origins := []string{"", string(sdk.Stranger), string(sdk.Trusted), string(sdk.Login), string(sdk.LMTP), string(sdk.Generated)}
	if !slices.Contains(states, f.State) {
		return fmt.Errorf("state %q is none, expected queued, held or quarantined", f.State)
	}
	if !slices.Contains(origins, f.Origin) {
		return fmt.Errorf("origin %q is none, expected stranger, trusted, login, lmtp or generated", f.Origin)
	}
	if f.OlderThan < 0 || f.NewerThan < 0 || f.SizeOver < 0 || f.Attempts < 0 {
		return errors.New("an age, a size or a number of attempts is negative")
	}
	for _, p := range []string{f.From, f.To, f.Domain, f.NextHop, f.Pipeline, f.Reason} {
		if len(p) > maxPattern || !utf8.ValidString(p) {
			return fmt.Errorf("pattern %.40q is longer than %d octets or not UTF-8", p, maxPattern)
		}
	}
	return nil
}

// Empty reports whether the filter lets everything through.
func (f *Filter) Empty() bool { return *f == Filter{} }

// sieve is a filter made ready.
type sieve struct {
	Filter
	now   time.Time
	place func(*pipeline.Hop) string // where a hop leads; nil: that is not known
}

func (f *Filter) sieve(now time.Time, place func(*pipeline.Hop) string) *sieve {
	s := &sieve{*f, now, place}
	for _, p := range []*string{&s.From, &s.To, &s.NextHop, &s.Pipeline, &s.Reason} {
		*p = strings.ToLower(*p)
	}
	s.Domain = domainOf(s.Domain)
	return s
}

// entry reports whether an entry may have recipients that are meant.
func (s *sieve) entry(e *Entry) bool {
	age := s.now.Sub(e.Received)
	switch {
	case s.OlderThan > 0 && age <= s.OlderThan, s.NewerThan > 0 && age >= s.NewerThan, s.SizeOver > 0 && e.Size <= s.SizeOver:
		return false
	case s.Origin != "" && s.Origin != string(e.Origin), !like(s.Pipeline, e.Pipeline):
		return false
	case s.From == "<>":
		return e.Sender == ""
	}
	return like(s.From, e.Sender)
}

// recipient reports whether a recipient of such an entry is meant.
func (s *sieve) recipient(r *Recipient) bool {
	switch {
	case s.State != "" && s.State != r.state(), s.Attempts > 0 && r.Attempts <= s.Attempts:
		return false
	case !like(s.To, r.Address) && (r.Hop.Address == "" || !like(s.To, r.Hop.Address)):
		return false
	case s.Domain != "" && !like(s.Domain, r.destination()):
		return false
	case s.Reason != "" && !says(r.Last, s.Reason) && !says(r.Hop.Why, s.Reason):
		return false
	}
	return s.NextHop == "" || s.nextHop(&r.Hop)
}

// destination is the domain to which a recipient's mail goes.
func (r *Recipient) destination() string {
	if r.Hop.Address != "" {
		return domainOf(r.Hop.Address)
	}
	return domainOf(r.Address)
}

// nextHop compares the next hop as a whole, and each of its servers with and without the port.
func (s *sieve) nextHop(h *pipeline.Hop) bool {
	place := s.place(h)
	if like(s.NextHop, place) || h.Via != "" && like(s.NextHop, h.Via) {
		return true
	}
	for host := range strings.SplitSeq(place, ",") {
		name, _, _ := strings.Cut(host, ":")
		if like(s.NextHop, host) || like(s.NextHop, name) {
			return true
		}
	}
	return false
}

// says reports whether a text has a lower-case part, or is like a pattern.
func says(text, reason string) bool {
	if strings.ContainsAny(reason, "*?") {
		return text != "" && like(reason, text)
	}
	return strings.Contains(strings.ToLower(text), reason)
}

// like compares a text with a lower-case pattern. An empty pattern is like everything. It takes at most as many steps
// as the product of both lengths: after a failure only the last * takes one character more.
func like(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	text = strings.ToLower(text)
	p, t := 0, 0
	star, again := -1, 0 // behind the last *, and where the text after it began
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, again = p, t
		case p < len(pattern) && pattern[p] == '?':
			_, size := utf8.DecodeRuneInString(text[t:])
			p, t = p+1, t+size
		case p < len(pattern) && pattern[p] == text[t]:
			p, t = p+1, t+1
		case star >= 0:
			again++
			p, t = star, again
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
