package deliver

import (
	"context"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

var _ pipeline.RecipientAsker = (*Remote)(nil)

// question is what an attempt is about that takes no message anywhere.
type question struct {
	answer pipeline.RecipientAnswer
	why    string
}

// AskRecipient asks the servers to which mail for an address would go, in the order in which they would be tried, until one has
// something to say about it; see pipeline.RecipientAsker. Everything but the content is as in Send: the connection,
// TLS and what it is demanded for, the login, the networks to which nothing goes. ctx needs a deadline.
func (r *Remote) AskRecipient(ctx context.Context, name, address string) (pipeline.RecipientAnswer, string) {
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	p := &pipeline.Parcel{Pipeline: name, Domain: domain, Recipients: []pipeline.ParcelRecipient{{Address: address}}}
	a := &attempt{ctx: ctx, r: r, p: p, config: r.config(name, domain), start: r.Now(), question: &question{}}
	a.prepare()
	if a.left() == 0 { // no server can be sent this
		return pipeline.AnswerLater, a.outcomes[0].Text
	}
	a.travel(ctx)
	a.giveBack()
	switch q := a.question; {
	case q.answer != pipeline.AnswerNone:
		return q.answer, q.why
	case a.best != nil:
		return pipeline.AnswerNone, a.best.line()
	}
	return pipeline.AnswerNone, "there was no time for it"
}

// ask puts the question on one connection. What a server says to RCPT is the answer, as it is in transact; a connection that does not get
// there leaves it to the next server.
func (a *attempt) ask(s *session, d *dialer) (verdict, *trouble) {
	address := a.recipients[0].Address
	if !ascii(address) && !s.conn.Extensions.UTF8 {
		a.say(pipeline.AnswerLater, s.name+": the address is internationalized, and it does not offer SMTPUTF8")
		return settled, nil
	}
	if !s.conn.Usable() || s.conn.Used >= s.most {
		return spent, nil
	}
	first := s.reused
	mail, rcpt, err := s.conn.Verify(address, !ascii(address))
	s.reused = false
	if first && (mail.Code == 0 && err != nil || mail.Code == 421) {
		return stale, nil
	}
	words := s.name + ": " + rcpt.String()
	switch {
	case mail.Permanent(): // about the null sender, which it should take (RFC 5321 section 4.5.5)
		a.say(pipeline.AnswerLater, s.name+": "+mail.String())
	case !mail.OK():
		return moveOn, a.failing(s, d, mail, err, atMail)
	case rcpt.OK():
		a.say(pipeline.AnswerTaken, words)
	case rcpt.Permanent() && aboutRecipient(rcpt):
		a.say(pipeline.AnswerRefused, words)
	case rcpt.Code == 421 || rcpt.Code == 0:
		return moveOn, a.failing(s, d, rcpt, err, atRcpt)
	default:
		a.say(pipeline.AnswerLater, words)
	}
	return settled, nil
}

// say ends the question.
func (a *attempt) say(answer pipeline.RecipientAnswer, why string) {
	a.question.answer, a.question.why = answer, why
	a.answered, a.open = true, a.open[:0]
}

// aboutRecipient reports whether a permanent refusal of RCPT would be one of a message too: not a full mailbox, which is there and may have
// room by then, and not what the server says of our manners or of a login that it wants.
func aboutRecipient(r wire.Reply) bool {
	switch {
	case tooMany(r), r.Code < 530, r.Code == 530, r.Code == 535, r.Code == 538:
		return false
	}
	return r.Status != "5.2.2" && r.Status != "5.2.3" && (r.Code != 552 || r.Status == "5.1.1")
}
