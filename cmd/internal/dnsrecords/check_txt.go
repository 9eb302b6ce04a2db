package dnsrecords

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"blitiri.com.ar/go/spf"
	"golang.org/x/net/publicsuffix"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/report"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

// strangers are addresses that nobody sends from (RFC 5737, RFC 3849): a record that lets them send lets everybody.
var strangers = []netip.Addr{netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("2001:db8:ffff::77")}

// texts looks up a name's texts that begin with a version. Others stand there for other purposes.
func (c *Checker) texts(ctx context.Context, r *Result, name, version string) []string {
	all, err := c.DNS.LookupTXT(ctx, name)
	if r.fail(err) {
		return nil
	}
	var list []string
	for _, text := range all {
		first, _, _ := strings.Cut(text, ";")
		if version == "v=spf1" { // RFC 7208 section 4.5: terms are divided by spaces
			first, _, _ = strings.Cut(first, " ")
		} else {
			first = strings.Join(strings.Fields(first), "")
		}
		if strings.EqualFold(first, version) {
			list = append(list, text)
		}
	}
	r.found(list...)
	switch {
	case len(list) == 0:
		r.State = Missing
	case len(list) > 1:
		r.State = Differs
		r.note("there are %d such records, which counts as none", len(list))
	}
	return list
}

// spf evaluates the record for each of our addresses (RFC 7208), and for addresses that must not pass.
func (c *Checker) spf(ctx context.Context, r *Result, hostname string, ours []netip.Addr) {
	if c.texts(ctx, r, r.Name, "v=spf1"); r.State != OK {
		return
	}
	if len(ours) == 0 {
		r.note("nobody knows the server's address, so it was not evaluated; give it with --address")
	}
	check := func(a netip.Addr) (spf.Result, error) {
		return spf.CheckHostWithSender(a.AsSlice(), hostname, "postmaster@"+r.Name, spf.WithContext(ctx), spf.WithResolver(resolver.ForSPF{Lookup: c.DNS, Client: a}))
	}
	for _, a := range ours[:min(len(ours), 8)] {
		switch result, err := check(a); result {
		case spf.Pass:
		case spf.TempError:
			r.State = Unknown
			r.note("%s: %v", a, err)
		default:
			r.State = Differs
			r.note("%s gets %q (%v)", a, result, err)
		}
	}
	for _, a := range strangers {
		if result, _ := check(a); result == spf.Pass && !slices.Contains(ours, a) {
			r.State = Differs
			r.note("it lets everybody send")
			break
		}
	}
}

