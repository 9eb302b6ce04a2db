package deliver

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// prepare writes the addresses as they are sent, and gives an answer to those that no server need be asked about.
func (a *attempt) prepare() {
	p := a.p
	a.sender = asciiDomain(p.Sender, "")
	a.recipients = make([]wire.Recipient, len(p.Recipients))
	a.outcomes = make([]pipeline.Outcome, len(p.Recipients))
	a.open = make([]int, 0, len(p.Recipients))
	a.utf8 = !ascii(a.sender) || p.Params.SMTPUTF8 && a.content.HeaderUTF8
	refused, status := "", ""
	if err := wire.CheckAddress(a.sender); err != nil {
		refused, status = "the sender cannot be sent: "+clean(err.Error()), "5.1.7"
	} else if a.content.Bare {
		refused, status = "the message cannot be sent: "+wire.ErrBare.Error(), "5.6.11"
	}
	for i := range p.Recipients {
		r := &p.Recipients[i]
		a.recipients[i] = wire.Recipient{Address: asciiDomain(r.Address, p.Domain), Notify: r.Params.Notify, ORcpt: r.Params.ORcpt}
		text, code := refused, status
		if text == "" {
			if err := wire.CheckAddress(a.recipients[i].Address); err != nil {
				text, code = "the address cannot be sent: "+clean(err.Error()), "5.1.3"
			}
		}
		if text != "" {
			a.outcomes[i] = pipeline.Outcome{Kind: pipeline.Failed, Text: text, Start: a.start, Status: code}
			continue
		}
		a.open = append(a.open, i)
	}
}

