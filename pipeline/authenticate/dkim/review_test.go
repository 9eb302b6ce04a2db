package dkim

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"testing"
	"time"
)

// TestStrangeKeys (DRILLS E4.2): an RSA key may be any two numbers; none of them stops the server or costs much more than Cost says.
func TestStrangeKeys(t *testing.T) {
	one := big.NewInt(1)
	for name, n := range map[string]*big.Int{
		"even":         new(big.Int).Lsh(one, 2047),
		"all ones":     new(big.Int).Sub(new(big.Int).Lsh(one, 2048), one),
		"one and ones": new(big.Int).Add(new(big.Int).Lsh(one, 8191), one),
	} {
		for _, e := range []int{1, 2, 3, 65537, 65536, 1<<31 - 1} {
			der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
			if err != nil {
				continue
			}
			key, err := ParseKey("v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der))
			if err != nil {
				continue
			}
			digest := sha256.Sum256([]byte("x"))
			for _, s := range [][]byte{nil, {0}, {1}, make([]byte, (n.BitLen()+7)/8), n.Bytes()} {
				if key.verify(digest[:], s) {
					t.Errorf("%s, e=%d: %x verifies", name, e, s[:min(len(s), 8)])
				}
			}
			if e > 65537 && key.Cost() < 3*key.Bits()*key.Bits()/(1<<20) {
				t.Errorf("%s, e=%d: a cost of %d", name, e, key.Cost())
			}
			signature := make([]byte, (n.BitLen()+7)/8)
			signature[len(signature)-1] = 7
			start := time.Now()
			const times = 20
			for range times {
				key.verify(digest[:], signature)
			}
			t.Logf("%s, %d bits, e=%d: %s for a cost of %d", name, n.BitLen(), e, time.Since(start)/times, key.Cost())
		}
	}
}
