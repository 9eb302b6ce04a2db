package dnsbl

import (
	"bytes"
	"io"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// maxDomains is how many domains of a message are looked up.
const maxDomains = 30

// domains collects registered domains, each once.
type domains struct {
	seen   map[string]bool
	exempt []string
	list   []subject
}

func (d *domains) add(host string) {
	if len(d.list) >= maxDomains {
		return
	}
	if r, ok := registered(host); ok && !d.seen[r] && !slices.Contains(d.exempt, r) {
		d.seen[r] = true
		d.list = append(d.list, subject{r, r})
	}
}

// links adds the domains of links. If they are too many, as many of the last are taken as of the first, so
// that the one that counts does not hide behind harmless ones.
func (d *domains) links(urls []string) {
	all := &domains{seen: d.seen, exempt: d.exempt}
	for _, link := range urls {
		if r, ok := registered(hostOf(link)); ok && !all.seen[r] && !slices.Contains(d.exempt, r) {
			all.seen[r] = true
			all.list = append(all.list, subject{r, r})
		}
	}
	room := max(maxDomains-len(d.list), 0)
	if n := len(all.list); n > room {
		all.list = slices.Concat(all.list[:room-room/2], all.list[n-room/2:])
	}
	d.list = append(d.list, all.list...)
}

// hostOf returns the host to which a browser goes (WHATWG URL, "URL parsing"): it takes backslashes for slashes, any number
// of them after the scheme, everything up to the last "@" for a user, and undoes percent-encoding.
func hostOf(link string) string {
	link = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case r < ' ':
			return -1
		}
		return r
	}, link)
	if scheme, rest, ok := strings.Cut(link, ":"); ok && !strings.ContainsAny(scheme, "/.@") {
		link = rest
	}
	link = strings.TrimLeft(link, "/")
	if end := strings.IndexAny(link, "/?#"); end >= 0 {
		link = link[:end]
	}
	link = link[strings.LastIndexByte(link, '@')+1:]
	if plain, err := url.PathUnescape(link); err == nil {
		link = plain
	}
	if !strings.HasPrefix(link, "[") {
		link, _, _ = strings.Cut(link, ":")
	}
	return link
}

// registered returns the registered domain of a host, in ASCII and small letters. Labels below it may be as odd as they
// like: DNS has them, and so have browsers.
func registered(host string) (string, bool) {
	if host == "" || len(host) > 1000 {
		return "", false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", false
	}
	profile := idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false), idna.CheckJoiners(false), idna.VerifyDNSLength(false))
	ascii, err := profile.ToASCII(host)
	if err != nil { // the faults of one label are not those of the domain
		labels := strings.FieldsFunc(strings.ToLower(host), func(r rune) bool { return r == '.' || r == '\u3002' || r == '\uff0e' || r == '\uff61' })
		for i := range labels {
			if labels[i], err = profile.ToASCII(labels[i]); err != nil {
				labels[i] = "x"
			}
		}
		ascii = strings.Join(labels, ".")
	}
	ascii = strings.Trim(ascii, ".")
	if labels := strings.Split(ascii, "."); len(labels) > 10 {
		ascii = strings.Join(labels[len(labels)-10:], ".")
	}
	r, err := publicsuffix.EffectiveTLDPlusOne(ascii)
	if err != nil || len(r) > 253 || strings.ContainsFunc(r, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "", false
	}
	return r, true
}

// fromDomains returns the domains of the From fields, whatever else is in the header.
func fromDomains(header io.Reader) []string {
	raw, _ := io.ReadAll(io.LimitReader(header, maxHeader))
	var out []string
	for _, value := range fields(raw, "from") {
		list, err := mail.ParseAddressList(value)
		if err == nil {
			for _, a := range list {
				out = append(out, a.Address[strings.LastIndexByte(a.Address, '@')+1:])
			}
			continue
		}
		for _, rest := range strings.Split(value, "@")[1:] { // good enough for a look-up: what stands after each @
			end := strings.IndexAny(rest+">", "> \t,;\"()<")
			out = append(out, rest[:end])
		}
	}
	return out[:min(len(out), maxDomains)]
}

// fields returns the values of the fields of that name, unfolded; lines that are no field are passed over.
func fields(raw []byte, name string) (values []string) {
	var value []byte
	own := false
	done := func() {
		if own {
			values = append(values, string(value))
		}
	}
	for line := range bytes.Lines(raw) {
		text := bytes.TrimRight(line, "\r\n")
		if len(text) == 0 {
			break
		}
		if text[0] == ' ' || text[0] == '\t' {
			value = append(value, text...)
			continue
		}
		done()
		key, rest, ok := bytes.Cut(text, []byte(":"))
		own = ok && strings.EqualFold(string(bytes.TrimSpace(key)), name)
		value = append(value[:0], rest...)
	}
	done()
	return values
}