// dkim compares the key.
func (c *Checker) dkim(ctx context.Context, r *Result) {
	if r.Value == "" {
		r.State = Missing
		r.note("there is no key to publish yet")
		return
	}
	all, err := c.DNS.LookupTXT(ctx, r.Name)
	if r.fail(err) {
		return
	}
	r.found(all...)
	want, _ := tags(r.Value)
	r.State = Differs
	for _, text := range all {
		have, ok := tags(text)
		switch {
		case !ok || have["v"] != "" && have["v"] != "DKIM1":
			continue
		case have["p"] == "":
			r.note("the key is revoked: p is empty")
		case !sameKey(have["p"], want["p"]), orDefault(have["k"], "rsa") != orDefault(want["k"], "rsa"):
			r.note("it is another key")
		case have["h"] != "" && !slices.Contains(strings.Split(have["h"], ":"), "sha256"):
			r.note("it forbids SHA-256: h=%s", clip(have["h"]))
		case have["s"] != "" && !slices.ContainsFunc(strings.Split(have["s"], ":"), func(s string) bool { return s == "*" || s == "email" }):
			r.note("it is not for mail: s=%s", clip(have["s"]))
		default:
			r.State = OK
			if slices.Contains(strings.Split(have["t"], ":"), "y") {
				r.note("it is marked as a test (t=y): some do not believe it")
			}
			if len(all) > 1 {
				r.State = Differs
				r.note("there are %d records; which one is looked at is chance (RFC 6376 section 3.6.2.2)", len(all))
			}
			return
		}
	}
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// sameKey compares two keys in base64, in which white space does not count.
func sameKey(a, b string) bool {
	if a == b {
		return true
	}
	first, err1 := base64.StdEncoding.DecodeString(a)
	second, err2 := base64.StdEncoding.DecodeString(b)
	return err1 == nil && err2 == nil && string(first) == string(second)
}

// tags reads a tag list (RFC 6376 section 3.2), without its white space.
func tags(text string) (map[string]string, bool) {
	list := make(map[string]string)
	for _, item := range strings.Split(text[:min(len(text), 16<<10)], ";") {
		item = strings.Join(strings.Fields(item), "")
		if item == "" {
			continue
		}
		name, value, found := strings.Cut(item, "=")
		if _, twice := list[name]; !found || twice {
			return nil, false
		}
		list[name] = value
	}
	return list, true
}

// dmarc: the domain, or the organisation that it belongs to, has one policy.
func (c *Checker) dmarc(ctx context.Context, r *Result, domain string) {
	list := c.texts(ctx, r, r.Name, "v=DMARC1")
	if r.State == Missing {
		if org, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil && org != domain {
			above := Result{Record: r.Record, State: OK}
			if list = c.texts(ctx, &above, "_dmarc."+org, "v=DMARC1"); above.State == OK {
				r.State, r.Found = OK, above.Found
				r.note("it is the record of %s, which holds here as well", org)
			}
		}
	}
	if r.State != OK {
		return
	}
	t, ok := tags(list[0])
	switch p := strings.ToLower(t["p"]); {
	case !ok || p != "none" && p != "quarantine" && p != "reject":
		r.State = Differs
		r.note("p is none of none, quarantine and reject")
		return
	case p == "none":
		r.note("p=none only asks for reports: nobody is kept from sending in the domain's name")
	}
	if t["rua"] == "" {
		r.note("nobody gets reports: there is no rua")
		return
	}
	left, err := report.Authorised(ctx, c.DNS, domain, strings.Split(t["rua"], ","))
	if err != nil {
		left = append(left, err.Error())
	}
	for _, why := range left {
		r.note("no reports go to %s", why)
	}
}

// mtaSTS: the record is there, and what is served at the address allows mail to come here (RFC 8461).
func (c *Checker) mtaSTS(ctx context.Context, r *Result, p *Plan) {
	all, err := c.DNS.LookupTXT(ctx, r.Name)
	if r.fail(err) {
		return
	}
	r.found(all...)
	id, err := mtasts.ParseRecord(all)
	switch {
	case err != nil:
		r.State = Differs
		r.note("%v", err)
		return
	case id == "":
		r.State = Missing
		if slices.ContainsFunc(all, func(text string) bool { return strings.HasPrefix(text, "v=STSv1") }) {
			r.State = Differs
			r.note("it has no id")
		}
		return
	case c.Fetch == nil:
		return
	}
	mode, matches, err := c.Fetch(ctx, p.Site.Domain)
	if err != nil {
		r.State = Differs
		r.note("the policy can't be had: %v", err)
		return
	}
	if mode == string(mtasts.Off) {
		r.note("the policy says mode: none")
		return
	}
	wrong := ""
	if !matches(p.Site.Hostname) {
		wrong = "the policy does not name " + p.Site.Hostname
	}
	hosts, err := c.DNS.LookupMX(ctx, p.Site.Domain)
	var dns *net.DNSError
	if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
		r.note("the MX records could not be compared: %v", err)
	}
	for _, h := range hosts {
		if !matches(strings.ToLower(h.Host)) && wrong == "" {
			wrong = "the policy does not name " + h.Host + ", which is in the MX record"
		}
	}
	if p.Site.Certified != "" && wrong == "" {
		wrong = "the server's certificate " + p.Site.Certified
	}
	if wrong != "" {
		r.State = Differs
		r.note("%s", wrong+map[bool]string{true: ": mail from servers that look does not come", false: fmt.Sprintf(" (mode %s: only reported)", mode)}[mode == string(mtasts.Enforce)])
	}
}

// tlsrpt: there is one record with somebody in it.
func (c *Checker) tlsrpt(ctx context.Context, r *Result) {
	list := c.texts(ctx, r, r.Name, "v=TLSRPTv1")
	if r.State != OK {
		return
	}
	if t, ok := tags(list[0]); !ok || t["rua"] == "" {
		r.State = Differs
		r.note("it names nobody: rua is missing")
	}
}
