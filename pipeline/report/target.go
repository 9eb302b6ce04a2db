package report

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// maxTargets bounds to how many places one report goes (DRILLS E2.6; RFC 7489 section 6.2 wants two at least).
const maxTargets = 4

// target is a place that a report goes to.
type target struct {
	address string // of mailto:, "local@domain" with the domain in A-labels and lower case; else ""
	url     string // of https:
	host    string // domain of the address, or host of the URL
	limit   int64  // octets, as they are sent; 0: none
}

// parseTarget reads one URI of a rua tag with its size limit (RFC 7489 section 6.4 dmarc-uri). size says whether there
// can be one: RFC 8460 knows none.
func parseTarget(text string, size bool) (target, error) {
	var t target
	text = strings.TrimSpace(text)
	if len(text) > 1000 {
		return t, errors.New("it is too long")
	}
	if at := strings.LastIndexByte(text, '!'); size && at >= 0 {
		var err error
		if t.limit, err = parseLimit(text[at+1:]); err != nil {
			return t, err
		}
		text = text[:at]
	}
	scheme, rest, _ := strings.Cut(text, ":")
	switch strings.ToLower(scheme) {
	case "mailto":
		rest, _, _ = strings.Cut(rest, "?") // nobody may choose fields of our messages (RFC 6068)
		address, err := url.PathUnescape(rest)
		if err != nil {
			return t, errors.New("it is not well escaped")
		}
		t.address, t.host, err = plainAddress(address)
		return t, err
	case "https":
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
			return t, errors.New("it is not an https address")
		}
		u.Fragment = ""
		t.url, t.host = u.String(), u.Hostname()
		return t, nil
	}
	return t, fmt.Errorf("%q is no scheme that reports are sent by", cut(scheme, 20))
}

func parseLimit(text string) (int64, error) {
	unit := int64(1)
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgt", text[n-1]|0x20); i >= 0 {
			unit, text = 1<<(10*(i+1)), text[:n-1]
		}
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return 0, errors.New("its size limit is no number")
	}
	return int64(n) * unit, nil
}

// plainAddress checks an address out of DNS: a dot-atom at a domain, nothing that could become syntax anywhere.
func plainAddress(text string) (address, domain string, err error) {
	at := strings.LastIndexByte(text, '@')
	if at < 1 || at > 64 {
		return "", "", errors.New("it is no address")
	}
	local := text[:at]
	for _, atom := range strings.Split(local, ".") {
		if atom == "" || strings.Trim(atom, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~") != "" {
			return "", "", errors.New("its local part is no dot-atom")
		}
	}
	domain, ok := asciiDomain(text[at+1:])
	if !ok {
		return "", "", errors.New("its domain is none")
	}
	return local + "@" + domain, domain, nil
}

// asciiDomain returns a domain as A-labels in lower case; false: it is none with two labels at least.
func asciiDomain(domain string) (string, bool) {
	domain = strings.TrimSuffix(domain, ".")
	if !isASCII(domain) {
		ascii, err := idna.Lookup.ToASCII(domain)
		if err != nil {
			return "", false
		}
		domain = ascii
	}
	domain = strings.ToLower(domain)
	if len(domain) > 253 || !strings.Contains(domain, ".") || net.ParseIP(domain) != nil {
		return "", false
	}
	for _, label := range strings.Split(domain, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", false
		}
	}
	return domain, true
}

// organisation is the organizational domain (RFC 7489 section 3.2) by the public suffix list.
func organisation(domain string) string {
	org, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil {
		return domain
	}
	return org
}

// dmarcTargets returns where a DMARC report about a domain goes, and words for each URI that was left out. An error is
// temporary: DNS could not say whether a place outside of the domain's organisation wants reports about it.
func dmarcTargets(ctx context.Context, dns resolver.Lookup, domain string, rua []string) (targets []target, left []string, err error) {
	seen := make(map[string]bool)
	for _, uri := range rua {
		if len(targets) == maxTargets {
			left = append(left, fmt.Sprintf("%s: a report goes to %d places at most", cut(uri, 100), maxTargets))
			break
		}
		t, why := parseTarget(uri, true)
		if why == nil && t.address == "" {
			why = errors.New("DMARC reports are sent by mail alone")
		}
		if why == nil {
			t, why = verify(ctx, dns, domain, t)
		}
		var temporary *net.DNSError
		switch {
		case errors.As(why, &temporary):
			return nil, nil, fmt.Errorf("ask %s whether it wants reports: %w", t.host, why)
		case why != nil:
			left = append(left, cut(uri, 100)+": "+why.Error())
		case !seen[t.address]:
			seen[t.address] = true
			targets = append(targets, t)
		}
	}
	return targets, left, nil
}

