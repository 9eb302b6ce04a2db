package mime

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
)

const (
	previewRunes = 200
	previewText  = 1 << 10 // octets looked at of a text/plain part
	previewHTML  = 8 << 10 // and of a text/html part
)

// preview returns the beginning of the first text of the message, for humans.
func preview(r io.ReaderAt, root *Part) string {
	part := firstText(root, "plain")
	window := int64(previewText)
	if part == nil {
		if part = firstText(root, "html"); part == nil {
			return ""
		}
		window = previewHTML
	}
	window = min(window, part.Size())
	if window <= 0 {
		return ""
	}
	raw := make([]byte, window)
	n, _ := r.ReadAt(raw, part.BodyStart)
	text := Text(part, raw[:n])
	if part.Subtype == "html" {
		text = stripTags(text)
	}
	return squeeze(text)
}

// firstText finds the first text/sub that is no attachment.
func firstText(part *Part, sub string) *Part {
	if part.Type == "text" && part.Subtype == sub && !strings.EqualFold(part.Disposition, "attachment") {
		return part
	}
	for _, c := range part.Children {
		if found := firstText(c, sub); found != nil {
			return found
		}
	}
	return nil
}

// Text returns body, octets from the beginning of the body of a text part,
// decoded to UTF-8. What cannot be decoded becomes U+FFFD.
func Text(part *Part, body []byte) string {
	enc := strings.ToLower(part.Encoding)
	if enc == "base64" || enc == "quoted-printable" {
		if d, err := Decoder(enc, strings.NewReader(string(body))); err == nil {
			body, _ = io.ReadAll(d)
		}
	}
	charset, _ := part.Param("charset")
	return ToUTF8(charset, body)
}

// ToUTF8 decodes text from charset.
func ToUTF8(charset string, text []byte) string {
	switch strings.ToLower(charset) {
	case "", "us-ascii", "utf-8", "utf8", "ascii":
		return strings.ToValidUTF8(string(text), "\uFFFD")
	}
	if e := lookup(charset); e != nil {
		if out, err := e.NewDecoder().Bytes(text); err == nil {
			return string(out)
		}
	}
	return strings.ToValidUTF8(string(text), "\uFFFD")
}

// lookup finds a charset by the names that browsers know, or else by those of IANA: browsers
// refuse to decode some (they become encoding.Replacement).
func lookup(charset string) encoding.Encoding {
	if len(charset) > 40 {
		return nil
	}
	if e, err := htmlindex.Get(charset); err == nil && e != encoding.Replacement {
		return e
	}
	e, err := ianaindex.MIME.Encoding(charset)
	if err != nil || e == encoding.Replacement {
		return nil
	}
	return e
}

// charsetReader is the hook of mime.WordDecoder.
func charsetReader(charset string, input io.Reader) (io.Reader, error) {
	e := lookup(charset)
	if e == nil {
		return nil, fmt.Errorf("decode word: unknown charset %q", charset)
	}
	return e.NewDecoder().Reader(input), nil
}

// squeeze makes runs of white space one blank, drops control and formatting
// characters, and stops at 200 runes.
func squeeze(s string) string {
	b := make([]byte, 0, min(len(s), previewRunes))
	gap := false
	for n := 0; len(s) > 0 && n < previewRunes; {
		r, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		switch {
		case r <= ' ' || r == 0x7f || unicode.IsSpace(r):
			gap = len(b) > 0
			continue
		case r >= 0x80 && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)):
			continue
		}
		if gap {
			b = append(b, ' ')
			gap = false
			if n++; n == previewRunes {
				break
			}
		}
		b = utf8.AppendRune(b, r)
		n++
	}
	return strings.TrimRight(string(b), " ")
}

// stripTags removes what is between angle brackets, and the text of style,
// script and title. It is for a preview, not for safety.
func stripTags(s string) string {
	var b strings.Builder
	skip := "" // element whose text is left out
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			if skip == "" {
				b.WriteString(s)
			}
			return unescape(b.String())
		}
		if skip == "" {
			b.WriteString(s[:i])
			b.WriteByte(' ')
		}
		s = s[i+1:]
		j := strings.IndexByte(s, '>')
		if j < 0 {
			return unescape(b.String())
		}
		name := strings.ToLower(s[:min(j, 10)])
		if k := strings.IndexAny(name, " \t\r\n"); k >= 0 {
			name = name[:k]
		}
		s = s[j+1:]
		switch {
		case skip != "" && name == "/"+skip:
			skip = ""
		case skip == "" && (name == "style" || name == "script" || name == "title"):
			skip = name
		}
	}
}

func unescape(s string) string {
	if !strings.Contains(s, "&") {
		return s
	}
	return strings.NewReplacer("&nbsp;", " ", "&lt;", "<", "&gt;", ">", "&quot;", `"`, "&#39;", "'", "&zwnj;", "", "&amp;", "&").Replace(s)
}

// TextReader decodes r, text in charset, to UTF-8; of an unknown charset the
// octets come as they are.
func TextReader(charset string, r io.Reader) io.Reader {
	switch strings.ToLower(charset) {
	case "", "us-ascii", "utf-8", "utf8", "ascii":
		return r
	}
	if e := lookup(charset); e != nil {
		return e.NewDecoder().Reader(r)
	}
	return r
}
