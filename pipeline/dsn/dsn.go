// Package dsn writes delivery status notifications: the mail that tells a sender that a message failed, is late, or
// arrived. It only writes; who is told, when and by whom is the queue's business.
//
// What it promises:
//
//   - Never a report about a message with the null sender (RFC 5321 section 6.1), never one that NOTIFY did not ask for
//     (RFC 3461 section 4.1), never one that begins another: the report itself is for the null sender, which its
//     caller must use, and carries Auto-Submitted (RFC 3834).
//   - The original's header is returned, and its body only if RET=FULL was said, something failed and all of it fits in
//     64 KiB (RULES A8). Bcc fields are left out.
//   - What others wrote (remote replies, addresses, the original) cannot add a field or a part, break a line length, or
//     put control octets before a reader.
//   - The result is 7-bit unless Params says otherwise, with CRLF and lines of at most 998 octets.
//
// The first part is for people: what happened to whom, in plain sentences, and whether they have to do something.
//
// RFCs: 3461 (envelope), 3464 (message/delivery-status), 6522 (multipart/report), 6533 (UTF-8 addresses), 3463 and 5248
// (status codes), 3834. It reads hostile octets: the original's header and remote replies.
package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Action is what became of a recipient (RFC 3464 section 2.3.3).
type Action string

// The actions.
const (
	Failed    Action = "failed"    // it will not be tried again
	Delayed   Action = "delayed"   // it will
	Delivered Action = "delivered" // it is in the mailbox
	Relayed   Action = "relayed"   // a server has it that does not send reports
	Expanded  Action = "expanded"  // it went to the members of a list
)

// Errors that say that there is nothing to send.
var (
	ErrNullSender = errors.New("the message has no sender whom one could tell")
	ErrNotWanted  = errors.New("the sender does not want to be told")
	ErrAddress    = errors.New("the sender's address is not one that can be told")
)

// Report is what is told about one message.
type Report struct {
	ID           string // of the report itself, unique: it becomes its Message-ID and boundary
	ReportingMTA string // our host name
	Postmaster   string // address in From; "": MAILER-DAEMON at ReportingMTA
	Date         time.Time

	Sender     string    // MAIL FROM of the original: the report's recipient
	QueueID    string    // of the original
	Arrival    time.Time // of the original
	EnvelopeID string    // ENVID, decoded, or ""
	Ret        string    // "FULL", "HDRS" or ""
	SMTPUTF8   bool      // the original came with SMTPUTF8, so its sender can read UTF-8 (RFC 6533 section 3)
	Recipients []Recipient

	Original     io.ReaderAt // header and body as they arrived; nil: nothing is returned
	OriginalSize int64
}

// Recipient is what is told about one recipient. Recipients whose Notify does not ask for their Action are left out.
type Recipient struct {
	Address        string   // as given at RCPT, without angle brackets
	ORcpt          string   // ORCPT as sent, "rfc822;user@example.test", or ""
	Notify         []string // NOTIFY, or nothing
	Action         Action
	Status         string    // "5.1.1" (RFC 3463); "" or malformed: the action's class
	RemoteMTA      string    // name of the server that said Diagnostic, or ""
	Diagnostic     string    // its reply, "550 5.1.1 No such user", or ""
	Why            string    // our own sentence where there is no reply, or ""
	LastAttempt    time.Time // or zero
	WillRetryUntil time.Time // for Delayed, or zero
}

// Wanted reports whether NOTIFY asks for a report of this action; nothing said means failures and delays (RFC 3461
// section 4.1).
func Wanted(a Action, notify []string) bool {
	if len(notify) == 0 {
		return a == Failed || a == Delayed
	}
	word := "SUCCESS"
	switch a {
	case Failed:
		word = "FAILURE"
	case Delayed:
		word = "DELAY"
	}
	asked := false
	for _, n := range notify {
		if strings.EqualFold(n, "NEVER") {
			return false
		}
		asked = asked || strings.EqualFold(n, word)
	}
	return asked
}

// Params is what the report's own envelope has to say; its sender is null, its recipient Report.Sender.
type Params struct {
	EightBit bool // BODY=8BITMIME (RFC 6152)
	SMTPUTF8 bool // RFC 6531
}

// Write writes the report to w, header and body, lines ended by CRLF. It returns ErrNullSender or ErrNotWanted, and
// writes nothing, if nobody is to be told.
func Write(w io.Writer, r *Report) (Params, error) {
	if r.Sender == "" {
		return Params{}, ErrNullSender
	}
	told := wanted(r.Recipients)
	if len(told) == 0 {
		return Params{}, ErrNotWanted
	}
	if !plainAddress(r.Sender) || !r.SMTPUTF8 && !isASCII(r.Sender) {
		return Params{}, fmt.Errorf("write a report to %q: %w", clean(r.Sender, 100), ErrAddress)
	}
	original, err := returned(r, told)
	if err != nil {
		return Params{}, fmt.Errorf("read the original of %s: %w", clean(r.QueueID, 40), err)
	}
	b := builder{r: r, told: told, original: original}
	b.boundary = b.freeBoundary()
	b.header()
	b.partText()
	b.partStatus()
	b.partOriginal()
	b.line("--" + b.boundary + "--")
	_, err = w.Write(b.out.Bytes())
	if err != nil {
		return Params{}, fmt.Errorf("write a report: %w", err)
	}
	return Params{EightBit: hasEightBit(b.out.Bytes()), SMTPUTF8: r.SMTPUTF8 && b.international()}, nil
}

