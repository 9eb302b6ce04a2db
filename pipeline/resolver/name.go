package resolver

import (
	"net/netip"
	"strconv"
	"strings"
)

// normalize returns name in lower case without a final dot, and whether it is one that can be asked for: labels of 1 to
// 63 octets, 253 in all (RFC 1035 section 2.3.4), printable ASCII. Underscores, spaces and signs are allowed, because
// SPF macros and DKIM selectors make such names; a backslash is not, because it means something else in each library.
// A name that is normal already costs no allocation.
func normalize(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if len(name) == 0 || len(name) > 253 {
		return name, false
	}
	label, upper := 0, false
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return name, false
			}
			label = 0
			continue
		case c < ' ' || c > '~' || c == '\\':
			return name, false
		case 'A' <= c && c <= 'Z':
			upper = true
		}
		if label++; label > 63 {
			return name, false
		}
	}
	if label == 0 {
		return name, false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

// wireName is name as miekg/dns wants and gives it: with a final dot, and signs of the zone file's syntax escaped.
func wireName(name string) string {
	if !strings.ContainsAny(name, ` '@;()"`) {
		return name + "."
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case ' ', '\'', '@', ';', '(', ')', '"':
			b.WriteByte('\\')
		}
		b.WriteByte(name[i])
	}
	b.WriteByte('.')
	return b.String()
}

// hostName is a name out of an answer in our form, or false if it is none that a host can have. The root is ".".
func hostName(wire string) (string, bool) {
	if wire == "." {
		return ".", true
	}
	if strings.IndexByte(wire, '\\') >= 0 {
		return "", false
	}
	return normalize(wire)
}

// unescape undoes what miekg/dns does to the octets of a TXT string: \" and \\ and \DDD.
func unescape(s string) string {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	out := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		if i+3 < len(s) && digits(s[i+1:i+4]) {
			n := int(s[i+1]-'0')*100 + int(s[i+2]-'0')*10 + int(s[i+3]-'0')
			out = append(out, byte(n))
			i += 3
			continue
		}
		i++
		out = append(out, s[i])
	}
	return string(out)
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// reverseName is addr's name in in-addr.arpa or ip6.arpa (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseName(addr netip.Addr) string {
	const hex = "0123456789abcdef"
	addr = addr.Unmap()
	var buf [80]byte
	b := buf[:0]
	if addr.Is4() {
		four := addr.As4()
		for i := len(four) - 1; i >= 0; i-- {
			b = append(strconv.AppendUint(b, uint64(four[i]), 10), '.')
		}
		return string(append(b, "in-addr.arpa"...))
	}
	six := addr.As16()
	for i := len(six) - 1; i >= 0; i-- {
		b = append(b, hex[six[i]&15], '.', hex[six[i]>>4], '.')
	}
	return string(append(b, "ip6.arpa"...))
}
