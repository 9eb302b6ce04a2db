package receive

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/mime"
)

// submit completes the header and hands the message to the pipeline.
func (s *session) submit(m *pipeline.Message) pipeline.Result {
	o := &s.gate.server.options
	ctx, cancel := s.gate.whileConnected()
	defer cancel()
	m.Peer.Reverse, m.Peer.Name = s.clientName(ctx)
	if m.Origin == sdk.Login {
		reply, why := s.properFields(m)
		if reply.OK() {
			reply, why = s.ownFields(ctx, m)
		}
		if !reply.OK() {
			return s.refuse(m, pipeline.Unfit{Reply: reply, Why: why, Size: m.Content.Size()})
		}
	}
	if err := m.Change(withoutFields(m.Origin)); err != nil {
		o.Logger.Error("message", "id", m.ID.String(), "stage", pipeline.StageReceive, "action", "defer", "why", err)
		return s.refuse(m, pipeline.Unfit{Reply: pipeline.ReplyTryLater, Why: err.Error(), Size: m.Content.Size()})
	}
	if m.Origin == sdk.Login {
		addMissing(m, o.Hostname)
	}
	m.Front(receivedField(m, o.Hostname))
	s.gate.server.counts.messages.Add(1)
	return o.Pipeline.Submit(ctx, m)
}

// strictFields are those that say who writes, to which logins are held, and those that nobody but we may see.
var strictFields = [...]string{"From", "Sender", "Bcc", "Resent-Bcc"}

// properFields refuses a header in which one of these fields is written so that some programs take it for the field and others
// do not: "From" and a NUL, or sixty blanks, before the colon. It would be no From to ownFields and to the signature, and one
// to the reader; and a Bcc would stay. RFC 6409 section 6.3 has 554 for it. All octets that arrived stay as they are
// (RULES A4), so nothing is repaired.
func (s *session) properFields(m *pipeline.Message) (reply pipeline.Reply, why string) {
	for _, f := range m.Arrived().Fields() {
		if f.Proper() {
			continue
		}
		name := f.LenientName()
		for _, strict := range strictFields {
			if strings.EqualFold(name, strict) {
				const why = "a field is not written as RFC 5322 section 2.2 wants it"
				s.gate.log("message", "id", m.ID.String(), "action", sdk.Reject.String(), "login", s.login, "field", strict, "why", why)
				return replyCrooked, strict + ": " + why
			}
		}
	}
	return pipeline.Reply{}, ""
}

// ownFields holds From and Sender to the account's addresses (RULES A1). A message without From could say nothing about
// who wrote it, so it is refused as well (RFC 5322 section 3.6 has it in every message).
func (s *session) ownFields(ctx context.Context, m *pipeline.Message) (reply pipeline.Reply, why string) {
	o := &s.gate.server.options
	from := 0
	for _, f := range m.Arrived().Fields() {
		isFrom := strings.EqualFold(f.Name, "From")
		if !isFrom && !strings.EqualFold(f.Name, "Sender") {
			continue
		}
		list := mime.Addresses(f.Value(), maxAuthors+1)
		if len(list) == 0 || len(list) > maxAuthors {
			return s.notOwn(m, f.Value())
		}
		for _, a := range list {
			if a.Host == "" { // the markers of a group, or rubbish
				return s.notOwn(m, f.Value())
			}
			ok, err := o.Accounts.MaySendAs(ctx, s.login, quoteLocal(a.Mailbox)+"@"+a.Host)
			if err != nil {
				o.Logger.Error("message", "id", m.ID.String(), "stage", pipeline.StageReceive, "action", "defer", "why", err)
				return pipeline.ReplyTryLater, err.Error()
			}
			if !ok {
				return s.notOwn(m, f.Value())
			}
		}
		if isFrom {
			from++
		}
	}
	if from == 0 {
		return s.notOwn(m, "")
	}
	return pipeline.Reply{}, ""
}

// maxAuthors bounds the addresses in one From.
const maxAuthors = 20

func (s *session) notOwn(m *pipeline.Message, value string) (reply pipeline.Reply, why string) {
	why = "From or Sender is not the account's"
	s.gate.log("message", "id", m.ID.String(), "action", "reject", "login", s.login, "field", fmt.Sprintf("%.200q", value), "why", why)
	return replyFromYours, why // not the field: a trace holds no content
}

// withoutFields returns the change that removes what must not stay. Return-Path is for whoever makes the final delivery to
// write, and there shall be one (RFC 5321 section 4.4); so one that came along goes, for every origin. Bcc goes from mail
// of our own users (RFC 5322 section 3.6.3); in the mail of others it is not ours.
func withoutFields(origin sdk.Origin) func(*pipeline.Version) (*pipeline.Version, error) {
	return func(v *pipeline.Version) (*pipeline.Version, error) {
		next, _ := v.Without(func(f pipeline.Field) bool {
			return strings.EqualFold(f.Name, "Return-Path") || origin == sdk.Login &&
				(strings.EqualFold(f.Name, "Bcc") || strings.EqualFold(f.Name, "Resent-Bcc"))
		})
		return next, nil
	}
}

