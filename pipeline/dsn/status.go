package dsn

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// partStatus writes the part for programs (RFC 3464 section 2): a block about the message, then one for each recipient.
func (b *builder) partStatus() {
	kind, encoding := "message/delivery-status", ""
	if b.international() {
		kind, encoding = "message/global-delivery-status", "8bit" // RFC 6533 section 4
	}
	b.part(kind, encoding, "Delivery report")
	b.field("Original-Envelope-Id", clean(b.r.EnvelopeID, 100))
	b.field("Reporting-MTA", "dns; "+hostWord(b.r.ReportingMTA))
	b.date("Arrival-Date", b.r.Arrival)
	if b.r.QueueID != "" {
		b.field("X-Sluice-Queue-ID", clean(b.r.QueueID, 40))
	}
	for i := range b.told {
		b.line("")
		b.recipientStatus(&b.told[i])
	}
	b.line("")
}

func (b *builder) recipientStatus(rcpt *Recipient) {
	b.field("Original-Recipient", b.originalRecipient(rcpt.ORcpt))
	b.field("Final-Recipient", b.typedAddress(rcpt.Address))
	b.field("Action", string(rcpt.Action))
	b.field("Status", status(rcpt))
	if host := clean(rcpt.RemoteMTA, 255); host != "" {
		b.field("Remote-MTA", "dns; "+host)
	}
	if rcpt.Diagnostic != "" {
		b.field("Diagnostic-Code", "smtp; "+b.readable(rcpt.Diagnostic, 1000))
	}
	b.date("Last-Attempt-Date", rcpt.LastAttempt)
	if rcpt.Action == Delayed {
		b.date("Will-Retry-Until", rcpt.WillRetryUntil)
	}
}

func (b *builder) date(name string, t time.Time) {
	if !t.IsZero() {
		b.field(name, t.Format(time.RFC1123Z))
	}
}

// status returns a status code of the action's class (RFC 3464 section 2.3.4). A failure may have one of class 4: it was
// temporary until the time was over.
func status(rcpt *Recipient) string {
	class, rest, found := strings.Cut(rcpt.Status, ".")
	subject, detail, found2 := strings.Cut(rest, ".")
	ok := found && found2 && number(subject) && number(detail)
	switch rcpt.Action {
	case Failed:
		if ok && (class == "4" || class == "5") {
			return rcpt.Status
		}
		return "5.0.0"
	case Delayed:
		if ok && class == "4" {
			return rcpt.Status
		}
		return "4.0.0"
	}
	if ok && class == "2" {
		return rcpt.Status
	}
	return "2.0.0"
}

func number(s string) bool {
	if s == "" || len(s) > 3 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// typedAddress is an address with its type. One in UTF-8 is written as it is in a report that may have UTF-8, else in
// the ASCII form of RFC 6533 section 3 (utf-8-addr-xtext).
func (b *builder) typedAddress(address string) string {
	address = cleanUTF8(address, 1000)
	switch {
	case isASCII(address):
		return "rfc822; " + address
	case b.international():
		return "utf-8; " + address
	}
	return "utf-8; " + escapeAddress(address)
}

// originalRecipient is ORCPT as it was before it was encoded for SMTP (RFC 3461 section 6.3 d).
func (b *builder) originalRecipient(orcpt string) string {
	kind, _, found := strings.Cut(orcpt, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if !found || kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(kind) > 60 {
		return ""
	}
	address := cleanUTF8(decodeORcpt(orcpt), 1000)
	switch {
	case address == "":
		return ""
	case isASCII(address):
		return kind + "; " + address
	case b.international():
		return "utf-8; " + address
	}
	return "utf-8; " + escapeAddress(address)
}

// decodeORcpt returns the address of an ORCPT: xtext undone (RFC 3461 section 4), and for the type utf-8 also the
// \x{HEX} of RFC 6533 section 3.
func decodeORcpt(orcpt string) string {
	kind, text, found := strings.Cut(orcpt, ";")
	if !found {
		return ""
	}
	text = decodeXtext(text)
	if strings.EqualFold(strings.TrimSpace(kind), "utf-8") {
		text = unescapeAddress(text)
	}
	return text
}

// decodeXtext undoes "+40"; what is no xtext stays as it is.
func decodeXtext(s string) string {
	if strings.IndexByte(s, '+') < 0 {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// escapeAddress writes what is not ASCII as \x{HEX}.
func escapeAddress(s string) string {
	var out strings.Builder
	for _, r := range s {
		if r > '~' || r == '\\' || r == '+' || r == '=' {
			out.WriteString(`\x{` + strings.ToUpper(strconv.FormatInt(int64(r), 16)) + `}`)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

func unescapeAddress(s string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x{`)
		out.WriteString(before)
		if !found {
			return out.String()
		}
		hex, rest, closed := strings.Cut(after, "}")
		n, err := strconv.ParseUint(hex, 16, 32)
		if !closed || err != nil || !utf8.ValidRune(rune(n)) {
			out.WriteString(`\x{`)
			s = after
			continue
		}
		out.WriteRune(rune(n))
		s = rest
	}
}

// readable is a stranger's text as this report may show it.
func (b *builder) readable(s string, limit int) string {
	if b.international() {
		return cleanUTF8(s, limit)
	}
	return clean(s, limit)
}