func wanted(all []Recipient) []Recipient {
	var told []Recipient
	for _, rcpt := range all {
		if Wanted(rcpt.Action, rcpt.Notify) {
			told = append(told, rcpt)
		}
	}
	return told
}

// builder puts one report together.
type builder struct {
	r        *Report
	told     []Recipient
	original returnedOriginal
	boundary string
	out      bytes.Buffer
}

func (b *builder) line(s string) {
	b.out.WriteString(s)
	b.out.WriteString("\r\n")
}

// field writes a header field if it has a value, folded at spaces.
func (b *builder) field(name, value string) {
	if value == "" {
		return
	}
	const width = 76
	b.out.WriteString(name)
	b.out.WriteByte(':')
	column := len(name) + 1
	for _, word := range strings.Fields(value) {
		if column > len(name)+1 && column+1+len(word) > width {
			b.out.WriteString("\r\n")
			column = 0
		}
		b.out.WriteByte(' ')
		column++
		for len(word) > 900 { // no text may make a line longer than 998 octets (RFC 5322 section 2.1.1)
			cut := runeStart(word, 900)
			b.out.WriteString(word[:cut] + "\r\n ")
			word, column = word[cut:], 1
		}
		b.out.WriteString(word)
		column += len(word)
	}
	b.out.WriteString("\r\n")
}

// international reports whether the report has UTF-8 in its fields (RFC 6533), which only a sender who used SMTPUTF8
// can have asked for.
func (b *builder) international() bool {
	if !b.r.SMTPUTF8 {
		return false
	}
	if !isASCII(b.r.Sender) {
		return true
	}
	for i := range b.told {
		if !isASCII(b.told[i].Address) || !isASCII(b.told[i].ORcpt) || !isASCII(decodeORcpt(b.told[i].ORcpt)) {
			return true
		}
	}
	return false
}

func (b *builder) header() {
	host := hostWord(b.r.ReportingMTA)
	from := b.r.Postmaster
	if from == "" || !plainAddress(from) {
		from = "MAILER-DAEMON@" + host
	}
	b.field("From", "Mail Delivery System <"+from+">")
	b.field("To", "<"+b.r.Sender+">")
	b.field("Subject", b.subject())
	b.field("Date", b.r.Date.Format(time.RFC1123Z))
	b.field("Message-ID", "<"+idWord(b.r.ID)+"@"+host+">")
	b.field("In-Reply-To", b.original.messageID)
	b.field("References", b.original.messageID)
	b.field("Auto-Submitted", "auto-replied")
	b.field("MIME-Version", "1.0")
	b.field("Content-Type", `multipart/report; report-type=delivery-status; boundary="`+b.boundary+`"`)
	if b.international() || b.original.full && hasEightBit(b.original.octets) {
		b.field("Content-Transfer-Encoding", "8bit")
	}
	b.line("")
	b.line("This is a report about the delivery of a message, in MIME format (RFC 3464).")
	b.line("")
}

func (b *builder) subject() string {
	switch b.strongest() {
	case Failed:
		return "Your message could not be delivered"
	case Delayed:
		return "Your message is delayed"
	case Relayed:
		return "Your message was passed on"
	default:
		return "Your message was delivered"
	}
}

// strongest is the action that the report is mainly about.
func (b *builder) strongest() Action {
	for _, a := range []Action{Failed, Delayed, Relayed} {
		if slices.ContainsFunc(b.told, func(r Recipient) bool { return r.Action == a }) {
			return a
		}
	}
	return Delivered
}

// freeBoundary is a line that does not occur in what is returned, although a stranger wrote that.
func (b *builder) freeBoundary() string {
	for i := 0; ; i++ {
		boundary := "=_" + idWord(b.r.ID) + "_" + strconv.Itoa(i) // at most 70 octets (RFC 2046 section 5.1.1)
		if !bytes.Contains(b.original.octets, []byte("--"+boundary)) {
			return boundary
		}
	}
}

// part begins a body part.
func (b *builder) part(contentType, encoding, description string) {
	b.line("--" + b.boundary)
	b.field("Content-Type", contentType)
	if encoding != "" {
		b.field("Content-Transfer-Encoding", encoding)
	}
	b.field("Content-Description", description)
	b.line("")
}
