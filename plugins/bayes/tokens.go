package bayes

import (
	"bytes"
	"io"
	"mime"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// kind is the class of a token, which is all that a verdict says about it.
type kind uint8

const (
	kindText kind = iota
	kindHeader
	kindLink
	kindShape // parts, tags, sizes
	kinds
)

// token is one feature of a message: a word, two words that follow each other, a link's host. What it was is not kept.
type token struct {
	hash uint64
	kind kind
}

// Bounds of a message's tokens.
const (
	maxTokens = 6000 // different ones of a message
	maxWords  = 8000 // words of text that are looked at
	maxWord   = 24   // runes of a word; a longer one counts as "a long word"
)

// tokenizer collects the tokens of one message.
type tokenizer struct {
	k0, k1 uint64
	tokens []token
	seen   map[uint64]struct{}
	words  int
	last   uint64 // the word before, for pairs; 0 is none
	buf    []byte
}

// tokenize returns the tokens of a message, each once, under a key. It never fails: whatever octets a message
// has, some tokens are in it. Time and memory are bounded by maxContent.
func tokenize(k0, k1 uint64, content []byte) []token {
	t := &tokenizer{k0: k0, k1: k1, seen: make(map[uint64]struct{}, 512)}
	fields, body := splitHeader(content[:min(len(content), maxContent)])
	t.header(fields)
	left := maxParts
	leaves(fields, body, 0, &left, t.part)
	return t.tokens
}

func (t *tokenizer) hash(prefix, word string) uint64 {
	t.buf = append(append(append(t.buf[:0], prefix...), 0), word...)
	return siphash(t.k0, t.k1, t.buf)
}

func (t *tokenizer) put(k kind, hash uint64) {
	if len(t.tokens) >= maxTokens {
		return
	}
	if _, ok := t.seen[hash]; ok {
		return
	}
	t.seen[hash] = struct{}{}
	t.tokens = append(t.tokens, token{hash, k})
}

func (t *tokenizer) add(k kind, prefix, word string) { t.put(k, t.hash(prefix, word)) }

// unseen are fields that no token comes from: those that the ways of a message leave (they tell hosts and times
// apart, not spam), what other filters said, and the names of those who got it.
const unseen = " received return-path delivered-to delivery-date x-original-to envelope-to date message-id resent-date resent-message-id " +
	"to cc bcc apparently-to authentication-results received-spf dkim-signature domainkey-signature " +
	"status x-status x-keywords x-uid x-mozilla-status x-mozilla-status2 x-mozilla-keys x-sieve x-evolution-source " +
	"x-virus-scanned x-virus-status x-mailscanner x-bogosity x-gmail-labels content-length lines "

// unseenPrefixes begin the names of more such fields.
var unseenPrefixes = []string{"x-spam", "x-sluice-", "arc-", "x-mailscanner-", "x-rspamd-", "x-ms-exchange-", "x-microsoft-antispam", "x-forefront-"}

func isUnseen(name string) bool {
	if strings.Contains(unseen, " "+name+" ") {
		return true
	}
	for _, prefix := range unseenPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (t *tokenizer) header(fields []field) {
	for _, f := range fields {
		if isUnseen(f.name) {
			continue
		}
		t.add(kindHeader, "field", f.name)
		switch f.name {
		case "subject":
			t.text(kindHeader, "subject", []byte(decodeWords(f.value)))
		case "from", "reply-to", "sender":
			t.address(f.name, f.value)
		case "x-mailer", "user-agent", "organization":
			t.text(kindHeader, f.name, []byte(decodeWords(f.value)))
		case "content-type":
			word, params := contentType(f.value)
			t.add(kindHeader, "type", word)
			t.add(kindHeader, "charset", strings.ToLower(params["charset"]))
		case "list-id", "x-priority", "x-msmail-priority", "importance", "precedence", "auto-submitted":
			t.add(kindHeader, f.name, strings.ToLower(f.value))
		}
	}
}

// decodeWords undoes RFC 2047 as far as it can be undone.
func decodeWords(value string) string {
	d := mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		e, err := htmlindex.Get(charset)
		if err != nil {
			return r, nil
		}
		return e.NewDecoder().Reader(r), nil
	}}
	if decoded, err := d.DecodeHeader(value); err == nil {
		value = decoded
	}
	return string(toUTF8([]byte(value), ""))
}

// address takes a field of addresses apart: the name's words, each address, its host and the domain around it.
func (t *tokenizer) address(name, value string) {
	rest := value
	for range 10 {
		at := strings.IndexByte(rest, '@')
		if at < 0 {
			break
		}
		begin := strings.LastIndexAny(rest[:at], " \t<,;:\"()") + 1
		end := at + 1
		for end < len(rest) && !strings.ContainsRune(" \t>,;:\"()", rune(rest[end])) {
			end++
		}
		host := strings.ToLower(rest[at+1 : end])
		t.add(kindHeader, name+" address", strings.ToLower(rest[begin:end]))
		t.host(kindHeader, name+" host", host)
		value = strings.Replace(value, rest[begin:end], " ", 1)
		rest = rest[end:]
	}
	t.text(kindHeader, name, []byte(decodeWords(value)))
}

// host puts the last two, three and all labels of a host's name.
func (t *tokenizer) host(k kind, prefix, host string) {
	host = strings.Trim(host, ".")
	if len(host) > 255 {
		host = host[len(host)-255:]
	}
	t.add(k, prefix, host)
	dots := 0
	for i := len(host) - 1; i >= 0; i-- {
		if host[i] == '.' {
			if dots++; dots == 2 || dots == 3 {
				t.add(k, prefix, host[i+1:])
			}
		}
	}
}

