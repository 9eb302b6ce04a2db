package bayes

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Bounds of what is read of a message. All are counts of work that a sender can cause, so none
// of them is a setting.
const (
	maxContent = 256 << 10 // octets of a message that are looked at
	maxHeader  = 64 << 10  // octets of a header, of the message or of a part
	maxFields  = 500       // fields of a header
	maxDepth   = 8         // multiparts and messages inside each other
	maxParts   = 100       // parts that are looked at
	maxText    = 128 << 10 // octets of decoded text of one part
)

// field is a header field: its name in small letters and its unfolded value, octets as sent.
type field struct{ name, value string }

// splitHeader cuts a message or part at the first empty line. Lines may end in CRLF or LF: a
// part that was decoded from base64 knows no better. A line that is no field and continues none
// ends the header, as readers do it, and belongs to the body.
func splitHeader(text []byte) (fields []field, body []byte) {
	for taken := 0; len(text) > 0 && taken < maxHeader && len(fields) < maxFields; {
		line, rest := cutLine(text)
		if len(line) == 0 {
			return fields, rest
		}
		if (line[0] == ' ' || line[0] == '\t') && len(fields) > 0 {
			last := &fields[len(fields)-1]
			last.value += " " + string(bytes.TrimSpace(line))
		} else {
			name, value, ok := bytes.Cut(line, []byte(":"))
			name = bytes.TrimRight(name, " \t")
			if !ok || len(name) == 0 || len(name) > 80 || bytes.ContainsAny(name, " \t") {
				if taken == 0 && bytes.HasPrefix(line, []byte("From ")) { // of an mbox
					taken += len(line) + 1
					text = rest
					continue
				}
				return fields, text
			}
			fields = append(fields, field{strings.ToLower(string(name)), string(bytes.TrimSpace(value))})
		}
		taken += len(line) + 1
		text = rest
	}
	return fields, text
}

// cutLine returns the first line without its end, and what follows.
func cutLine(text []byte) (line, rest []byte) {
	i := bytes.IndexByte(text, '\n')
	if i < 0 {
		return bytes.TrimSuffix(text, []byte("\r")), nil
	}
	return bytes.TrimSuffix(text[:i], []byte("\r")), text[i+1:]
}

// get returns the value of the first field of that name.
func get(fields []field, name string) string {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// part is a leaf of a message.
type part struct {
	mediaType   string // "text/html", small letters
	charset     string // small letters, or ""
	name        string // file name, as sent, or ""
	disposition string // first word of Content-Disposition, small letters
	encoding    string // small letters
	text        []byte // of text parts: decoded, in UTF-8 as far as the charset is known
}

// leaves calls visit for each leaf of a message whose header was split off. It believes no more of
// MIME than it must: a multipart whose boundary never comes is a leaf of text.
func leaves(fields []field, body []byte, depth int, left *int, visit func(part)) {
	if *left <= 0 {
		return
	}
	*left--
	mediaType, params := contentType(get(fields, "content-type"))
	encoding, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(get(fields, "content-transfer-encoding"))), " ")
	if depth < maxDepth {
		if boundary := params["boundary"]; strings.HasPrefix(mediaType, "multipart/") && boundary != "" {
			if multipart(body, boundary, func(text []byte) {
				inner, rest := splitHeader(text)
				leaves(inner, rest, depth+1, left, visit)
			}) {
				return
			}
			mediaType = "text/plain"
		}
		if mediaType == "message/rfc822" {
			inner, rest := splitHeader(transferDecode(body, encoding))
			leaves(inner, rest, depth+1, left, visit)
			return
		}
	}
	disposition, dparams := contentType(get(fields, "content-disposition"))
	p := part{mediaType: mediaType, charset: strings.ToLower(params["charset"]), disposition: disposition, encoding: encoding, name: dparams["filename"]}
	if p.name == "" {
		p.name = params["name"]
	}
	if strings.HasPrefix(mediaType, "text/") && disposition != "attachment" || disposition == "attachment" && mediaType == "text/html" {
		p.text = toUTF8(transferDecode(body, encoding), p.charset)
	}
	visit(p)
}

