package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestSayDANE (DRILLS E5.2): without a resolver that validates, and is believed, there is no DANE, and the log says so; one that is
// believed and does not validate is warned of.
func TestSayDANE(t *testing.T) {
	for _, c := range []struct {
		trust, signed bool
		want          string // "": nothing
	}{
		{false, false, `level=INFO msg="DANE is off"`}, {false, true, `level=INFO msg="DANE is off"`},
		{true, false, `level=WARN msg="DANE may defer mail"`}, {true, true, ""},
	} {
		zone := resolvertest.MustParse(". DNSKEY 257 3 13 AAAA\n")
		if c.signed {
			zone.Sign(".")
		}
		set := resolver.DefaultConfig()
		set.TrustAD = c.trust
		var log bytes.Buffer
		s := &server{config: &config.Config{DNS: set}, logger: slog.New(slog.NewTextHandler(&log, nil)), dns: resolvertest.NewWith(zone, set, nil)}
		s.sayDANE(t.Context())
		if got := log.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("trust_ad %v, signed %v: %q, want %q", c.trust, c.signed, got, c.want)
		}
		if a, err := s.dns.SecureTLSA(t.Context(), "_25._tcp.mx.test"); err == nil && a.Secure || s.dns.Validates() != c.trust {
			t.Errorf("trust_ad %v, signed %v: secure TLSA %+v", c.trust, c.signed, a)
		}
	}
}