// asciiDomain writes the domain of an address in A-labels (RFC 5891), as known if that is not "". What has none stays.
func asciiDomain(address, known string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 || ascii(address[at:]) {
		return address
	}
	if known != "" && ascii(known) {
		return address[:at+1] + known
	}
	if domain, err := idna.Lookup.ToASCII(address[at+1:]); err == nil {
		return address[:at+1] + domain
	}
	return address
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// verdict is what came of a visit to a server.
type verdict uint8

const (
	settled verdict = iota // everybody has an answer, or the server has said all it will say
	moveOn                 // some have none, and the next server may have
	stale                  // the connection was dead before anything was said on it, or of no use: another one is made
	spent                  // the connection has had all its transactions, and some recipients need another
)

// transact makes as many transactions as it takes on one connection, until the server has taken the message for somebody: that has
// to be durable before the next one (RULES B8), and the recipients who are left come again.
func (a *attempt) transact(s *session, d *dialer) (verdict, *trouble) {
	limit := max(1, a.config.MaxRecipients)
	if n := s.conn.Extensions.RcptMax; n > 0 {
		limit = min(limit, n)
	}
	for a.left() > 0 {
		if s.taken > 0 {
			limit = min(limit, s.taken)
		}
		batch := a.fitting(s, d, limit)
		if len(batch) == 0 {
			continue // whoever was left has got an answer
		}
		if s.conn.Used == 0 && !s.conn.Usable() { // another one would do no better, and another, until there is no time left
			return moveOn, d.lost(atHello.String(), errClosed, "4.4.2")
		}
		if s.conn.Used > 0 && (!s.conn.Usable() || s.conn.Used >= s.most) {
			return spent, nil
		}
		t := a.transaction(s, batch)
		first := s.reused
		result := s.conn.Send(&t)
		s.reused = false
		if result.NoBDAT && !d.whole {
			d.whole = true
			return stale, nil
		}
		if first && result.Mail.Code == 0 && result.Err != nil || first && result.Mail.Code == 421 {
			return stale, nil
		}
		before, taken := a.left(), a.taken
		if t := a.apply(s, d, batch, &result); t != nil {
			return moveOn, t
		}
		if a.ours != nil {
			return settled, nil
		}
		if a.taken > taken {
			a.postpone()
			return settled, nil
		}
		if a.left() == before { // not one more: it would go on like this
			return moveOn, d.trouble("it takes no more recipients", "4.5.3")
		}
	}
	return settled, nil
}

// postpone leaves those without an outcome to another parcel.
func (a *attempt) postpone() {
	for _, i := range a.open {
		a.outcomes[i] = pipeline.Outcome{
			Kind: pipeline.Delayed, Again: true, Text: "follows in another transaction", Status: "4.5.3", Start: a.start,
		}
	}
	a.open = a.open[:0]
}

// fitting returns the next recipients for this server. Those whose mail it cannot take as it is get their answer now (RULES A6):
// for good, unless it closed at EHLO, as a server does that has no time for us.
func (a *attempt) fitting(s *session, d *dialer, limit int) []int {
	x := &s.conn.Extensions
	text, status, kind := "", "", pipeline.Failed
	if s.old {
		kind = pipeline.Delayed
	}
	switch {
	case x.Size > 0 && a.content.Size > x.Size:
		text, status = fmt.Sprintf("the message has %d octets, and it takes %d", a.content.Size, x.Size), "5.3.4"
	case a.content.EightBit && !x.EightBit && !a.config.Assume8Bit:
		text, status = "the message has 8-bit content, and it does not offer 8BITMIME", "5.6.3"
	case a.utf8 && !x.UTF8:
		text, status = "the message has internationalized addresses or header fields, and it does not offer SMTPUTF8", "5.6.7"
	}
	for _, i := range a.open {
		switch {
		case status != "":
			a.settle(i, s, d, kind, text, status, wire.Reply{})
		case !x.UTF8 && !ascii(a.recipients[i].Address):
			a.settle(i, s, d, kind, "the address is internationalized, and it does not offer SMTPUTF8", "5.6.7", wire.Reply{})
		}
	}
	a.close()
	return a.open[:min(limit, len(a.open))]
}

// settle gives a recipient an outcome. close takes those who have one out of open.
func (a *attempt) settle(i int, s *session, d *dialer, kind pipeline.OutcomeKind, text, status string, reply wire.Reply) {
	line := text
	if line == "" {
		line = reply.String()
	}
	line = s.name + ": " + line
	if s.note != "" {
		line += " (" + s.note + ")"
	}
	a.outcomes[i] = pipeline.Outcome{
		Kind: kind, Text: line, Start: a.start, Remote: d.target.String(), Reply: reply.String(), Status: ofKind(status, kind), TLS: s.tls,
		Relayed: kind == pipeline.Delivered && !s.conn.Extensions.DSN && !s.key.lmtp,
	}
	a.answered = true
	if kind == pipeline.Delivered {
		a.fine = true
		a.taken++
	}
	if slowing(reply) {
		a.slow = s.name + ": " + reply.String()
	}
}

// close forgets the recipients who have an outcome.
func (a *attempt) close() {
	kept := a.open[:0]
	for _, i := range a.open {
		if a.outcomes[i].Kind == 0 {
			kept = append(kept, i)
		}
	}
	a.open = kept
}

// transaction is what is sent to the recipients of a batch.
func (a *attempt) transaction(s *session, batch []int) wire.Transaction {
	p := a.p
	t := wire.Transaction{
		Sender: a.sender, Ret: p.Params.Ret, EnvID: p.Params.EnvID, RequireTLS: p.Params.TLS, Content: a.content,
		EightBit: a.content.EightBit, UTF8: a.utf8 || p.Params.SMTPUTF8 && a.content.EightBit,
	}
	if len(batch) == len(a.recipients) {
		t.Recipients = a.recipients
	} else {
		t.Recipients = make([]wire.Recipient, len(batch))
		for n, i := range batch {
			t.Recipients[n] = a.recipients[i]
		}
	}
	for _, i := range batch {
		t.UTF8 = t.UTF8 || !ascii(a.recipients[i].Address)
	}
	return t
}

// apply turns what a server said into outcomes. A trouble leaves those without one to the next server.
func (a *attempt) apply(s *session, d *dialer, batch []int, r *wire.Result) *trouble {
	defer a.close()
	if m := r.Mail; m.Permanent() && !s.lacksTLS(m) {
		for _, i := range a.open { // those of further transactions too: the sender is the same
			a.settle(i, s, d, pipeline.Failed, "", statusOf(m, atMail), m)
		}
		return nil
	}
	if !r.Mail.OK() {
		return a.failing(s, d, r.Mail, r.Err, atMail)
	}
	accepted, refused := 0, false
	for n := range batch {
		if r.Rcpt[n].OK() {
			accepted++
		}
		refused = refused || r.Rcpt[n].Permanent() && !tooMany(r.Rcpt[n])
	}
	var goodbye *trouble
	for n, i := range batch {
		reply, at := r.Rcpt[n], atRcpt
		switch {
		case tooMany(reply) && (accepted > 0 || refused): // in another transaction
			s.taken = accepted
		case tooMany(reply): // also as 552, which means never otherwise (RFC 5321 section 4.5.3.1.10)
			a.settle(i, s, d, pipeline.Delayed, "", statusOf(reply, at), reply)
		case reply.Permanent() && !s.lacksTLS(reply):
			a.settle(i, s, d, pipeline.Failed, "", statusOf(reply, at), reply)
		case reply.Code == 421, reply.Permanent():
			goodbye = a.failing(s, d, reply, nil, at)
		case reply.Temporary():
			a.settle(i, s, d, pipeline.Delayed, "", statusOf(reply, at), reply)
		case reply.OK():
			if t := a.fate(i, n, s, d, r); t != nil && (goodbye == nil || goodbye.reply.Code == 0) {
				goodbye = t
			}
		}
	}
	if goodbye == nil && r.Err != nil && a.ours == nil && accepted == 0 {
		goodbye = a.failing(s, d, wire.Reply{}, r.Err, atRcpt)
	}
	return goodbye
}

// fate gives the outcome to a recipient whom the server accepted.
func (a *attempt) fate(i, n int, s *session, d *dialer, r *wire.Result) *trouble {
	reply := r.Answer(n)
	if reply.Code == 0 && (r.Data.Temporary() || r.Data.Permanent()) {
		reply = r.Data
	}
	switch {
	case reply.OK() && r.Ended: // only then: a 250 in another place takes nothing
		a.settle(i, s, d, pipeline.Delivered, "", statusOf(reply, atData), reply)
	case reply.Permanent():
		a.settle(i, s, d, pipeline.Failed, "", statusOf(reply, atData), reply)
	case reply.Code == 421 && !r.Ended:
		return a.failing(s, d, reply, r.Err, atData)
	case reply.Temporary():
		a.settle(i, s, d, pipeline.Delayed, "", statusOf(reply, atData), reply)
	case r.Ended:
		// RFC 5321 section 4.5.3.2.6 and RFC 1047: nobody knows. Another server might deliver it a second time.
		text := "the message was sent, and then there was no answer: it may have been delivered (" + cause(orClosed(r.Err)) + ")"
		a.settle(i, s, d, pipeline.Delayed, text, "4.4.2", wire.Reply{})
	default:
		var ours *wire.ContentError
		if errors.As(r.Err, &ours) {
			a.ours = ours
			return nil
		}
		return a.failing(s, d, wire.Reply{}, r.Err, atData)
	}
	return nil
}

var errClosed = errors.New("the connection was closed")

func orClosed(err error) error {
	if err == nil {
		return errClosed
	}
	return err
}

// failing is a server that does not go on: the next one may.
func (a *attempt) failing(s *session, d *dialer, reply wire.Reply, err error, at moment) *trouble {
	var t *trouble
	if reply.Code != 0 {
		t = d.trouble(reply.String(), statusOf(reply, at))
		t.reply = reply
		if t.pace = pipeline.PaceSame; slowing(reply) {
			t.pace = pipeline.PaceSlow
		}
	} else {
		// It answered so far: what it dropped the connection for may be this message, or its recipient. Others go on, with care.
		t = d.lost(at.String(), orClosed(err), "4.4.2")
		t.pace = pipeline.PaceSlow
	}
	t.tls = s.tls
	if s.note != "" {
		t.text += " (" + s.note + ")"
	}
	return t
}
