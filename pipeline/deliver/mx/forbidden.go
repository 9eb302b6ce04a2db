package mx

import "net/netip"

// forbidden are the networks that no stranger may send us to: IANA's special-purpose registries (RFC 6890) as far as
// something of ours, or nothing at all, can be behind them.
var forbidden = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},           // RFC 791 section 3.2; Linux connects to itself
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},               // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), "shared, not public"}, // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},             // RFC 1122 section 3.2.1.3
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},        // RFC 3927; metadata services of clouds
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},            // RFC 1918
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},            // RFC 6890
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},           // RFC 1918
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},     // RFC 2544
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},            // RFC 5771
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},             // RFC 1112 section 4; 255.255.255.255
	{netip.MustParsePrefix("::/128"), "unspecified"},               // RFC 4291 section 2.5.2
	{netip.MustParsePrefix("::1/128"), "loopback"},                 // RFC 4291 section 2.5.3
	{netip.MustParsePrefix("64:ff9b:1::/48"), "private"},           // RFC 8215: local translation
	{netip.MustParsePrefix("100::/64"), "a black hole"},            // RFC 6666
	{netip.MustParsePrefix("2001::/32"), "a tunnel"},               // RFC 4380: Teredo, with an IPv4 address in disguise
	{netip.MustParsePrefix("fc00::/7"), "private"},                 // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), "link-local"},             // RFC 4291 section 2.5.6
	{netip.MustParsePrefix("fec0::/10"), "site-local"},             // RFC 3879
	{netip.MustParsePrefix("ff00::/8"), "multicast"},               // RFC 4291 section 2.7
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 section 2.1: the IPv4 address is in the last 32 bits
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056 section 2: in bits 16 to 47
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 section 2.5.5.1, deprecated: in the last 32 bits
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 section 2.1, deprecated: in the last 32 bits
	isatapMask = [4]byte{0, 0, 0x5e, 0xfe}                // RFC 5214 section 6.1: in the last 32 bits behind this; or with bit u (2 in the first octet)
)

// Forbidden says what addr is that no stranger may send us to, "loopback" for one, or "" for an address of the
// Internet. IPv4 addresses inside IPv6 ones count as themselves.
func Forbidden(addr netip.Addr) string {
	if !addr.IsValid() {
		return "no address"
	}
	addr = addr.Unmap().WithZone("")
	for i := range forbidden {
		if forbidden[i].prefix.Contains(addr) {
			return forbidden[i].why
		}
	}
	if addr.Is4() {
		return ""
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), compatible.Contains(addr), translated.Contains(addr), [4]byte{b[8] &^ 2, b[9], b[10], b[11]} == isatapMask:
		return Forbidden(netip.AddrFrom4([4]byte(b[12:16])))
	case sixToFour.Contains(addr):
		return Forbidden(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return ""
}
