package dane_test

import (
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestHugeKeys: records that would make us compute for minutes have no use (DRILLS E5.4).
func TestHugeKeys(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 32_767)
	key, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: huge.SetBit(huge, 0, 1), E: 1<<31 - 1})
	if err != nil {
		t.Fatal(err)
	}
	if dane.Usable(resolver.TLSA{Usage: dane.UsageTA, Selector: dane.SelectorSPKI, Matching: dane.MatchFull, Data: key}) {
		t.Error("an RSA key of 32768 bits is usable")
	}
}

// TestManyRecords: some of them are enough.
func TestManyRecords(t *testing.T) {
	z := resolvertest.MustParse(zone)
	ca := policytest.NewCA("a", time.Now())
	z.Sign("signed.test")
	_ = z.Add("many.signed.test. A 192.0.2.9")
	for i := range 100 {
		_ = z.Add("_25._tcp.many.signed.test. TLSA 3 1 1 " + some[:62] + string("0123456789"[i/10]) + string("0123456789"[i%10]))
	}
	config := resolver.DefaultConfig()
	config.TrustAD = true
	found, err := dane.Find(t.Context(), resolvertest.NewWith(z, config, time.Now), "many.signed.test", 25)
	if err != nil || found == nil || len(found.Usable) == 0 || len(found.Usable) > 30 {
		t.Fatalf("%+v, %v", found, err)
	}
	if _, err := found.Verify([]*x509.Certificate{ca.Cert}, nil, time.Now()); err == nil {
		t.Error("it matches")
	}
}
