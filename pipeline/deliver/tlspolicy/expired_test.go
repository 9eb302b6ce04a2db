package tlspolicy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// TestExpiredByLevel (DRILLS E5.5): a certificate whose time is over is as good as any other where nobody looks at it and where
// DNS has its key (RFC 7672 section 3.1.1), and ends the session, for now, where it is verified.
func TestExpiredByLevel(t *testing.T) {
	w := newWorld(t)
	now := w.clock.Now()
	expired := w.ca.LeafAt(now.Add(-48*time.Hour), now.Add(-24*time.Hour), "mx.plain.test", "mx.signed.test")
	level := func(l string) func(*tlspolicy.Asked) { return func(a *tlspolicy.Asked) { a.Level = l } }
	tlsa := func(usage string, der []byte) {
		sum := sha256.Sum256(der)
		w.zone.Remove("_25._tcp.mx.signed.test")
		w.add(t, "_25._tcp.mx.signed.test. TLSA "+usage+" 1 1 "+hex.EncodeToString(sum[:]))
	}
	for _, c := range []struct {
		name, domain string
		change       func(*tlspolicy.Asked)
		usage        string // of TLSA
		words        string // at the end of those for the trace; "": the session ends
	}{
		{"opportunistic", "plain.test", nil, "", "unverified"},
		{"require", "plain.test", level("require"), "", "unverified"},
		{"verify", "plain.test", level("verify"), "", ""},
		{"MTA-STS", "enforce.test", nil, "", ""},
		{"MTA-STS testing", "testing.test", nil, "", "unverified"},
		{"REQUIRETLS", "enforce.test", func(a *tlspolicy.Asked) { a.RequireTLS = true }, "", ""},
		{"relay, implicit", "plain.test", func(a *tlspolicy.Asked) { a.Fixed = true; a.Level = "implicit" }, "", ""},
		{"DANE, its own key", "signed.test", nil, "3", "dane"},
		{"DANE, the authority's key", "signed.test", nil, "2", ""},
	} {
		switch c.usage {
		case "3":
			tlsa(c.usage, expired.Cert.RawSubjectPublicKeyInfo)
		case "2":
			tlsa(c.usage, w.ca.Cert.RawSubjectPublicKeyInfo)
		}
		p, err := w.policy(t, c.domain, 0, c.change)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		x, _ := w.finder.Find(t.Context(), c.domain)
		served := expired.TLS()
		if c.usage == "2" {
			served.Certificate = append(served.Certificate, w.ca.Cert.Raw)
		}
		state, _, err := shake(t, p, x.Hosts[0].Name, served, nil)
		if c.words != "" {
			if got := p.Verified(state); err != nil || !strings.HasSuffix(got, ", "+c.words) {
				t.Errorf("%s: %q, %v", c.name, got, err)
			}
			continue
		}
		var ours *tlspolicy.Error
		if !errors.As(err, &ours) || ours.Type != tlsrpt.CertificateExpired || ours.Permanent || p.Plain() {
			t.Errorf("%s: %v (%+v), plain %t", c.name, err, ours, p.Plain())
		}
	}
}
