package imap

import (
	"strings"

	"github.com/sluicemail/sluice/storage/mime"
)

// envelope writes ENVELOPE (RFC 3501 section 7.4.2): strings as sent, groups and
// broken addresses kept, Sender and Reply-To taken from From when absent.
func (e *encoder) envelope(env *mime.Envelope) {
	e.byte('(')
	e.present(env, mime.HasDate, env.Date)
	e.byte(' ')
	e.present(env, mime.HasSubject, env.Subject)
	for _, list := range [...][]mime.Address{
		env.From, orFrom(env.Sender, env), orFrom(env.ReplyTo, env), env.To, env.Cc, env.Bcc,
	} {
		e.byte(' ')
		e.addresses(list)
	}
	e.byte(' ')
	e.present(env, mime.HasInReplyTo, env.InReplyTo)
	e.byte(' ')
	e.present(env, mime.HasMessageID, env.MessageID)
	e.byte(')')
}

func orFrom(list []mime.Address, env *mime.Envelope) []mime.Address {
	if len(list) == 0 {
		return env.From
	}
	return list
}

// present tells absent, NIL, from empty.
func (e *encoder) present(env *mime.Envelope, bit mime.Present, s string) {
	if env.Present&bit == 0 {
		e.nil()
		return
	}
	e.text(s)
}

func (e *encoder) addresses(list []mime.Address) {
	if len(list) == 0 {
		e.nil()
		return
	}
	e.byte('(')
	for i := range list {
		a := &list[i]
		e.byte('(')
		e.nstring(a.Name)
		e.byte(' ')
		e.nstring(a.Route)
		e.byte(' ')
		e.nstring(a.Mailbox)
		e.byte(' ')
		e.host(a.Host)
		e.byte(')')
	}
	e.byte(')')
}

// body writes BODY, or BODYSTRUCTURE if extended (RFC 3501 section 7.4.2).
func (e *encoder) body(p *mime.Part, extended bool) {
	e.byte('(')
	if p.Multipart() && len(p.Children) > 0 {
		for _, c := range p.Children {
			e.body(c, extended) // no blank between them: the grammar has none
		}
		e.byte(' ')
		e.text(p.Subtype)
		if extended {
			e.byte(' ')
			e.params(p.Params)
			e.extension(p)
		}
		e.byte(')')
		return
	}
	e.single(p, extended)
	if extended {
		e.byte(' ')
		e.nstring(p.MD5)
		e.extension(p)
	}
	e.byte(')')
}

// single writes the fields of a part that has no parts, and what is special to
// texts and messages.
func (e *encoder) single(p *mime.Part, extended bool) {
	typ, sub := p.Type, p.Subtype
	if typ == "multipart" { // without parts there is no such thing
		typ, sub = "application", "octet-stream"
	}
	e.text(typ)
	e.byte(' ')
	e.text(sub)
	e.byte(' ')
	e.params(p.Params)
	e.byte(' ')
	e.nstring(p.ID)
	e.byte(' ')
	e.nstring(p.Description)
	e.byte(' ')
	if p.Encoding == "" {
		e.raw(`"7bit"`) // RFC 2045 section 6.1
	} else {
		e.text(p.Encoding)
	}
	e.byte(' ')
	e.int(p.Size())
	switch {
	case p.Embedded != nil && len(p.Children) == 1:
		e.byte(' ')
		e.envelope(p.Embedded)
		e.byte(' ')
		e.body(p.Children[0], extended)
		e.byte(' ')
		e.int(p.Lines)
	case typ == "text":
		e.byte(' ')
		e.int(p.Lines)
	}
}

func (e *encoder) params(list []mime.Param) {
	if len(list) == 0 {
		e.nil()
		return
	}
	e.byte('(')
	for i, p := range list {
		if i > 0 {
			e.byte(' ')
		}
		e.param(p.Name, p.Value)
	}
	e.byte(')')
}

// extension writes disposition, language and location.
func (e *encoder) extension(p *mime.Part) {
	e.byte(' ')
	if p.Disposition == "" {
		e.nil()
	} else {
		e.byte('(')
		e.text(p.Disposition)
		e.byte(' ')
		e.params(p.DispositionParams)
		e.byte(')')
	}
	e.byte(' ')
	if len(p.Language) == 0 {
		e.nil()
	} else {
		e.byte('(')
		for i, l := range p.Language {
			if i > 0 {
				e.byte(' ')
			}
			e.text(strings.TrimSpace(l))
		}
		e.byte(')')
	}
	e.byte(' ')
	e.nstring(p.Location)
}
