// Package dnsbl is the shipped plugin that asks DNS lists (RFC 5782) about clients when
// they connect, and about the domains of a message: those of its links, of the
// sender and of the From field.
//
// Each list has a weight, or one for each of its answers; weights are spam points, negative
// for lists of the good. A list may also refuse (a client at once, a message at its end). Without
// lists in the settings the plugin asks nobody: which lists you may use is between you and
// them.
//
// What keeps a list from doing harm: only answers in 127.0.0.0/8 count, those in
// 127.255.255.0/24 are errors of the list, not listings (Spamhaus); every list is tested by
// the entries of RFC 5782 section 5 at the start and every ten minutes, and one that lists
// 127.0.0.1 or "INVALID" (the world) is not believed until it stops. All lists are asked at
// once, within Settings.Timeout, and answers are kept for their TTL in a bounded cache.
//
// Failures: a list that does not answer says nothing, and a reason DNSBL_FAILED tells so; if
// none answers, the answer is an error and on_failure decides. A list that fell silent after some of a message's domains has not
// answered, unless one of those is listed.
//
// Untrusted input: the domains of the message (bounded in number and length), answers of DNS.
package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/sluicemail/sluice/sdk"
)

type plugin struct {
	settings Settings
	lists    []*list
	dns      *client
	tested   chan struct{} // closed when every list was tested once
	stop     chan struct{}
	stopped  sync.WaitGroup
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{stop: make(chan struct{}), tested: make(chan struct{})} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "dnsbl", Version: "1", Phases: []sdk.Phase{sdk.PhaseConnect, sdk.PhaseContent},
		Events: []sdk.EventKind{sdk.EventCommand}, Want: sdk.WantHeader, MaxContent: maxHeader, Parsed: true, Overlap: true, CheckOnly: true,
	}
}

// maxHeader is how much of a header is looked at for From, in octets.
const maxHeader = 64 << 10

// Configure implements sdk.Plugin.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	if err := errors.Join(s.Decode(&p.settings), p.settings.check()); err != nil {
		return err
	}
	var err error
	if p.dns, err = newClient(p.settings.Servers, p.settings.CacheEntries); err != nil || s.CheckOnly {
		return err
	}
	p.lists = p.settings.lists()
	p.stopped.Add(1)
	go p.tests()
	return nil
}

// Close implements io.Closer.
func (p *plugin) Close() error {
	if p.dns != nil {
		close(p.stop)
		p.stopped.Wait()
	}
	return nil
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	switch {
	case m.Phase == sdk.PhaseEvent:
		return p.status(m.Event), nil
	case m.Origin != sdk.Stranger:
		return sdk.Verdict{}, nil
	case m.Phase == sdk.PhaseConnect:
		return p.client(ctx, m.ClientAddr)
	case m.Phase == sdk.PhaseContent:
		return p.content(ctx, m)
	}
	return sdk.Verdict{}, nil
}

// client asks the lists of addresses.
func (p *plugin) client(ctx context.Context, addr string) (sdk.Verdict, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || !p.public(a) {
		return sdk.Verdict{}, nil
	}
	return p.ask(ctx, ofAddresses, []subject{{reversed(a), a.Unmap().String()}})
}

// public reports whether an address can be in a list at all.
func (p *plugin) public(a netip.Addr) bool {
	a = a.Unmap()
	if p.settings.Private {
		return !a.IsUnspecified()
	}
	return a.IsGlobalUnicast() && !a.IsPrivate()
}

// content asks the lists of domains.
func (p *plugin) content(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if !slices.ContainsFunc(p.lists, func(l *list) bool { return l.of == ofDomains }) {
		return sdk.Verdict{}, nil
	}
	from := fromDomains(m.Content)
	parsed, err := m.Parsed()
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("read the links of the message: %w", err)
	}
	found := &domains{seen: make(map[string]bool), exempt: p.settings.Exempt}
	found.add(m.Sender[strings.LastIndexByte(m.Sender, '@')+1:]) // a quoted local part may hold another
	for _, d := range from {
		found.add(d)
	}
	found.links(parsed.URLs)
	if len(found.list) == 0 {
		return sdk.Verdict{}, nil
	}
	return p.ask(ctx, ofDomains, found.list)
}

// subject is what lists are asked about.
type subject struct {
	label string // in front of the list's zone
	name  string // for people
}

// hit is what one list said about one subject.
type hit struct {
	list    *list
	subject subject
	answers []netip.Addr
	err     error
}

