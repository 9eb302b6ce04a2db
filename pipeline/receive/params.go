package receive

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sluicemail/sluice/pipeline"
)

// This file checks the parameters of MAIL and RCPT where the library would take what is wrong, refuse what is right, or say
// the wrong thing. What passes here passes there.

// Lengths of RFC 3461 sections 4.2 and 4.4.
const (
	maxEnvID = 100
	maxORcpt = 500
)

// parameter is one "KEY=value" or "KEY" of a command.
type parameter struct {
	key, value string
	set        bool // there was a "="
	bad        bool // there was more than one, nothing after it, or the key was there before
}

// parameters reads what follows a path, in the form of RFC 5321 section 4.1.2.
func parameters(text string) (list []parameter, ok bool) {
	if text != "" && text[0] != ' ' {
		return nil, false
	}
	for field := range strings.FieldsSeq(text) {
		key, value, set := strings.Cut(field, "=")
		if key == "" {
			return nil, false
		}
		p := parameter{strings.ToUpper(key), value, set, strings.Contains(value, "=") || set && value == ""}
		for _, have := range list {
			p.bad = p.bad || have.key == p.key
		}
		list = append(list, p)
	}
	return list, true
}

var (
	paramUnknown   = pipeline.Reply{Code: 555, Enhanced: "5.5.4", Text: "A parameter of MAIL is unknown"} // RFC 5321 section 4.1.1.11
	paramMalformed = pipeline.Reply{Code: 501, Enhanced: "5.5.4", Text: "A parameter of MAIL is malformed"}
	rcptUnknown    = pipeline.Reply{Code: 555, Enhanced: "5.5.4", Text: "A parameter of RCPT is unknown"}
	rcptMalformed  = pipeline.Reply{Code: 501, Enhanced: "5.5.4", Text: "A parameter of RCPT is malformed"}
	replyTooLarge  = pipeline.Reply{Code: 552, Enhanced: "5.3.4", Text: "The message is too large"}
	replyNeedsUTF8 = pipeline.Reply{Code: 553, Enhanced: "5.6.7", Text: "An address beyond ASCII needs SMTPUTF8"} // RFC 6531 section 3.5
)

// mailParams checks the parameters of MAIL. The zero Reply means that they are all right.
func (g *gate) mailParams(list []parameter) pipeline.Reply {
	utf8 := false
	for _, p := range list {
		good := true
		switch p.key {
		case "SIZE":
			// The library reads 32 bits; RFC 1870 section 3 has 20 digits.
			if n, err := strconv.ParseUint(p.value, 10, 64); digits(p.value) && (err != nil || n > 1<<32-1) {
				return replyTooLarge
			}
			good = digits(p.value)
		case "SMTPUTF8":
			utf8, good = true, !p.set
		case "REQUIRETLS": // RFC 8689 section 2: offered under TLS only
			if g.tls == nil {
				return paramUnknown
			}
			good = !p.set
		case "BODY":
			good = p.set
		case "RET":
			good = strings.EqualFold(p.value, "FULL") || strings.EqualFold(p.value, "HDRS")
		case "ENVID":
			good = len(p.value) <= maxEnvID && p.set && xtext(p.value)
		case "AUTH":
			if g.server.options.Protocol != Submission {
				return paramUnknown
			}
		default:
			return paramUnknown
		}
		if p.bad || !good {
			return paramMalformed
		}
	}
	if g.path.utf8 && !utf8 {
		return replyNeedsUTF8
	}
	return pipeline.Reply{}
}

// rcptParams checks the parameters of RCPT, keeps ORCPT as it was sent, and returns what the library is to see: it knows two
// of the types that ORCPT may have, and one who uses another is not to lose a message over it.
func (g *gate) rcptParams(list []parameter) (pass string, reply pipeline.Reply) {
	g.orcpt = ""
	for _, p := range list {
		switch p.key {
		case "NOTIFY": // whose list the library checks
			if !p.set || p.bad {
				return "", rcptMalformed
			}
			pass += " NOTIFY=" + p.value
		case "ORCPT":
			if p.bad || !validORcpt(p.value, g.session.tx.message.Params.SMTPUTF8) {
				return "", rcptMalformed
			}
			g.orcpt = p.value
		default:
			return "", rcptUnknown
		}
	}
	return pass, pipeline.Reply{}
}

// validORcpt reports whether a value is an original-recipient-address of RFC 3461 section 4.2 with RFC 6533 section 3.
func validORcpt(value string, smtputf8 bool) bool {
	kind, address, ok := strings.Cut(value, ";")
	if !ok || kind == "" || address == "" || len(value) > maxORcpt || strings.ContainsFunc(kind, notAtom) {
		return false
	}
	if strings.EqualFold(kind, "utf-8") {
		return utf8Address(address, smtputf8)
	}
	return xtext(address)
}

func notAtom(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\".[]`, r)
}

// xtext reports whether s is xtext (RFC 3461 section 4) for printable ASCII: what it stands for goes into fields of a
// notice.
func xtext(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			if i+2 >= len(s) {
				return false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil || n < ' ' || n > '~' || strings.ToUpper(s[i+1:i+3]) != s[i+1:i+3] {
				return false
			}
			i += 2
		case c <= ' ' || c > '~' || c == '=':
			return false
		}
	}
	return s != ""
}

// utf8Address reports whether s is utf-8-addr-xtext, or with raw also utf-8-addr-unitext (RFC 6533 section 3).
func utf8Address(s string, raw bool) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if strings.HasPrefix(s, `\x{`) {
			end := strings.IndexByte(s, '}')
			if end < 0 || end > len(`\x{10FFFF`) {
				return false
			}
			n, err := strconv.ParseUint(s[3:end], 16, 32)
			if err != nil || !unicode.IsPrint(rune(n)) {
				return false
			}
			s = s[end+1:]
			continue
		}
		switch {
		case r >= utf8.RuneSelf && (!raw || !unicode.IsPrint(r)), r <= ' ', r == 0x7f, r == '+', r == '=', r == '\\':
			return false
		}
		s = s[size:]
	}
	return true
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