func (t *tokenizer) part(p part) {
	t.add(kindShape, "part", p.mediaType)
	t.add(kindShape, "part charset", p.charset)
	t.add(kindShape, "part encoding", p.encoding)
	if p.disposition != "text/plain" {
		t.add(kindShape, "disposition", p.disposition)
	}
	if p.name != "" {
		name := strings.ToLower(decodeWords(p.name))
		t.add(kindShape, "file", name)
		t.add(kindShape, "extension", name[strings.LastIndexByte(name, '.')+1:])
	}
	t.last = 0
	switch {
	case p.text == nil:
	case p.mediaType == "text/html":
		h := readHTML(p.text)
		for _, name := range h.tags {
			k := kindShape
			if strings.Contains(name, " ") {
				k += 32
			}
			t.add(k, "tag", name)
		}
		for _, link := range h.links {
			t.link(link)
		}
		t.text(kindText, "", h.text)
	default:
		t.text(kindText, "", p.text)
	}
}

// link puts the tokens of a place on the net.
func (t *tokenizer) link(link string) {
	scheme, rest, ok := strings.Cut(link, ":")
	if !ok || len(scheme) > 12 {
		return
	}
	scheme = strings.ToLower(scheme)
	t.add(kindLink, "scheme", scheme)
	if scheme == "mailto" {
		address, _, _ := strings.Cut(rest, "?")
		if _, host, ok := strings.Cut(address, "@"); ok {
			t.host(kindLink, "mail host", strings.ToLower(host))
		}
		return
	}
	rest = strings.TrimLeft(rest, "/")
	end := strings.IndexAny(rest, "/?#\\")
	if end < 0 {
		end = len(rest)
	}
	host, path := strings.ToLower(rest[:end]), rest[end:]
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		t.add(kindLink, "link", "with a user")
		host = host[i+1:]
	}
	host, port, _ := strings.Cut(host, ":")
	if port != "" {
		t.add(kindLink, "port", port)
	}
	if host != "" && strings.Trim(host, "0123456789.x[]:") == "" {
		t.add(kindLink, "link", "to an address")
	}
	t.host(kindLink, "host", host)
	words := 0
	for _, word := range strings.FieldsFunc(path, func(r rune) bool { return !unicode.IsLetter(r) }) {
		if words++; words > 8 {
			break
		}
		if len(word) <= 20 {
			t.add(kindLink, "path", strings.ToLower(word))
		}
	}
}

// text puts the words of a text, and its links.
func (t *tokenizer) text(k kind, prefix string, text []byte) {
	t.last = 0
	for len(text) > 0 && t.words < maxWords {
		text = t.skipTo(text)
		n := wordLength(text)
		if n == 0 {
			break
		}
		if bytes.HasPrefix(text[n:], []byte("://")) || n == 3 && bytes.HasPrefix(text, []byte("www.")) {
			n = t.plainLink(text)
		} else {
			t.word(k, prefix, string(text[:n]))
		}
		text = text[n:]
	}
}

// skipTo drops what is no part of a word. An end of a paragraph separates words from each other.
func (t *tokenizer) skipTo(text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if isWord(r) {
			return text
		}
		text = text[size:]
	}
	return nil
}

func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || r == '$' || r == '\'' || r == '-' || r == '!' || r == '%'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '€' || r == '£' || unicode.Is(unicode.Mn, r)
}

// wordLength returns the octets of the word that text begins with.
func wordLength(text []byte) int {
	n := 0
	for n < len(text) {
		r, size := utf8.DecodeRune(text[n:])
		if !isWord(r) {
			break
		}
		n += size
	}
	return n
}

// plainLink reads a link in plain text and returns its length.
func (t *tokenizer) plainLink(text []byte) int {
	n := bytes.IndexAny(text[:min(len(text), 500)], " \t\r\n<>\"")
	if n < 0 {
		n = min(len(text), 500)
	}
	link := strings.TrimRight(string(text[:n]), ".,;:!?)]'")
	if strings.HasPrefix(link, "www.") {
		link = "http://" + link
	}
	t.link(link)
	return n
}

func (t *tokenizer) word(k kind, prefix, word string) {
	word = strings.Trim(word, "'-")
	if word == "" {
		return
	}
	t.words++
	small := strings.ToLower(word)
	runes := utf8.RuneCountInString(word)
	switch {
	case word[0] >= utf8.RuneSelf && (runes > maxWord || unspaced(small)):
		t.runes(k, prefix, small)
		return
	case runes > maxWord:
		small = "long " + small[:1] + strconv.Itoa(min(runes/10, 10))
	}
	hash := t.hash(prefix, small)
	t.put(k, hash)
	if word != small && runes > 2 && strings.ToUpper(word) == word {
		t.add(k, prefix+" capitals", small)
	}
	if t.last != 0 {
		t.put(k, pair(t.last, hash))
	}
	t.last = hash
}

// unspaced reports whether a text is in a script that puts no spaces between words.
func unspaced(text string) bool {
	r, _ := utf8.DecodeRuneInString(text)
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

// runes puts each two neighbours of a text without spaces, as in Chinese, Japanese and Thai.
func (t *tokenizer) runes(k kind, prefix, text string) {
	before := ""
	for _, r := range text {
		if t.words++; t.words > maxWords {
			return
		}
		this := string(r)
		t.add(k, prefix+" runes", before+this)
		before = this
	}
}
