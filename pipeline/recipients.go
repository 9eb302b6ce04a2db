package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// envelopeChange is a recipient that a plugin adds or removes.
type envelopeChange struct {
	kind    sdk.ChangeKind
	address string
	behalf  []int // on whose behalf: indexes into Message.Recipients

	stage, plugin, version string
}

// maxRecipients is how many recipients a message may have where its pipeline does not say.
const maxRecipients = 100

// roomFor reports that a message would have too many recipients after changes.
func (m *Message) roomFor(changes []envelopeChange) error {
	if len(changes) == 0 {
		return nil
	}
	limit := maxRecipients
	if m.via != nil && m.via.MaxTo > 0 {
		limit = m.via.MaxTo
	}
	live := make(map[string]bool, len(m.Recipients)+len(changes))
	before := 0
	for _, r := range m.Recipients {
		if r.Removed == "" {
			live[strings.ToLower(r.Address)] = true
		}
	}
	for i, c := range slices.Concat(m.pending, changes) {
		if i == len(m.pending) {
			before = len(live)
		}
		if c.kind == sdk.AddRecipient {
			live[strings.ToLower(c.address)] = true
		} else {
			delete(live, strings.ToLower(c.address))
		}
	}
	if len(live) > limit && len(live) > before {
		return fmt.Errorf("the message would have %d recipients, more than %d", len(live), limit)
	}
	return nil
}

// ApplyEnvelope carries out what the plugins of a stage want of the recipients, in
// order. The pipeline calls it after each stage; a stage that goes on with the
// recipients afterwards calls it itself. An error means that somebody could not be
// looked up now.
func (m *Message) ApplyEnvelope(ctx context.Context) error {
	for i := range m.pending {
		c := &m.pending[i]
		if c.kind == sdk.RemoveRecipient {
			m.removeRecipient(c)
			continue
		}
		if err := m.addRecipient(ctx, c); err != nil {
			m.pending = nil
			return fmt.Errorf("add the recipient %s: %w", c.address, err)
		}
	}
	m.pending = nil
	return nil
}

func (m *Message) removeRecipient(c *envelopeChange) {
	for _, r := range m.Recipients {
		if r.Removed == "" && sameAddress(r.Address, c.address) {
			r.Removed, r.removedIn = c.plugin, c.stage
			m.traceEnvelope(c, "removed", "it gets nothing")
		}
	}
}

// addRecipient adds a recipient if it leads somewhere and is not there yet. It shares
// the version, score and opinion of the one on whose behalf it is there, the most lenient
// of several: what nobody may have does not go out by another door.
func (m *Message) addRecipient(ctx context.Context, c *envelopeChange) error {
	base := m.Recipients[c.behalf[0]]
	for _, i := range c.behalf[1:] {
		if m.Recipients[i].Opinion.Action < base.Opinion.Action {
			base = m.Recipients[i]
		}
	}
	for _, r := range m.Recipients {
		if !sameAddress(r.Address, c.address) {
			continue
		}
		if r.Removed == "" {
			m.traceEnvelope(c, "added", "it was a recipient already")
			return nil
		}
		if r.removedIn != c.stage { // this stage did not look at its copy
			r.Version, r.Score = base.Version, max(r.Score, base.Score)
			r.Take(base.Opinion)
		}
		r.Removed = ""
		m.traceEnvelope(c, "added", "again")
		return nil
	}
	r := &Recipient{Address: c.address, Added: c.plugin, Score: base.Score, Opinion: base.Opinion, Version: base.Version}
	reply := ReplyNoRelay
	if m.via != nil {
		reply = m.via.Router.Target(ctx, m, r)
	}
	switch {
	case reply.OK():
	case reply.Temporary() && reply != ReplyMailboxFull:
		return errors.New(reply.Text)
	default:
		m.traceEnvelope(c, "not added", reply.String())
		return nil
	}
	for _, i := range c.behalf {
		r.Behalf = append(r.Behalf, m.Recipients[i])
	}
	m.Recipients = append(m.Recipients, r)
	m.Trace.Head.Recipients = append(m.Trace.Head.Recipients, r.Address)
	m.traceEnvelope(c, "added", "")
	return nil
}

