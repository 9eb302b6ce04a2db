package deliver

import (
	"errors"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// moment is what a server's reply was to.
type moment uint8

const (
	atHello moment = iota
	atMail
	atRcpt
	atData // DATA, BDAT and the content
)

func (m moment) String() string {
	return [...]string{"before MAIL", "after MAIL", "after RCPT", "sending the content"}[m]
}

// statusOf returns the enhanced status code of a reply: its own, or what RFC 5248 and RFC 3463 have for the basic code.
func statusOf(r wire.Reply, at moment) string {
	if r.Status != "" {
		return r.Status
	}
	switch r.Code {
	case 421:
		return "4.3.2"
	case 450:
		return "4.2.0"
	case 452:
		if tooMany(r) {
			return "4.5.3"
		}
		return "4.3.1"
	case 454, 432:
		return "4.7.0"
	case 500:
		return "5.5.2"
	case 502, 503:
		return "5.5.1"
	case 501, 504, 555:
		return "5.5.4"
	case 521:
		return "5.3.2"
	case 530, 534, 538:
		return "5.7.0"
	case 535:
		return "5.7.8"
	case 550:
		return [...]string{"5.7.1", "5.7.1", "5.1.1", "5.7.1"}[at]
	case 551:
		return "5.1.6"
	case 552:
		if at == atRcpt {
			return "5.2.2"
		}
		return "5.3.4"
	case 553:
		if at == atMail {
			return "5.1.7"
		}
		return "5.1.3"
	case 554:
		if at == atHello {
			return "5.3.2"
		}
		return "5.0.0"
	case 556:
		return "5.1.10"
	}
	return [...]string{"5.0.0", "", "2.0.0", "5.0.0", "4.0.0", "5.0.0"}[min(r.Code/100, 5)]
}

// statusOfDNS returns the code of a domain or server to which no mail can go.
func statusOfDNS(err error) string {
	switch {
	case errors.Is(err, errNull):
		return "5.1.10" // RFC 7505 section 4.2
	case errors.Is(err, mx.ErrNoDomain):
		return "5.1.2"
	case errors.Is(err, mx.ErrLoop), errors.Is(err, mx.ErrSelf):
		return "5.4.6"
	case errors.Is(err, errVia):
		return "5.3.5"
	}
	return "5.4.4"
}

// ofKind makes the class of a status code that of the outcome: what is tried again is no 5.
func ofKind(status string, kind pipeline.OutcomeKind) string {
	class := byte(0)
	switch kind {
	case pipeline.Delivered:
		class = '2'
	case pipeline.Delayed:
		class = '4'
	case pipeline.Failed:
		class = '5'
	}
	if len(status) < 2 || class == 0 || status[0] == class {
		return status
	}
	return string(class) + status[1:]
}

// lacksTLS reports whether a server refuses mail for want of TLS (530, RFC 3207 section 4; X.7.10 in the registry of RFC 5248) which we
// tried to start and could not: the next time it may be there.
func (s *session) lacksTLS(r wire.Reply) bool {
	return s.note != "" && s.state == nil && (r.Code == 530 || r.Status == "5.7.10")
}

// slowing reports whether a reply asks for less: 421 (too many connections, in most cases; RFC 5321 section 3.8),
// 4.7.x (rates and reputation) and 4.3.2 (RFC 3463).
func slowing(r wire.Reply) bool {
	return r.Temporary() && (r.Code == 421 || strings.HasPrefix(r.Status, "4.7.") || r.Status == "4.3.2")
}

// tooMany reports whether a server takes no more recipients in this transaction (RFC 5321 section 4.5.3.1.10): 452, which means other
// things too.
func tooMany(r wire.Reply) bool {
	if r.Code != 452 && r.Code != 451 && r.Code != 552 {
		return false
	}
	if r.Status != "" {
		return r.Status[1:] == ".5.3"
	}
	text := strings.ToLower(r.Text)
	return strings.Contains(text, "too many") && strings.Contains(text, "recipient")
}

// clean makes text of ours that may quote others one printable line.
func clean(text string) string {
	const limit = 400
	var b strings.Builder
	for _, c := range text {
		if b.Len() >= limit {
			break
		}
		if c < ' ' || c > '~' {
			c = '?'
		}
		b.WriteRune(c)
	}
	return b.String()
}
