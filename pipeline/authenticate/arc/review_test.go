package arc

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// TestMessageSignatureNeedsFrom: an ARC-Message-Signature is a DKIM signature, which has to cover From (RFC 6376 section
// 5.4, RFC 8617 section 4.1.2); and the newest holds as long as it says itself.
func TestMessageSignatureNeedsFrom(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, test := range []struct {
		names  []string
		expire time.Duration
		at     time.Time
		want   string
	}{
		{[]string{"From", "Subject"}, 0, now, Pass},
		{[]string{"Subject"}, 0, now, Fail},
		{[]string{"From"}, time.Hour, now.Add(time.Minute), Pass},
		{[]string{"From"}, time.Hour, now.Add(2 * time.Hour), Fail},
		{[]string{"From"}, 0, now.Add(-48 * time.Hour), Fail}, // from the future
	} {
		f := newFixture(t)
		fields := fieldsOf("From: a@example.test\r\n", "Subject: x\r\n")
		signer := *f.signer
		signer.Expire = test.expire
		message, err := signer.SignARC(1, dkim.Hash(dkim.NewHeader(fields), test.names), test.names, f.sum, now)
		if err != nil {
			t.Fatal(err)
		}
		results := "ARC-Authentication-Results: i=1; mx.one.test; dmarc=pass header.from=example.test\r\n"
		digest := sha256.New()
		digest.Write(dkim.AppendField(nil, []byte(results), true))
		digest.Write(dkim.AppendField(nil, message, true))
		seal, err := f.signer.Seal(1, None, digest, now)
		if err != nil {
			t.Fatal(err)
		}
		fields = append(fieldsOf(string(seal), string(message), results), fields...)
		got := Parse(fields).Verify(&Check{
			Header: dkim.NewHeader(fields), Body: &f.body, Now: test.at,
			Key:   func(*dkim.Signature) (*dkim.Key, error) { return f.key, nil },
			Spend: func(*dkim.Key, bool) bool { return true },
		})
		if got.Result != test.want {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}
