package dsn

import (
	"fmt"
	"io"
	"time"
)

// Kept is what the owner of an alias is told when mail could not be sent on to where it leads, and its sender must not be
// told because nobody has verified him (RULES A7): the message is in quarantine. With Plugin it is what postmaster is told when mail
// for an address fails that a plugin has added, of which the sender does not know.
type Kept struct {
	ID           string // of the letter itself, unique
	ReportingMTA string // our host name
	Postmaster   string // address in From; "": MAILER-DAEMON at ReportingMTA
	Date         time.Time

	Owner   string // to whom it goes
	Alias   string // the address that leads elsewhere, or was added
	Plugin  string // the plugin that added it, or ""
	Target  string // where to
	QueueID string // of the message in quarantine
	Sender  string // of the message, as it claims; "" is the null sender
	Arrival time.Time

	RemoteMTA  string // as in Recipient
	Diagnostic string
	Why        string
}

// WriteKept writes the letter to w, header and body, lines ended by CRLF. Like a report it is for the null sender. It
// returns ErrAddress if the owner's address can't be told.
func WriteKept(w io.Writer, k *Kept) (Params, error) {
	if !plainAddress(k.Owner) || !isASCII(k.Owner) {
		return Params{}, fmt.Errorf("write a letter to %q: %w", clean(k.Owner, 100), ErrAddress)
	}
	host := hostWord(k.ReportingMTA)
	from := k.Postmaster
	if from == "" || !plainAddress(from) {
		from = "MAILER-DAEMON@" + host
	}
	b := builder{r: &Report{}}
	b.field("From", "Mail Delivery System <"+from+">")
	b.field("To", "<"+k.Owner+">")
	if k.Plugin == "" {
		b.field("Subject", "Mail for "+clean(k.Alias, 100)+" could not be forwarded")
	} else {
		b.field("Subject", "A copy for "+clean(k.Alias, 100)+" could not be delivered")
	}
	b.field("Date", k.Date.Format(time.RFC1123Z))
	b.field("Message-ID", "<"+idWord(k.ID)+"@"+host+">")
	b.field("Auto-Submitted", "auto-generated")
	b.field("MIME-Version", "1.0")
	b.field("Content-Type", "text/plain; charset=us-ascii")
	b.line("")
	var t text
	k.text(&t)
	b.out.WriteString(t.String())
	if _, err := w.Write(b.out.Bytes()); err != nil {
		return Params{}, fmt.Errorf("write a letter: %w", err)
	}
	return Params{}, nil
}

func (k *Kept) text(t *text) {
	if k.Plugin == "" {
		t.line("A message for")
		t.line("    %s", clean(k.Alias, 320))
		t.line("could not be sent on to")
		t.line("    %s", clean(k.Target, 320))
	} else {
		t.line("A copy of a message could not be delivered to")
		t.line("    %s", clean(k.Alias, 320))
	}
	if k.Diagnostic != "" {
		who := "The other server"
		if host := clean(k.RemoteMTA, 255); host != "" {
			who = "The server " + host
		}
		t.indented(who + " said: " + clean(k.Diagnostic, 500))
	} else if k.Why != "" {
		t.indented(clean(k.Why, 300))
	}
	t.line("")
	if k.Plugin == "" {
		t.line("Nobody has verified that its sender is who he says, so he was not told. The")
		t.line("message is kept in quarantine; an administrator can release or remove it:")
	} else {
		t.indented("The plugin " + clean(k.Plugin, 100) + " has added this address. The sender does not know of it, so he was not told. " +
			"The copy is kept in quarantine; an administrator can release or remove it:")
	}
	t.line("    sluice quarantine show %s", clean(k.QueueID, 40))
	t.line("")
	if k.Plugin == "" {
		t.line("Please correct where the address leads. You are told once a day at most, also if")
		t.line("more messages fail.")
	} else {
		t.line("You are told once a day at most, also if more copies for this address fail.")
	}
	t.line("")
	t.line("The message:")
	t.line("    Sender:   <%s>", clean(k.Sender, 320))
	t.line("    Received: %s", k.Arrival.Format("2 Jan 2006 15:04:05 -0700"))
	t.line("    Queue ID: %s", clean(k.QueueID, 40))
}