// verify asks the host of a target outside of the domain's organisation whether it wants reports about the domain
// (RFC 7489 section 7.1). A *net.DNSError is temporary; any other error is a no.
func verify(ctx context.Context, dns resolver.Lookup, domain string, t target) (target, error) {
	if organisation(domain) == organisation(t.host) {
		return t, nil
	}
	name := domain + "._report._dmarc." + t.host
	if len(name) > 253 {
		return t, errors.New("the name that would have to say that it wants reports is too long")
	}
	texts, err := dns.LookupTXT(ctx, name)
	var gone *net.DNSError
	if err != nil && (!errors.As(err, &gone) || !gone.IsNotFound) {
		return t, &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
	}
	for _, text := range texts[:min(len(texts), 20)] {
		rua, ok := reportRecord(text)
		if !ok {
			continue
		}
		if rua == "" {
			return t, nil
		}
		// Step 8: the addressee may choose another address at its own host, and none elsewhere.
		first, _, _ := strings.Cut(rua, ",")
		other, err := parseTarget(first, true)
		if err != nil || other.address == "" || other.host != t.host {
			return t, fmt.Errorf("%s sends its reports elsewhere", t.host)
		}
		return other, nil
	}
	return t, fmt.Errorf("%s does not say that it wants reports about %s (no TXT record %s)", t.host, domain, name)
}

// reportRecord reads the record of section 7.1 and returns its rua.
func reportRecord(text string) (rua string, ok bool) {
	for i, item := range strings.Split(cut(text, 4000), ";") {
		name, value, _ := strings.Cut(item, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if i == 0 && (name != "v" || value != "DMARC1") {
			return "", false
		}
		if name == "rua" && rua == "" {
			rua = value
		}
	}
	return rua, true
}

// tlsTargets reads the record _smtp._tls of a domain (RFC 8460 section 3): none, or several, means no reports. An error
// is temporary.
func tlsTargets(ctx context.Context, dns resolver.Lookup, domain string) (targets []target, left []string, err error) {
	texts, err := dns.LookupTXT(ctx, "_smtp._tls."+domain)
	var gone *net.DNSError
	switch {
	case errors.As(err, &gone) && gone.IsNotFound:
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("ask who wants TLS reports about %s: %w", domain, err)
	}
	rua, records := "", 0
	for _, text := range texts {
		first, rest, _ := strings.Cut(cut(text, 4000), ";")
		if strings.TrimSpace(first) != "v=TLSRPTv1" {
			continue
		}
		records++
		for _, item := range strings.Split(rest, ";") {
			if name, value, _ := strings.Cut(item, "="); strings.TrimSpace(name) == "rua" && rua == "" {
				rua = strings.TrimSpace(value)
			}
		}
	}
	if records != 1 {
		return nil, nil, nil
	}
	for _, uri := range strings.Split(rua, ",") {
		if len(targets) == maxTargets {
			left = append(left, fmt.Sprintf("%s: a report goes to %d places at most", cut(uri, 100), maxTargets))
			break
		}
		t, err := parseTarget(uri, false)
		if err != nil {
			left = append(left, cut(uri, 100)+": "+err.Error())
			continue
		}
		targets = append(targets, t)
	}
	return targets, left, nil
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// Authorised returns words for each of the URIs of a DMARC record's rua to which no report about the domain goes, because
// it is none, or because its host does not say that it wants them. An error is temporary.
func Authorised(ctx context.Context, dns resolver.Lookup, domain string, rua []string) (left []string, err error) {
	_, left, err = dmarcTargets(ctx, dns, domain, rua)
	return left, err
}
