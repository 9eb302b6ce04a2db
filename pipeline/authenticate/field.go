package authenticate

import (
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/arc"
	"github.com/sluicemail/sluice/sdk"
)

const resultsField = "Authentication-Results"

// writer makes an Authentication-Results field (RFC 8601 section 2.2): each method on a line of its own, folded further
// where a line grows long, and no octet in it that a stranger could use to break out of its place.
type writer struct {
	b    []byte
	line int // where the current line begins
}

// method begins a result.
func (w *writer) method(name, result string) {
	w.b = append(w.b, ";\r\n"...)
	w.line = len(w.b)
	w.b = append(w.b, '\t')
	w.b = append(append(append(w.b, name...), '='), result...)
}

// word appends s after a space, on a new line if this one is full.
func (w *writer) word(parts ...string) {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	if len(w.b)-w.line+n > 77 {
		w.b = append(w.b, "\r\n\t"...)
		w.line = len(w.b) - 1
	} else {
		w.b = append(w.b, ' ')
	}
	for _, p := range parts {
		w.b = append(w.b, p...)
	}
}

// reason appends a reasonspec, which must stand before the properties.
func (w *writer) reason(text string) {
	if text != "" {
		w.word("reason=", quote(text))
	}
}

// property appends a propspec if it has a value.
func (w *writer) property(name, value string) {
	if value != "" {
		w.word(name, "=", pvalue(value))
	}
}

// comment appends a comment.
func (w *writer) comment(text string) {
	w.word("(", strings.Map(harmless, clip(text)), ")")
}

// pvalue writes a value as it is if it is a dot-atom, or one with an "@" in it, else as a quoted string.
func pvalue(s string) string {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(".-_@+", c) >= 0) {
			return quote(s)
		}
	}
	return s
}

func quote(s string) string { return `"` + strings.Map(harmless, clip(s)) + `"` }

// harmless replaces what could end a comment, a quoted string or a field. A quoted pair would be correct for some of it,
// but there are readers, go-msgauth's among them, that know neither quoted pairs nor a semicolon inside quotes.
func harmless(r rune) rune {
	if r < ' ' || r > '~' || strings.ContainsRune(`()"\;`, r) {
		return '?'
	}
	return r
}

// clip bounds a text of a stranger's.
func clip(s string) string { return s[:min(len(s), 254)] }

// fieldOf writes what was found.
func (s *Stage) fieldOf(m *pipeline.Message, r *results) []byte {
	w := writer{b: make([]byte, 0, 512)}
	w.b = append(append(w.b, resultsField+": "...), s.authserv...)
	empty := len(w.b)
	if m.Origin == sdk.Login && m.Peer != nil && m.Peer.Login != "" {
		w.method("auth", resultPass)
		w.property("smtp.auth", m.Peer.Login)
	}
	if p := r.iprev; p != nil {
		w.method("iprev", p.result)
		w.property("policy.iprev", p.addr.String())
		if p.name != "" {
			w.comment(p.name)
		}
	}
	if p := r.spf; p != nil {
		w.method("spf", p.result)
		w.reason(p.why)
		w.spfIdentity(m, p)
	}
	if s.Config.DKIM {
		w.signatures(r.dkim)
	}
	if r.chain != nil && r.arc.Result != arc.None {
		w.arc(r)
	}
	for i := range r.dmarc {
		w.dmarc(&r.dmarc[i])
	}
	if len(w.b) == empty {
		w.b = append(w.b, "; none"...) // section 2.2
	}
	return append(w.b, "\r\n"...)
}

func (w *writer) spfIdentity(m *pipeline.Message, p *spfResult) {
	switch {
	case p.helo && p.domain != "":
		w.property("smtp.helo", p.domain)
	case p.helo:
		w.property("smtp.helo", clip(m.Peer.Helo))
	case p.domain == "":
		w.property("smtp.mailfrom", clip(m.Sender))
	case pvalue(p.local) == p.local: // else a quoted or UTF-8 local part, which says nothing that SPF has checked
		w.property("smtp.mailfrom", p.local+"@"+p.domain)
	default:
		w.property("smtp.mailfrom", p.domain)
	}
}

func (w *writer) signatures(list []dkimResult) {
	if len(list) == 0 {
		w.method("dkim", resultNone)
	}
	for i := range list {
		k := &list[i]
		w.method("dkim", k.result)
		w.reason(k.why)
		if k.testing && k.result != resultPolicy { // which says so
			w.comment("the key is in testing mode")
		}
		w.property("header.d", k.domain)
		w.property("header.i", k.identity)
		w.property("header.s", k.selector)
		w.property("header.a", k.algorithm)
		w.property("header.b", k.signature)
	}
}

// arc writes the chain's result (RFC 8617 section 10.2).
func (w *writer) arc(r *results) {
	w.method("arc", r.arc.Result)
	w.reason(r.arc.Why)
	if r.arc.Result != arc.Pass {
		return
	}
	last := r.chain.Sets[len(r.chain.Sets)-1].Seal
	w.comment("i=" + strconv.Itoa(len(r.chain.Sets)) + " by " + last.Domain)
	w.property("header.oldest-pass", strconv.Itoa(r.arc.Oldest))
}

func (w *writer) dmarc(d *dmarcResult) {
	w.method("dmarc", d.result)
	w.reason(d.why)
	if d.policy != "" {
		w.comment("p=" + d.policy + " dis=" + d.disposition)
	}
	w.property("header.from", d.domain)
}

// summary is the results in one line, for the trace.
func summary(m *pipeline.Message, r *results) string {
	var words []string
	if m.Origin == sdk.Login {
		words = append(words, "auth=pass")
	}
	if r.iprev != nil {
		words = append(words, "iprev="+r.iprev.result)
	}
	if r.spf != nil {
		words = append(words, "spf="+r.spf.result)
	}
	words = append(words, "dkim="+dkimSummary(r.dkim))
	if r.chain != nil && r.arc.Result != arc.None {
		words = append(words, "arc="+r.arc.Result)
	}
	if d := strictest(r.dmarc); d != nil {
		words = append(words, "dmarc="+d.result)
	}
	return strings.Join(words, " ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
