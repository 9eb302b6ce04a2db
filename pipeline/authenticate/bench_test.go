package authenticate

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/sdk"
)

// cpuTime is what this process has used, all threads together.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStage is the whole stage with a warm DNS cache; the bar for an unsigned message is 40 us of CPU.
func BenchmarkStage(b *testing.B) {
	signed, err := os.ReadFile("testdata/rfc8463.eml")
	if err != nil {
		b.Fatal(err)
	}
	header := strings.Repeat("X-Header: something that a relay wrote, as long as a line is\n", 12)
	body := strings.Repeat("A line of a body, as long as lines in bodies usually are.\n", 60)
	for _, test := range []struct {
		name, sender, raw string
		origin            sdk.Origin
	}{
		{"unsigned", "alice@example.org", header + plain + body, sdk.Stranger},
		{"unsigned-no-policy", "alice@nothing.test", header + strings.Replace(plain, "example.org", "nothing.test", 1) + body, sdk.Stranger},
		{"signed-twice", "joe@football.example.com", string(signed), sdk.Stranger},
		{"trusted", "alice@example.org", header + plain + body, sdk.Trusted},
		{"signed-rsa2048", "a@evil.test", "", sdk.Stranger},
	} {
		b.Run(test.name, func(b *testing.B) {
			f := newFixture(b, "")
			if test.raw == "" {
				test.raw = signedRSA(f, header+"From: b@reject.test\nSubject: x\n\n"+body)
			}
			m := f.message(test.sender, test.raw)
			m.Origin = test.origin
			arrived := m.Arrived()
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				m.Tags, m.Trace = nil, nil
				for _, r := range m.Recipients {
					r.Version = arrived
				}
				if err := f.stage.Process(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-us/op")
		})
	}
}

// signedRSA signs as most of the world does: one RSA key of 2048 bits, relaxed/relaxed.
func signedRSA(f *fixture, raw string) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		f.t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(public)
	if err := f.zone.Add(`s._domainkey.reject.test. 300 TXT "v=DKIM1; k=rsa; p=` + text[:200] + `" "` + text[200:] + `"`); err != nil {
		f.t.Fatal(err)
	}
	var out bytes.Buffer
	err = msgauth.Sign(&out, strings.NewReader(strings.ReplaceAll(raw, "\n", "\r\n")), &msgauth.SignOptions{
		Domain: "reject.test", Selector: "s", Signer: key, Hash: crypto.SHA256,
		HeaderCanonicalization: msgauth.CanonicalizationRelaxed, BodyCanonicalization: msgauth.CanonicalizationRelaxed,
		HeaderKeys: []string{"From", "To", "Subject", "Date", "Message-ID", "From", "Subject"},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}
