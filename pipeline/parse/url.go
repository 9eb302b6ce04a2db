package parse

import (
	"strings"
	"unicode"

	"golang.org/x/net/html"

	"github.com/sluicemail/sluice/sdk"
)

// urls collects the URLs of a message, each once.
type urls struct {
	seen   map[string]bool
	octets int
}

func (u *urls) add(out *sdk.Parsed, url string) {
	if u.seen[url] {
		return
	}
	if len(url) > maxURL || len(out.URLs) >= maxURLs || u.octets+len(url) > maxURLOctets {
		out.Truncated = true
		return
	}
	if u.seen == nil {
		u.seen = make(map[string]bool)
	}
	u.seen[url] = true
	u.octets += len(url)
	out.URLs = append(out.URLs, url)
}

// plain finds URLs in text that people read: with a scheme, or from "www." on. Common
// disguises are undone: hxxp, [.] and backslashes.
func (u *urls) plain(out *sdk.Parsed, text string) {
	for i := 0; i < len(text); i++ {
		begin, prefix := -1, ""
		switch c := text[i]; {
		case c == ':' && i+2 < len(text) && isSlash(text[i+1]) && isSlash(text[i+2]):
			begin, prefix = scheme(text, i)
			if begin >= 0 {
				i += 3
			}
		case (c == 'w' || c == 'W') && (i == 0 || !isWord(text[i-1])) && startsWWW(text[i:]):
			begin, prefix = i, "http://"
		}
		if begin < 0 {
			continue
		}
		rest := urlEnd(text[i:])
		if clean := undisguise(text[i : i+rest]); clean != "" {
			u.add(out, prefix+clean)
		}
		i += max(rest-1, 0)
	}
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

func isWord(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-' || c == '@'
}

// startsWWW takes "www.x" and "www[.]x".
func startsWWW(s string) bool {
	if len(s) < 6 || !strings.EqualFold(s[:3], "www") {
		return false
	}
	rest := strings.TrimLeft(s[3:min(len(s), 8)], "[.]")
	return rest != s[3:min(len(s), 8)] && rest != "" && isWord(rest[0])
}

// scheme looks back from a colon for a scheme that leads somewhere, and returns where it
// begins and the URL's beginning; -1 if there is none.
func scheme(text string, colon int) (begin int, prefix string) {
	begin = colon
	for begin > 0 && colon-begin < 6 && text[begin-1]|0x20 >= 'a' && text[begin-1]|0x20 <= 'z' {
		begin--
	}
	switch word := strings.ToLower(text[begin:colon]); word {
	case "http", "https", "ftp", "file":
		return begin, word + "://"
	case "hxxp", "htxp":
		return begin, "http://"
	case "hxxps", "htxps":
		return begin, "https://"
	case "fxp":
		return begin, "ftp://"
	}
	return -1, ""
}

// urlEnd is where a URL in text ends: before white space, quotes or angle brackets, and
// before punctuation that belongs to the sentence.
func urlEnd(s string) int {
	end := strings.IndexFunc(s[:min(len(s), 4*maxURL)], func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("<>\"`{}|^", r) || unicode.IsSpace(r)
	})
	if end < 0 {
		end = min(len(s), 4*maxURL)
	}
	var surplus [2]int // closing brackets without an opening one
	for i, pair := range [...]string{"()", "[]"} {
		surplus[i] = strings.Count(s[:end], pair[1:]) - strings.Count(s[:end], pair[:1])
	}
	for end > 0 {
		c := s[end-1]
		bracket := strings.IndexByte(")]", c)
		switch {
		case bracket >= 0 && surplus[bracket] > 0:
			surplus[bracket]--
		case strings.IndexByte(".,;:!?'*_~", c) < 0:
			return end
		}
		end--
	}
	return 0
}

// undisguise cleans what follows the scheme: the host's dots, backslashes, leading slashes.
// It returns "" if there is no host.
func undisguise(rest string) string {
	rest = strings.TrimLeft(strings.ReplaceAll(rest, "\\", "/"), "/")
	host, path := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if strings.ContainsAny(host, "[(") && !strings.HasPrefix(host, "[") { // an IPv6 address begins with one
		rest = strings.NewReplacer("[.]", ".", "(.)", ".", "[dot]", ".", "(dot)", ".", "[.", ".", ".]", ".").Replace(host) + path
	}
	if host == "" {
		return ""
	}
	return rest
}

// linkAttributes are those of HTML that lead somewhere.
const linkAttributes = " href src action formaction background poster data longdesc xlink:href "

// html finds URLs in attributes, entities decoded, and in the text between tags.
func (u *urls) html(out *sdk.Parsed, text string) {
	z := html.NewTokenizer(strings.NewReader(text))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.TextToken:
			u.plain(out, html.UnescapeString(string(z.Raw())))
		case html.CommentToken: // conditional comments are shown by some programs
			u.plain(out, string(z.Raw()))
		case html.StartTagToken, html.SelfClosingTagToken:
			u.attributes(out, z)
		}
	}
}

func (u *urls) attributes(out *sdk.Parsed, z *html.Tokenizer) {
	name, more := z.TagName()
	meta := string(name) == "meta"
	for more {
		var key, value []byte
		key, value, more = z.TagAttr()
		switch {
		case strings.Contains(linkAttributes, " "+string(key)+" "):
			u.link(out, string(value))
		case string(key) == "style" || string(key) == "srcset":
			u.plain(out, strings.NewReplacer("(", " ", ")", " ").Replace(string(value)))
		case meta && string(key) == "content": // refresh: "0;url=..."
			if i := strings.Index(strings.ToLower(string(value)), "url="); i >= 0 {
				u.link(out, strings.Trim(string(value[i+4:]), "'\""))
			}
		}
	}
}

// link takes the value of an attribute as browsers do (WHATWG URL, sections 4.1 and 4.4): white space
// around it and tabs and line breaks inside go, backslashes are slashes, and the
// slashes after the scheme may be missing. What leads nowhere by itself (relative, cid:, mailto:,
// data:) is left out.
func (u *urls) link(out *sdk.Parsed, value string) {
	value = strings.TrimFunc(value, func(r rune) bool { return r <= ' ' })
	if strings.ContainsAny(value, "\t\r\n") {
		value = strings.NewReplacer("\t", "", "\r", "", "\n", "").Replace(value)
	}
	if value == "" {
		return
	}
	if len(value) > 1 && isSlash(value[0]) && isSlash(value[1]) { // the scheme of the page
		if rest := undisguise(value); rest != "" {
			u.add(out, "//"+rest)
		}
		return
	}
	word, rest, ok := strings.Cut(value, ":")
	if !ok || len(word) > 10 {
		return
	}
	switch word = strings.ToLower(word); word {
	case "http", "https", "ftp":
		if rest = undisguise(rest); rest != "" {
			u.add(out, word+"://"+rest)
		}
	case "file":
		u.add(out, "file:"+strings.ReplaceAll(rest, "\\", "/"))
	case "javascript", "vbscript":
		u.add(out, cut(word+":"+rest, maxURL))
	}
}