// ask asks every list of a kind about every subject, all at once.
func (p *plugin) ask(ctx context.Context, of kind, subjects []subject) (sdk.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, p.settings.Timeout)
	defer cancel()
	select { // a list that lists the world must not do so until the first test is over
	case <-p.tested:
	case <-ctx.Done():
	}
	var hits, broken []hit
	for _, l := range p.lists {
		switch {
		case l.of != of:
		case l.broken.Load():
			broken = append(broken, hit{list: l, err: errBroken})
		default:
			for _, s := range subjects {
				hits = append(hits, hit{list: l, subject: s})
			}
		}
	}
	var asked sync.WaitGroup
	turns := make(chan struct{}, maxAtOnce)
	for i := range hits {
		asked.Add(1)
		go func() {
			defer asked.Done()
			turns <- struct{}{}
			defer func() { <-turns }()
			h := &hits[i]
			h.answers, h.err = p.dns.listed(ctx, h.subject.label+"."+h.list.zone)
		}()
	}
	asked.Wait()
	return verdict(append(hits, broken...))
}

var errRefused = errors.New("the list refuses to answer (127.0.0.1)")

var errBroken = errors.New("not believed: it lists what no list may have (RFC 5782 section 5)")

// maxAtOnce bounds the questions to DNS that one message has under way.
const maxAtOnce = 32

// heard is what came of all questions to one list.
type heard struct {
	list     *list
	best     hit     // the heaviest answer, if listed
	weight   float64 // its
	listed   bool
	answered bool  // at least one question
	silent   bool  // nobody said anything to at least one: the rest of what it knows is missing
	failed   error // of the last question that failed
}

func (h *heard) take(q hit) {
	if q.err != nil {
		h.failed = q.err
		h.silent = h.silent || errors.Is(q.err, errSilent)
		return
	}
	if slices.ContainsFunc(q.answers, h.list.refuses) {
		h.failed = errRefused
		return
	}
	h.answered = true
	for _, answer := range q.answers {
		if w, ok := h.list.weight(answer); ok && (!h.listed || heavier(w, h.weight)) {
			h.listed, h.weight, h.best = true, w, hit{list: h.list, subject: q.subject, answers: []netip.Addr{answer}}
		}
	}
}

// spoke reports whether the list may be taken at its word: something is listed, or every question was heard. (An odd domain that a server fails
// on alone does not silence the list, or a sender could do so.)
func (h *heard) spoke() bool { return h.listed || h.answered && !h.silent }

// verdict adds up what the lists said. A list counts once, with its heaviest answer.
func verdict(hits []hit) (sdk.Verdict, error) {
	var v sdk.Verdict
	var lists []*heard // in their order, so that equal questions have equal answers
	of := make(map[*list]*heard)
	for _, q := range hits {
		if of[q.list] == nil {
			of[q.list] = &heard{list: q.list}
			lists = append(lists, of[q.list])
		}
		of[q.list].take(q)
	}
	if len(lists) > 0 && !slices.ContainsFunc(lists, (*heard).spoke) {
		return v, fmt.Errorf("no list answers: %w", lists[0].failed)
	}
	for _, h := range lists {
		l := h.list
		if !h.listed {
			if h.failed != nil {
				v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "DNSBL_FAILED", Text: strings.TrimSuffix(l.zone, ".") + ": " + h.failed.Error()})
			}
			continue
		}
		v.Score += h.weight
		v.Reasons = append(v.Reasons, sdk.Reason{
			Symbol: l.symbol, Score: h.weight, Text: fmt.Sprintf("%s is listed by %s (%s)", h.best.subject.name, l.zone, h.best.answers[0]),
		})
		if l.refuse && v.Action == sdk.Accept && h.weight >= 0 {
			v.Action, v.Reply = sdk.Reject, l.reply(h.best.subject)
		}
	}
	sort.Slice(v.Reasons, func(i, k int) bool {
		return v.Reasons[i].Symbol+v.Reasons[i].Text < v.Reasons[k].Symbol+v.Reasons[k].Text
	})
	return v, nil
}

func heavier(a, b float64) bool { return max(a, -a) > max(b, -b) }

// reversed returns the label of an address in a list (RFC 5782 sections 2.1 and 2.4).
func reversed(a netip.Addr) string {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d", b[3], b[2], b[1], b[0])
	}
	b := a.As16()
	nibbles := make([]string, 0, 32)
	for i := 15; i >= 0; i-- {
		nibbles = append(nibbles, fmt.Sprintf("%x", b[i]&15), fmt.Sprintf("%x", b[i]>>4))
	}
	return strings.Join(nibbles, ".")
}