// addMissing adds Date and Message-ID where our own user's program left them out (RFC 6409 section 8).
func addMissing(m *pipeline.Message, hostname string) {
	if _, ok := m.Arrived().Get("Date"); !ok {
		m.Front([]byte("Date: " + m.Received.UTC().Format(time.RFC1123Z) + "\r\n"))
	}
	if _, ok := m.Arrived().Get("Message-ID"); !ok {
		m.Front([]byte("Message-ID: <" + m.ID.String() + "@" + hostname + ">\r\n"))
	}
}

// receivedField returns the Received field of RFC 5321 section 4.4; the words after "with" are those of RFC 3848 and 6531.
func receivedField(m *pipeline.Message, hostname string) []byte {
	p := m.Peer
	var b strings.Builder
	b.Grow(256)
	b.WriteString("Received: from " + safeName(p.Helo))
	if p.Addr.IsValid() {
		literal := "[" + p.Addr.String() + "]"
		if p.Addr.Is6() {
			literal = "[IPv6:" + p.Addr.String() + "]"
		}
		if p.Name != "" {
			literal = safeName(p.Name) + " " + literal
		}
		b.WriteString(" (" + literal + ")")
	}
	b.WriteString("\r\n\tby " + hostname + " (Sluice) with " + withProtocol(m))
	if p.TLS != "" {
		b.WriteString("\r\n\t(" + p.TLS + " " + p.Cipher + ")")
	}
	b.WriteString(" id " + m.ID.String())
	if len(m.Recipients) == 1 && strings.Contains(m.Recipients[0].Address, "@") {
		b.WriteString("\r\n\tfor <" + m.Recipients[0].Address + ">")
	}
	b.WriteString(";\r\n\t" + m.Received.UTC().Format(time.RFC1123Z) + "\r\n")
	return []byte(b.String())
}

// withProtocol returns the name of the protocol by which a message came.
func withProtocol(m *pipeline.Message) string {
	p := m.Peer
	name := "SMTP"
	switch {
	case p.LMTP:
		name = "LMTP"
	case !p.ESMTP:
		return name
	case !m.Params.SMTPUTF8:
		name = "ESMTP"
	}
	if m.Params.SMTPUTF8 {
		name = "UTF8" + name
	}
	if p.TLS != "" {
		name += "S"
	}
	if p.Login != "" {
		name += "A"
	}
	return name
}

// safeName makes what a peer calls itself fit for a header field: no blanks, no comments, no fields of its own.
func safeName(s string) string {
	safe := func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune(".-_:[]", r):
			return r
		}
		return '?'
	}
	return strings.Map(safe, s)
}

// lookup is the search for the client's verified name, beside everything else.
type lookup struct {
	done         chan struct{}
	result, name string
}

const nameTime = 5 * time.Second

// startLookup looks for the client's name, once a connection, from its first MAIL on.
func (s *session) startLookup() {
	g := s.gate
	r := g.server.options.Resolver
	if s.name != nil || r == nil || !g.client.IsValid() {
		return
	}
	l := &lookup{done: make(chan struct{})}
	s.name = l
	go func() {
		defer close(l.done)
		ctx, cancel := context.WithTimeout(g.server.base, nameTime)
		defer cancel()
		l.result, l.name = resolver.VerifyReverse(ctx, r, g.client)
	}()
}

// clientName waits for what startLookup finds.
func (s *session) clientName(ctx context.Context) (result, name string) {
	if s.name == nil {
		return "", ""
	}
	select {
	case <-s.name.done:
		return s.name.result, s.name.name
	case <-ctx.Done():
		return "", ""
	}
}

// whileConnected returns a context that ends when the peer has gone, or when the server cannot wait any more. The peer is
// looked for whenever somebody asks for Err, as the pipeline does right before the commit (RULES A11), which costs one
// system call; and once a second while the filters take their time.
func (g *gate) whileConnected() (context.Context, func()) {
	inner, cancel := context.WithCancelCause(g.server.base)
	c, ok := g.raw.(*listen.Conn)
	if !ok {
		return inner, func() { cancel(nil) }
	}
	unread, underTLS := g.r < g.w, g.tls != nil // nothing is read meanwhile
	ctx := &peerContext{Context: inner, cancel: cancel, gone: func() bool { return c.Gone(unread, underTLS) }}
	ctx.mu.Lock()
	ctx.timer = time.AfterFunc(watchEvery, ctx.watch)
	ctx.mu.Unlock()
	return ctx, ctx.end
}

const watchEvery = time.Second

type peerContext struct {
	context.Context
	cancel context.CancelCauseFunc
	gone   func() bool

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

// Err reports the peer's absence as the end of the context.
func (c *peerContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.gone() {
		c.cancel(pipeline.ErrAbandoned)
	}
	return c.Context.Err()
}

func (c *peerContext) watch() {
	if c.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.timer.Reset(watchEvery)
	}
}

func (c *peerContext) end() {
	c.mu.Lock()
	c.ended = true
	c.timer.Stop()
	c.mu.Unlock()
	c.cancel(nil)
}
