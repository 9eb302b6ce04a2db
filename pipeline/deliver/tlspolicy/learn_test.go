package tlspolicy_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
)

// TestRemembered: a server that has offered STARTTLS is not believed for a day when it does not.
func TestRemembered(t *testing.T) {
	w := newWorld(t)
	ask := func() *tlspolicy.Policy {
		t.Helper()
		p, err := w.policy(t, "plain.test", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := ask()
	w.p.Learn(p, tlspolicy.Result{}) // it never had TLS: nothing is expected
	if p = ask(); p.Level != tlspolicy.Opportunistic {
		t.Errorf("without TLS so far: %s", p.Level)
	}
	state, _, err := shake(t, p, "mx.plain.test", w.ca.Leaf("mx.plain.test").TLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.p.Learn(p, tlspolicy.Result{Offered: true, TLS: &state})
	sets := w.cache.Sets()
	for range 10 {
		w.p.Learn(p, tlspolicy.Result{Offered: true, TLS: &state})
	}
	if n := w.cache.Sets(); n != sets {
		t.Errorf("%d writes that say nothing new", n-sets)
	}
	for _, again := range []bool{false, true} {
		if again {
			w.restart()
		}
		if p = ask(); p.Level != tlspolicy.Require || p.Source != "remembered" || p.Plain() {
			t.Errorf("with TLS before (restarted %t): %s %s", again, p.Level, p.Source)
		}
	}
	// A failed handshake counts as much as no offer; a certificate that is refused does not.
	w.p.Learn(p, tlspolicy.Result{Offered: true, Err: errors.New("reset")})
	w.p.Learn(p, tlspolicy.Result{Err: p.Missing()})
	w.clock.Move(23 * time.Hour)
	if p = ask(); p.Plain() {
		t.Error("believed within a day")
	}
	w.p.Learn(p, tlspolicy.Result{Offered: true, TLS: &state}) // TLS again: the day begins anew
	w.clock.Move(2 * time.Hour)
	if p = ask(); p.Plain() {
		t.Error("believed although there was TLS an hour ago")
	}
	w.p.Learn(p, tlspolicy.Result{})
	w.clock.Move(25 * time.Hour)
	w.restart()
	if p = ask(); !p.Plain() {
		t.Errorf("after a day without TLS: %s %s", p.Level, p.Source)
	}
	w.p.Learn(p, tlspolicy.Result{})
	w.clock.Move(time.Hour)
	if p = ask(); !p.Plain() {
		t.Errorf("and later: %s %s", p.Level, p.Source)
	}
	w.cache.Break(true)
	w.restart()
	if p = ask(); !p.Plain() {
		t.Errorf("with a broken cache: %s %s", p.Level, p.Source)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x, _ := w.finder.Find(t.Context(), "plain.test")
	d, err := w.p.Domain(t.Context(), tlspolicy.Asked{Domain: "plain.test", Exchangers: x, DANE: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Host(ctx, x.Hosts[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestReports: what stands in the summaries after each kind of session.
func TestReports(t *testing.T) {
	good := func(w *world) *policytest.Cert { return w.ca.Leaf("mx.plain.test") }
	stranger := func(w *world) *policytest.Cert {
		return policytest.NewCA("stranger", w.clock.Now()).Leaf("mx.plain.test")
	}
	for _, c := range []struct {
		name, domain string
		host         int
		cert         func(*world) *policytest.Cert // nil: STARTTLS is not offered
		want         string                        // policies: type domain success failure types
	}{
		{"no policy", "plain.test", 0, stranger, "no-policy-found plain.test 1 0"},
		{"no policy, no TLS", "plain.test", 0, nil, "no-policy-found plain.test 0 1 starttls-not-supported"},
		{"DANE", "signed.test", 0, func(w *world) *policytest.Cert { return w.leaf }, "tlsa mx.signed.test 1 0"},
		{"DANE fails", "signed.test", 0, stranger, "tlsa mx.signed.test 0 1 validation-failure"},
		{"DANE, no TLS", "signed.test", 0, nil, "tlsa mx.signed.test 0 1 starttls-not-supported"},
		{"DANE, nothing usable", "unusable.signed.test", 0, stranger, "tlsa mx.unusable.signed.test 0 1 tlsa-invalid"},
		{"DANE, bogus", "bogus.signed.test", 0, nil, "tlsa mx.bogus.signed.test 0 1 dnssec-invalid"},
		{"MTA-STS", "enforce.test", 0, good, "sts enforce.test 1 0"},
		{"MTA-STS fails", "enforce.test", 0, stranger, "sts enforce.test 0 1 certificate-not-trusted"},
		{"MTA-STS, no TLS", "enforce.test", 0, nil, "sts enforce.test 0 1 starttls-not-supported"},
		{"MTA-STS, not listed", "enforce.test", 1, nil, "sts enforce.test 0 1 validation-failure"},
		{"testing", "testing.test", 0, good, "sts testing.test 1 0"},
		{"testing fails", "testing.test", 0, stranger, "sts testing.test 0 1 certificate-not-trusted"},
		{"testing, not listed", "testing.test", 1, good, "sts testing.test 0 1 validation-failure"},
		{"both", "both.test", 0, func(w *world) *policytest.Cert { return w.leaf }, "tlsa mx.signed.test 1 0, sts both.test 1 0"},
		{"both, DANE fails", "both.test", 0, stranger, "tlsa mx.signed.test 0 1 validation-failure"},
		{"both, no TLS", "both.test", 0, nil, "tlsa mx.signed.test 0 1 starttls-not-supported, sts both.test 0 1 starttls-not-supported"},
		{"no policy to be had", "broken.test", 0, good, "sts broken.test 0 1 sts-policy-fetch-error"},
	} {
		w := newWorld(t)
		p, err := w.policy(t, c.domain, c.host, nil)
		r := tlspolicy.Result{Err: err, Local: netip.MustParseAddr("203.0.113.200"), Remote: netip.MustParseAddr("::ffff:203.0.113.1"), Helo: "mx\r\nhelo"}
		if err == nil && c.cert != nil {
			r.Offered = true
			x, _ := w.finder.Find(t.Context(), c.domain)
			state, _, err := shake(t, p, x.Hosts[c.host].Name, c.cert(w).TLS(), nil)
			if r.Err = err; err == nil {
				r.TLS = &state
			}
		}
		if p != nil {
			w.p.Learn(p, r)
		}
		all, err := w.reports.Take(t.Context(), w.clock.Now())
		if err != nil || len(all) != 1 || all[0].Domain != c.domain {
			t.Errorf("%s: got %+v, %v", c.name, all, err)
			continue
		}
		var got []string
		for _, p := range all[0].Policies {
			words := []string{string(p.Policy.Type), p.Policy.Domain, text(p.Totals.Success), text(p.Totals.Failure)}
			for _, d := range p.Details {
				words = append(words, string(d.Type))
				met := d.SendingIP == "203.0.113.200" && d.IP == "203.0.113.1" && d.MXHelo == "mx??helo"
				if d.MXHostname == "" || d.Count != 1 || met != (r.Err == nil || c.cert != nil) {
					t.Errorf("%s: detail %+v", c.name, d)
				}
			}
			if p.Policy.Type == "sts" && c.domain != "broken.test" && (len(p.Policy.MXHost) != 2 || len(p.Policy.String) != 5) {
				t.Errorf("%s: policy %+v", c.name, p.Policy)
			}
			got = append(got, strings.Join(words, " "))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: got %q, want %q", c.name, text, c.want)
		}
	}
}

func text(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// TestNotReported: what is the administrator's and the sender's own affair, and relays.
func TestNotReported(t *testing.T) {
	w := newWorld(t)
	for _, change := range []func(*tlspolicy.Asked){
		func(a *tlspolicy.Asked) { a.Fixed = true },
		func(a *tlspolicy.Asked) { a.Level = "none" },
		func(a *tlspolicy.Asked) { a.RequireTLS = true },
		func(a *tlspolicy.Asked) { a.Unreported = true },
	} {
		p, err := w.policy(t, "plain.test", 0, change)
		if err == nil {
			w.p.Learn(p, tlspolicy.Result{})
		}
	}
	for domain, host := range map[string]int{"bogus.signed.test": 0, "enforce.test": 1} { // found out before any connection
		if _, err := w.policy(t, domain, host, func(a *tlspolicy.Asked) { a.Unreported = true }); err == nil {
			t.Errorf("%s: the server may be used", domain)
		}
	}
	if all, err := w.reports.Take(t.Context(), w.clock.Now()); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v", all, err)
	}
}