func (m *Message) traceEnvelope(c *envelopeChange, action, text string) {
	m.Trace.Add(trace.Event{
		At: time.Now(), Stage: c.stage, Plugin: c.plugin, Version: c.version, Recipient: c.address, Action: action, Text: text,
	})
}

// changeSender gives the message another MAIL FROM. What was found out about the
// first one stays, and the trace keeps it; a DSN goes to the new one.
func (m *Message) changeSender(address string) {
	m.Sender = address
	for i := 0; i < len(address); i++ {
		if address[i] >= utf8.RuneSelf {
			m.Params.SMTPUTF8 = true // RFC 6531 section 3.3
		}
	}
}

// Instead returns the recipients that the peer named and in whose place a plugin put this one: all on whose behalf it was added were
// removed. Nothing means that it was named itself, or added beside others who are still there. The recipients are final then.
func (r *Recipient) Instead() []*Recipient {
	var named []*Recipient
	for _, b := range r.Behalf {
		switch {
		case b.Removed == "":
			return nil
		case b.Added == "":
			named = append(named, b)
		default: // added before, and removed by another plugin
			named = append(named, b.Instead()...)
		}
	}
	return named
}

// asked returns how many RCPT TO there were: those recipients stand first.
func (m *Message) asked() int {
	n := 0
	for n < len(m.Recipients) && m.Recipients[n].Added == "" {
		n++
	}
	return n
}

// deciding returns whose opinions decide what the peer is told: the recipients that it
// named and that are still there; where all of those were removed, the ones who came in
// their place.
func (m *Message) deciding() []*Recipient {
	var named, added []*Recipient
	for _, r := range m.Recipients {
		switch {
		case r.Removed != "":
		case r.Added == "":
			named = append(named, r)
		default:
			added = append(added, r)
		}
	}
	if len(named) == 0 {
		return added
	}
	return named
}

// sameAddress compares addresses as this server tells mailboxes apart: without case.
func sameAddress(a, b string) bool { return strings.EqualFold(a, b) }

// ValidAddress reports whether an address can stand in MAIL FROM and RCPT TO: a Mailbox
// of RFC 5321 section 4.1.2, with the extensions of RFC 6531 section 3.3.
func ValidAddress(address string) bool {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 || at > 64 || len(address) > 254 || !utf8.ValidString(address) { // RFC 5321 section 4.5.3.1
		return false
	}
	local, domain := address[:at], address[at+1:]
	if local[0] == '"' {
		return validQuoted(local) && validDomain(domain)
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtext) {
			return false
		}
	}
	return validDomain(domain)
}

// notAtext is everything but atext (RFC 5322 section 3.2.3) and UTF8-non-ascii.
func notAtext(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`()<>[]:;@\,."`, r) || r >= utf8.RuneSelf && !unicode.IsGraphic(r)
}

// validQuoted reports whether a local part is a Quoted-string (RFC 5321 section 4.1.2).
func validQuoted(local string) bool {
	if len(local) < 3 || local[len(local)-1] != '"' {
		return false
	}
	escaped := false
	for _, r := range local[1 : len(local)-1] {
		switch {
		case r < ' ' || r == 0x7f || r >= utf8.RuneSelf && !unicode.IsGraphic(r):
			return false
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			return false
		}
	}
	return !escaped
}

func validDomain(domain string) bool {
	if inner, ok := strings.CutPrefix(domain, "["); ok {
		literal, ok := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(strings.TrimPrefix(literal, "IPv6:")) // RFC 5321 section 4.1.3
		return ok && err == nil && addr.Zone() == "" && addr.Is6() == strings.HasPrefix(literal, "IPv6:")
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r < utf8.RuneSelf && r != '-' && !('a' <= r|0x20 && r|0x20 <= 'z') && !('0' <= r && r <= '9') ||
				r >= utf8.RuneSelf && !unicode.IsGraphic(r) || unicode.IsSpace(r) {
				return false
			}
		}
	}
	return true
}
