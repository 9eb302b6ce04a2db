package dsn

import (
	"fmt"
	"strings"
	"time"
)

// partText writes the part for people.
func (b *builder) partText() {
	text := b.text()
	if isASCII(text) {
		b.part("text/plain; charset=us-ascii", "", "What happened")
		b.out.WriteString(text)
	} else {
		b.part("text/plain; charset=utf-8", "quoted-printable", "What happened")
		writeQuoted(&b.out, []byte(text))
	}
	b.line("")
}

// text is wrapped by hand; every line ends with CRLF.
func (b *builder) text() string {
	var t text
	t.line("This is the mail server %s.", hostWord(b.r.ReportingMTA))
	t.line("")
	for _, group := range []struct {
		action Action
		one    string
		many   string
	}{
		{Failed, "Your message could not be delivered to this address:", "Your message could not be delivered to these %d addresses:"},
		{Delayed, "Your message has not reached this address yet:", "Your message has not reached these %d addresses yet:"},
		{Delivered, "Your message was delivered to this address:", "Your message was delivered to these %d addresses:"},
		{Relayed, "For this address, a server has your message that sends no reports:",
			"For these %d addresses, servers have your message that send no reports:"},
		{Expanded, "Your message was sent on to the members of this list:", "Your message was sent on to the members of these %d lists:"},
	} {
		b.group(&t, group.action, group.one, group.many)
	}
	b.about(&t)
	return t.String()
}

func (b *builder) group(t *text, action Action, one, many string) {
	var list []*Recipient
	for i := range b.told {
		if b.told[i].Action == action {
			list = append(list, &b.told[i])
		}
	}
	switch len(list) {
	case 0:
		return
	case 1:
		t.line("%s", one)
	default:
		t.line(many, len(list))
	}
	t.line("")
	var until time.Time
	for _, rcpt := range list {
		t.line("    %s", cleanUTF8(rcpt.Address, 320))
		t.indented(explain(rcpt))
		if rcpt.Diagnostic != "" {
			who := "The other server"
			if host := clean(rcpt.RemoteMTA, 255); host != "" {
				who = "The server " + host
			}
			t.indented(who + " said: " + cleanUTF8(rcpt.Diagnostic, 500))
		}
		t.line("")
		if rcpt.WillRetryUntil.After(until) {
			until = rcpt.WillRetryUntil
		}
	}
	switch action {
	case Failed:
		t.line("It will not be tried again. If the message still matters, please correct")
		t.line("what is wrong and send it once more.")
	case Delayed:
		if until.IsZero() {
			t.line("You need not do anything: it is tried again from time to time.")
		} else {
			t.line("You need not do anything: it is tried again until %s.", until.Format("2 Jan 2006 15:04 -0700"))
		}
		t.line("You will be told if it fails in the end.")
	default:
		return
	}
	t.line("")
}

// about says which message this is about.
func (b *builder) about(t *text) {
	t.line("The message:")
	if b.original.subject != "" {
		t.line("    Subject:  %s", b.original.subject)
	}
	if !b.r.Arrival.IsZero() {
		t.line("    Received: %s", b.r.Arrival.Format("2 Jan 2006 15:04:05 -0700"))
	}
	if b.original.messageID != "" {
		t.line("    ID:       %s", b.original.messageID)
	}
	if b.r.QueueID != "" {
		t.line("    Queue ID: %s", clean(b.r.QueueID, 40))
	}
	t.line("")
	switch {
	case b.r.Original == nil:
		t.line("A report for programs is attached.")
	case b.original.full:
		t.line("A report for programs and the message itself are attached.")
	default:
		t.line("A report for programs and the header of the message are attached.")
	}
}

// text collects lines.
type text struct{ strings.Builder }

func (t *text) line(format string, args ...any) {
	fmt.Fprintf(&t.Builder, format, args...)
	t.WriteString("\r\n")
}

// indented writes a sentence below an address, wrapped.
func (t *text) indented(s string) {
	const width = 75
	line := "       "
	for _, word := range strings.Fields(s) {
		if len(line)+1+len(word) > width && strings.TrimSpace(line) != "" {
			t.line("%s", line)
			line = "       "
		}
		line += " " + word
	}
	if strings.TrimSpace(line) != "" {
		t.line("%s", line)
	}
}

// explain says in a sentence what a recipient's status means: our own words if the caller has some, else by the status
// code (RFC 3463 section 3).
func explain(rcpt *Recipient) string {
	if rcpt.Why != "" {
		return cleanUTF8(rcpt.Why, 300)
	}
	if rcpt.Action != Failed && rcpt.Action != Delayed {
		return ""
	}
	code := status(rcpt)
	_, code, _ = strings.Cut(code, ".")
	if s, ok := meanings[code]; ok {
		return s
	}
	subject, _, _ := strings.Cut(code, ".")
	if s, ok := meanings[subject]; ok {
		return s
	}
	return "The reason is not known."
}

// meanings are for subject and detail of a status code, or for the subject alone.
var meanings = map[string]string{
	"1":    "There is something wrong with the address.",
	"1.1":  "There is no such mailbox. Please check the spelling of the address.",
	"1.2":  "There is no such domain. Please check the part of the address after the @.",
	"1.3":  "This is not a valid address.",
	"1.6":  "The person has moved and left no new address.",
	"1.8":  "The other server does not accept your address as a sender.",
	"1.10": "This domain accepts no mail.",
	"2":    "There is something wrong with the mailbox.",
	"2.1":  "The mailbox is out of use.",
	"2.2":  "The mailbox is full.",
	"2.3":  "The message is too large for this mailbox.",
	"3":    "The other server has a problem.",
	"3.4":  "The message is too large for the other server.",
	"4":    "The other server could not be reached.",
	"4.4":  "It could not be found out which server takes mail for this domain.",
	"4.6":  "The message went in a circle.",
	"4.7":  "It could not be delivered in all the time that it was tried.",
	"5":    "The two servers did not understand each other.",
	"6":    "The other server cannot take a message with this content.",
	"6.3":  "The other server takes no 8-bit content.",
	"6.7":  "The other server takes no addresses with characters beyond ASCII.",
	"7":    "The other server refused the message.",
	"7.1":  "The other server refused the message by its rules.",
}
