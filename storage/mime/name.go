package mime

import (
	stdmime "mime"
	"strconv"
	"strings"
)

// Value is one parameter as a reader would show it, and how it was written.
type Value struct {
	Text   string // decoded, UTF-8
	Plain  string // what name= alone says, decoded, if name* or pieces said something too
	Both   bool   // there was name= and name* (or pieces); Text is the latter's
	Pieces bool   // put together from name*0, name*1, ... (RFC 2231 section 3)
	Words  bool   // encoded words, which RFC 2047 section 5 forbids here, were decoded
}

// DecodeParam returns the value of the parameter name, which is in lower case. RFC 2231
// continuations, charsets and percent signs are undone, and so are the encoded words
// that many programs send and read although RFC 2047 section 5 forbids them here. Of
// name*, name*0 ... and name=, the first that is there counts. What can't be decoded stays.
func DecodeParam(list []Param, name string) (Value, bool) {
	var v Value
	plain, isPlain := findParam(list, name)
	extended, isExtended := findParam(list, name+"*")
	text, pieces := "", false
	if isExtended {
		text = charsetParam(extended)
	} else if text, pieces = joinPieces(list, name); !pieces {
		v.Text, v.Words = words(plain)
		return v, isPlain
	}
	v.Text, v.Pieces = text, pieces
	if strings.Contains(v.Text, "=?") { // pieces of encoded words, as some senders make them
		v.Text, v.Words = words(v.Text)
	}
	if isPlain {
		v.Both = true
		v.Plain, _ = words(plain)
	}
	return v, true
}

// words decodes encoded words, and reports whether there were any.
func words(s string) (string, bool) {
	out := DecodeWords(s)
	return strings.ToValidUTF8(out, "\uFFFD"), strings.Contains(s, "=?") && (out != s || hasWord(s))
}

// hasWord looks for what has the shape of an encoded word, of an unknown charset perhaps.
func hasWord(s string) bool {
	i := strings.Index(s, "=?")
	return i >= 0 && strings.Count(s[i+2:], "?") >= 3 && strings.Contains(s[i+2:], "?=")
}

// joinPieces puts name*0, name*1* ... together. The charset is the first piece's.
func joinPieces(list []Param, name string) (string, bool) {
	var b strings.Builder
	charset := ""
	for i := range maxParams {
		piece := name + "*" + strconv.Itoa(i)
		v, ok := findParam(list, piece)
		if !ok {
			if v, ok = findParam(list, piece+"*"); !ok {
				return decodeCharset(charset, b.String()), i > 0
			}
			if i == 0 {
				charset, v = cutCharset(v)
			}
			v = percent(v)
		}
		b.WriteString(v)
	}
	return decodeCharset(charset, b.String()), true
}

// charsetParam decodes charset'language'value (RFC 2231 section 4).
func charsetParam(v string) string {
	charset, v := cutCharset(v)
	return decodeCharset(charset, percent(v))
}

func cutCharset(v string) (charset, rest string) {
	charset, after, ok := strings.Cut(v, "'")
	if !ok {
		return "", v
	}
	if _, rest, ok = strings.Cut(after, "'"); !ok {
		return "", v
	}
	return charset, rest
}

func decodeCharset(charset, s string) string { return ToUTF8(charset, []byte(s)) }

// percent undoes %XX; what is no escape stays.
func percent(v string) string {
	if !strings.Contains(v, "%") {
		return v
	}
	b := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			hi, ok1 := hexDigit(v[i+1])
			lo, ok2 := hexDigit(v[i+2])
			if ok1 && ok2 {
				b = append(b, hi<<4|lo)
				i += 2
				continue
			}
		}
		b = append(b, v[i])
	}
	return string(b)
}

// EachWord calls visit with every encoded word of s that can be decoded, by itself, as
// some readers do even where RFC 2047 allows none: what it hides cannot hide behind
// its neighbours.
func EachWord(s string, visit func(decoded string)) {
	d := stdmime.WordDecoder{CharsetReader: charsetReader}
	for {
		i := strings.Index(s, "=?")
		if i < 0 {
			return
		}
		s = s[i:]
		end := wordEnd(s)
		if end < 0 {
			s = s[2:]
			continue
		}
		text, err := d.Decode(s[:end])
		if err != nil {
			s = s[2:]
			continue
		}
		visit(text)
		s = s[end:]
	}
}

// wordEnd returns the length of the encoded word that s begins with, or -1.
func wordEnd(s string) int {
	at := 2
	for range 2 { // charset, encoding
		i := strings.IndexByte(s[at:min(len(s), at+100)], '?')
		if i < 0 {
			return -1
		}
		at += i + 1
	}
	if i := strings.Index(s[at:min(len(s), at+2000)], "?="); i >= 0 {
		return at + i + 2
	}
	return -1
}

// KnownCharset reports whether text in charset can be decoded; "" is US-ASCII.
func KnownCharset(charset string) bool {
	switch strings.ToLower(charset) {
	case "", "us-ascii", "utf-8", "utf8", "ascii":
		return true
	}
	return lookup(charset) != nil
}
