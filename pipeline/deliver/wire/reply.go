package wire

import (
	"bytes"
	"errors"
	"strconv"
)

// Bounds of what is read of a reply. RFC 5321 section 4.5.3.1.5 allows 512 octets a line; servers with long policy texts exceed
// that, and nobody needs this much.
const (
	maxReplyLine  = 8 << 10
	maxReply      = 64 << 10
	maxReplyLines = 128
	maxReplyText  = 500 // of what is handed on
)

// Reply is what a server answered. The zero Reply means that it did not.
type Reply struct {
	Code   int    // 200 to 559
	Status string // enhanced status code (RFC 3463) of the same class, "5.1.1", or "" where it said none
	Text   string // the rest: its lines with blanks between them, printable ASCII, at most 500 octets
}

// OK reports a positive reply (2yz).
func (r Reply) OK() bool { return r.Code/100 == 2 }

// Temporary reports 4yz: the same again later may work.
func (r Reply) Temporary() bool { return r.Code/100 == 4 }

// Permanent reports 5yz: the same again will not work.
func (r Reply) Permanent() bool { return r.Code/100 == 5 }

// String returns the reply as a DSN and a trace show it: "550 5.1.1 No such user".
func (r Reply) String() string {
	if r.Code == 0 {
		return ""
	}
	b := make([]byte, 0, 16+len(r.Text))
	b = strconv.AppendInt(b, int64(r.Code), 10)
	if r.Status != "" {
		b = append(append(b, ' '), r.Status...)
	}
	if r.Text != "" {
		b = append(append(b, ' '), r.Text...)
	}
	return string(b)
}

// errSyntax is the cause of a *ProtocolError.
var (
	errSyntax   = errors.New("not an SMTP reply")
	errCodes    = errors.New("a reply with different codes")
	errTooLong  = errors.New("a line of a reply is too long")
	errTooMuch  = errors.New("a reply is too long")
	errInjected = errors.New("octets behind the reply to STARTTLS, from before the handshake")
	errClass    = errors.New("a reply of a class that does not belong here")
)

// ProtocolError says that the peer does not speak SMTP, or not as it must.
type ProtocolError struct {
	What error
	Got  string // the beginning of what it said, clean, or ""
}

func (e *ProtocolError) Error() string {
	if e.Got == "" {
		return e.What.Error()
	}
	return e.What.Error() + ": " + strconv.Quote(e.Got)
}

func (e *ProtocolError) Unwrap() error { return e.What }

// parser takes the lines of one reply (RFC 5321 section 4.2).
type parser struct {
	code   int
	lines  int
	size   int
	status string
	text   []byte
	each   func(line []byte) // gets the text of each line, raw, without code; may be nil
}

// line takes one line without its end and reports whether it is the last one.
func (p *parser) line(line []byte) (last bool, err error) {
	p.lines++
	p.size += len(line) + 2
	if p.lines > maxReplyLines || p.size > maxReply {
		return false, &ProtocolError{What: errTooMuch, Got: string(p.text)}
	}
	code, more, text, ok := splitReply(line)
	if !ok {
		return false, &ProtocolError{What: errSyntax, Got: cleaned(line, 80)}
	}
	if p.lines > 1 && code != p.code {
		return false, &ProtocolError{What: errCodes, Got: cleaned(line, 80)}
	}
	p.code = code
	if p.each != nil {
		p.each(text)
	}
	if status, rest := splitStatus(text, code/100); status != nil {
		if p.status == "" {
			p.status = string(status)
		}
		text = rest
	}
	if len(p.text) < maxReplyText && len(text) > 0 {
		if len(p.text) > 0 {
			p.text = append(p.text, ' ')
		}
		p.text = appendClean(p.text, text, maxReplyText)
	}
	return !more, nil
}

// reply returns what was read, after the last line.
func (p *parser) reply() Reply {
	return Reply{Code: p.code, Status: p.status, Text: string(bytes.TrimRight(p.text, " "))}
}

// splitReply reads "250-text", "250 text" and "250". Codes of classes 2 to 5 are replies to a client; the second digit
// is 0 to 5 (RFC 5321 section 4.2), and other digits are let through, since nothing hangs on them.
func splitReply(line []byte) (code int, more bool, text []byte, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, false, nil, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, false, nil, true
	}
	switch line[3] {
	case ' ':
		return code, false, line[4:], true
	case '-':
		return code, true, line[4:], true
	}
	return 0, false, nil, false
}

// splitStatus takes an enhanced status code (RFC 2034 section 4) of the class off the front of a reply's text.
func splitStatus(text []byte, class int) (status, rest []byte) {
	if len(text) < 5 || int(text[0])-'0' != class || text[1] != '.' {
		return nil, text
	}
	i := 2
	for part := range 2 {
		start := i
		for i < len(text) && digit(text[i]) {
			i++
		}
		if n := i - start; n == 0 || n > 3 {
			return nil, text
		}
		if part == 0 {
			if i == len(text) || text[i] != '.' {
				return nil, text
			}
			i++
		}
	}
	if i < len(text) && text[i] != ' ' {
		return nil, text
	}
	return text[:i], bytes.TrimLeft(text[i:], " ")
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// appendClean appends what a peer wrote to dst, as printable ASCII, up to limit octets in all. Other octets become "?", in a row one.
func appendClean(dst, text []byte, limit int) []byte {
	odd := false
	for _, c := range text {
		if len(dst) >= limit {
			break
		}
		if c == '\t' {
			c = ' '
		}
		if c < ' ' || c > '~' {
			if odd {
				continue
			}
			c = '?'
			odd = true
		} else {
			odd = false
		}
		dst = append(dst, c)
	}
	return dst
}

func cleaned(text []byte, limit int) string { return string(appendClean(nil, text, limit)) }
