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
// none answers, the answer is an error and on_failure decides.
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

var errBroken = errors.New("not believed: it lists what no list may have (RFC 5782 section 5)")

// maxAtOnce bounds the questions to DNS that one message has under way.
const maxAtOnce = 32

// verdict adds up what the lists said. A list counts once, with its heaviest answer.
func verdict(hits []hit) (sdk.Verdict, error) {
	var v sdk.Verdict
	best := make(map[*list]hit)
	weights := make(map[*list]float64)
	failed := make(map[*list]error)
	for _, h := range hits {
		if h.err != nil {
			failed[h.list] = h.err
			continue
		}
		for _, answer := range h.answers {
			w, ok := h.list.weight(answer)
			if old, have := weights[h.list]; ok && (!have || heavier(w, old)) {
				weights[h.list], best[h.list] = w, hit{list: h.list, subject: h.subject, answers: []netip.Addr{answer}}
			}
		}
	}
	if len(hits) > 0 && all(hits, func(h hit) bool { return h.err != nil }) {
		return v, fmt.Errorf("no list answers: %w", hits[0].err)
	}
	var lists []*list // in their order, so that equal questions have equal answers
	for _, h := range hits {
		if !slices.Contains(lists, h.list) {
			lists = append(lists, h.list)
		}
	}
	for _, l := range lists {
		h, ok := best[l]
		if !ok {
			if err := failed[l]; err != nil {
				v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "DNSBL_FAILED", Text: strings.TrimSuffix(l.zone, ".") + ": " + err.Error()})
			}
			continue
		}
		v.Score += weights[l]
		v.Reasons = append(v.Reasons, sdk.Reason{
			Symbol: l.symbol, Score: weights[l], Text: fmt.Sprintf("%s is listed by %s (%s)", h.subject.name, l.zone, h.answers[0]),
		})
		if l.refuse && v.Action == sdk.Accept && weights[l] >= 0 {
			v.Action, v.Reply = sdk.Reject, l.reply(h.subject)
		}
	}
	sort.Slice(v.Reasons, func(i, k int) bool {
		return v.Reasons[i].Symbol+v.Reasons[i].Text < v.Reasons[k].Symbol+v.Reasons[k].Text
	})
	return v, nil
}

func heavier(a, b float64) bool { return max(a, -a) > max(b, -b) }

func all(hits []hit, ok func(hit) bool) bool {
	return !slices.ContainsFunc(hits, func(h hit) bool { return !ok(h) })
}

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