// multipart calls visit for each part between boundary lines (RFC 2046 section 5.1.1) and reports
// whether there was any.
func multipart(body []byte, boundary string, visit func([]byte)) bool {
	delimiter := append([]byte("--"), boundary...)
	start, any := -1, false
	for at := 0; at < len(body); {
		next := len(body)
		if i := bytes.IndexByte(body[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		if line := body[at:next]; bytes.HasPrefix(line, delimiter) {
			tail := bytes.TrimRight(line[len(delimiter):], " \t\r\n")
			if len(tail) == 0 || string(tail) == "--" {
				if start >= 0 {
					visit(body[start:at])
					any = true
				}
				start = next
				if len(tail) > 0 {
					return any
				}
			}
		}
		at = next
	}
	if start >= 0 && start < len(body) { // cut off, by us or by the sender
		visit(body[start:])
		any = true
	}
	return any
}

// contentType reads a value with parameters (RFC 2045 section 5.1) as leniently as readers do.
// Parameters of RFC 2231 lose their stars and keep their octets, which is enough for tokens.
func contentType(value string) (word string, params map[string]string) {
	params = map[string]string{}
	word, rest, _ := strings.Cut(value, ";")
	word = strings.ToLower(strings.TrimSpace(word))
	for len(rest) > 0 && len(params) < 20 {
		var key, item string
		key, rest, _ = strings.Cut(rest, "=")
		key, _, _ = strings.Cut(strings.ToLower(strings.Trim(key, " \t;")), "*")
		rest = strings.TrimLeft(rest, " \t")
		if strings.HasPrefix(rest, `"`) {
			item, rest = quotedString(rest[1:])
			_, rest, _ = strings.Cut(rest, ";")
		} else {
			item, rest, _ = strings.Cut(rest, ";")
			item = strings.TrimSpace(item)
		}
		if _, again := params[key]; !again && len(item) <= 200 {
			params[key] = item
		}
	}
	if word == "" {
		word = "text/plain" // RFC 2045 section 5.2
	}
	return word, params
}

// quotedString reads up to the closing quote.
func quotedString(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// transferDecode undoes a transfer encoding, at most maxText octets of it. What is broken is decoded as
// far as it goes.
func transferDecode(body []byte, encoding string) []byte {
	switch encoding {
	case "base64":
		return decodeBase64(body)
	case "quoted-printable":
		return decodeQuoted(body)
	}
	return body[:min(len(body), maxText)]
}

func decodeBase64(body []byte) []byte {
	out := make([]byte, 0, min(len(body)*3/4+3, maxText))
	group, have := uint32(0), 0
	for _, c := range body {
		d := digit64(c)
		if d < 0 {
			continue // RFC 2045 section 6.8: others are ignored
		}
		group = group<<6 | uint32(d)
		if have++; have == 4 {
			out = append(out, byte(group>>16), byte(group>>8), byte(group))
			if group, have = 0, 0; len(out) > maxText-3 {
				return out
			}
		}
	}
	if have >= 2 {
		group <<= 6 * (4 - have)
		out = append(out, []byte{byte(group >> 16), byte(group >> 8)}[:have-1]...)
	}
	return out
}

func digit64(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

func decodeQuoted(body []byte) []byte {
	out := make([]byte, 0, min(len(body), maxText))
	for i := 0; i < len(body) && len(out) < maxText; i++ {
		c := body[i]
		if c != '=' {
			out = append(out, c)
			continue
		}
		end := i + 1
		for end < len(body) && (body[end] == ' ' || body[end] == '\t' || body[end] == '\r') {
			end++
		}
		if end < len(body) && body[end] == '\n' || end == len(body) {
			i = end // a soft line break
			continue
		}
		if i+2 < len(body) {
			if hi, lo := hexDigit(body[i+1]), hexDigit(body[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// toUTF8 decodes text of a charset that browsers know; other text stays as it is, because its octets are
// tokens as good as any. Both sides of a comparison are treated alike.
func toUTF8(text []byte, charset string) []byte {
	if charset == "" || charset == "utf-8" || charset == "us-ascii" {
		charset = "windows-1252"
		if utf8.Valid(text) {
			return text
		}
	}
	e, err := htmlindex.Get(charset)
	if err != nil {
		return text
	}
	decoded, err := io.ReadAll(io.LimitReader(e.NewDecoder().Reader(bytes.NewReader(text)), maxText))
	if err != nil {
		return text
	}
	return decoded
}
