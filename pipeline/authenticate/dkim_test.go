package authenticate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/sdk"
)

// TestVectors verifies the examples of RFC 6376 appendix A and RFC 8463 appendix A.
func TestVectors(t *testing.T) {
	tests := []struct{ file, want string }{
		{"testdata/rfc6376.eml", "; dkim=pass header.d=example.com header.i=joe@football.example.com header.s=brisbane" +
			" header.a=rsa-sha256 header.b=AuUoFEfD"},
		{"testdata/rfc8463.eml", "; dkim=pass header.d=football.example.com header.i=@football.example.com header.s=brisbane" +
			` header.a=ed25519-sha256 header.b="/gCrinpc"; dkim=pass header.d=football.example.com header.i=@football.example.com` +
			" header.s=test header.a=rsa-sha256 header.b=F45dVWDf"},
	}
	for _, test := range tests {
		raw, err := os.ReadFile(test.file)
		if err != nil {
			t.Fatal(err)
		}
		f := newFixture(t, "")
		m := f.message("joe@football.example.com", string(raw))
		m.Origin = sdk.Trusted
		f.process(m)
		if got := strings.TrimPrefix(field(t, m), "mx.sluice.test"); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.file, got, test.want)
		}
		for what, change := range map[string][2]string{"body": {"Hi.", "Ho."}, "subject": {"Is dinner", "Was dinner"}} {
			m = f.message("joe@football.example.com", strings.Replace(string(raw), change[0], change[1], 1))
			m.Origin = sdk.Trusted
			f.process(m)
			if got := field(t, m); strings.Contains(got, "pass") || !strings.Contains(got, "dkim=fail") {
				t.Errorf("%s with another %s: %s", test.file, what, got)
			}
		}
	}
}

// signer signs for a domain with a fresh Ed25519 key whose record it puts into the zone.
type signer struct {
	f   *fixture
	key ed25519.PrivateKey
}

func newSigner(f *fixture, name, flags string) *signer {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	record := fmt.Sprintf(`%s. 300 TXT "v=DKIM1; k=ed25519; %sp=%s"`, name, flags, base64.StdEncoding.EncodeToString(public))
	if err := f.zone.Add(record); err != nil {
		f.t.Fatal(err)
	}
	return &signer{f, private}
}

func (s *signer) sign(domain, identifier, raw string) string {
	var out bytes.Buffer
	err := dkim.Sign(&out, strings.NewReader(strings.ReplaceAll(raw, "\n", "\r\n")), &dkim.SignOptions{
		Domain: domain, Selector: "s", Identifier: identifier, Signer: s.key, Hash: crypto.SHA256,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		HeaderKeys: []string{"From", "Subject"},
	})
	if err != nil {
		s.f.t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

func TestDKIM(t *testing.T) {
	const from = "From: b@reject.test\nSubject: x\n\nbody\n"
	tests := []struct {
		what   string
		signed func(f *fixture) string
		want   string // results in order, then DMARC's
		action sdk.Action
	}{
		{"aligned", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
		}, "pass pass", sdk.Accept},
		{"aligned by the organisation", func(f *fixture) string {
			return newSigner(f, "s._domainkey.mail.reject.test", "").sign("mail.reject.test", "", from)
		}, "pass pass", sdk.Accept},
		{"strict wants the very domain", func(f *fixture) string {
			return newSigner(f, "s._domainkey.mail.strict.test", "").sign("mail.strict.test", "", strings.Replace(from, "reject", "strict", 1))
		}, "pass fail", sdk.Reject},
		{"somebody else's", func(f *fixture) string {
			return newSigner(f, "s._domainkey.evil.test", "").sign("evil.test", "", from)
		}, "pass fail", sdk.Reject},
		{"signature of the suffix", func(f *fixture) string {
			return newSigner(f, "s._domainkey.test", "").sign("test", "", from)
		}, "pass fail", sdk.Reject},
		{"no key", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "")
			f.zone.Remove("s._domainkey.reject.test")
			return s.sign("reject.test", "", from)
		}, "permerror fail", sdk.Reject},
		{"key not to be had", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "")
			f.zone.Break("s._domainkey.reject.test", resolvertest.Fault{Rcode: 2})
			return s.sign("reject.test", "", from)
		}, "temperror temperror", sdk.Accept},
		{"huge key", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", `n=`+strings.Repeat(strings.Repeat("x", 200)+`" "`, 11)+"; ").sign("reject.test", "", from)
		}, "permerror fail", sdk.Reject},
		{"t=y passes", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "t=y; ").sign("reject.test", "", from)
		}, "pass pass", sdk.Accept},
		{"t=s and i= in a subdomain", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "t=y:s; ").sign("reject.test", "b@sub.reject.test", from)
		}, "permerror fail", sdk.Reject},
		{"t=s and i= at the domain", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "t=s; ").sign("reject.test", "b@reject.test", from)
		}, "pass pass", sdk.Accept},
		{"l=", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
			return strings.Replace(s, "v=1;", "v=1; l=4;", 1) + "appended\n"
		}, "policy fail", sdk.Reject},
		{"rubbish", func(*fixture) string { return "DKIM-Signature: rubbish\n" + from }, "permerror fail", sdk.Reject},
		{"empty", func(*fixture) string { return "DKIM-Signature:\n" + from }, "permerror fail", sdk.Reject},
		{"h= without From", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
			return strings.Replace(s, "h=From:Subject", "h=Subject", 1)
		}, "permerror fail", sdk.Reject},
		{"expired", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
			return strings.Replace(s, "v=1;", "v=1; x=1000000000;", 1)
		}, "permerror fail", sdk.Reject},
		{"no body and no empty line", func(f *fixture) string {
			return strings.TrimSuffix(newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: b@reject.test\nSubject: x\n\n"), "\n")
		}, "pass pass", sdk.Accept},
		{"second of two", func(f *fixture) string {
			return "DKIM-Signature: v=1; d=evil.test; s=none; a=rsa-sha256; h=from; bh=x; b=y\n" +
				newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
		}, "permerror pass pass", sdk.Accept},
		{"the ninth is not looked at", func(f *fixture) string {
			return strings.Repeat("DKIM-Signature: v=1; d=evil.test; s=none; a=rsa-sha256; h=from; bh=x; b=y\n", 49) +
				newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
		}, "permerror permerror permerror permerror permerror permerror permerror permerror policy fail", sdk.Reject},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		m := f.message("x@evil.test", test.signed(f))
		r := &results{signed: true}
		if err := f.stage.verify(t.Context(), m, r); err != nil {
			t.Fatal(err)
		}
		f.stage.decide(m, r)
		var words []string
		for _, k := range r.dkim {
			words = append(words, k.result)
		}
		words = append(words, strictest(r.dmarc).result)
		if got := strings.Join(words, " "); got != test.want || m.Recipients[0].Opinion.Action != test.action {
			t.Errorf("%s: %s and %s, want %s and %s; %+v", test.what, got, m.Recipients[0].Opinion.Action, test.want, test.action, r.dkim)
		}
		for _, k := range r.dkim {
			if (k.result == resultPass) != (k.why == "") {
				t.Errorf("%s: %s because of %q", test.what, k.result, k.why)
			}
		}
	}
}

// TestCostIsBounded: messages that make go-msgauth work without end are not given to it.
func TestCostIsBounded(t *testing.T) {
	const signature = "DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=football.example.com; s=brisbane; h=%s; bh=AAAA; b=AAAA\n"
	from := fmt.Sprintf(signature, "from")
	tests := []struct{ what, raw string }{
		{"folds", from + "From: a@evil.test\nX-Long: x\n" + strings.Repeat(" y\n", 300_000) + "\n"},
		{"names times fields", fmt.Sprintf(signature, "from"+strings.Repeat(":x", 20_000)) + "From: a@evil.test\n" + strings.Repeat("X: y\n", 50_000) + "\n"},
		{"empty lines", from + "From: a@evil.test\n\n" + strings.Repeat("\n", 20<<20)},
		{"large body, many signatures", strings.Repeat(strings.Replace(from, "brisbane", "nokey", 1), 8) + "From: a@evil.test\n\n" + strings.Repeat("0123456789abcde\n", 40<<16)},
	}
	for _, test := range tests {
		before := runtime.NumGoroutine()
		f := newFixture(t, "")
		m := f.message("a@evil.test", test.raw)
		start := time.Now()
		f.process(m)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: took %s", test.what, took)
		}
		if got := field(t, m); !strings.Contains(got, "dkim=policy") || strings.Contains(got, "dkim=pass") {
			t.Errorf("%s: %s", test.what, got[:min(len(got), 300)])
		}
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%s: %d goroutines, %d before", test.what, n, before)
		}
	}
}

// TestTruncatedBodyIsNoPass: a body that we stop reading must not pass by what was read of it.
func TestTruncatedBodyIsNoPass(t *testing.T) {
	f := newFixture(t, "")
	s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: b@reject.test\nSubject: x\n\nbody\n")
	m := f.message("x@evil.test", s+strings.Repeat("\n", 100_000)+"unsigned\n")
	f.process(m)
	if got := field(t, m); !strings.Contains(got, "dkim=policy") || !strings.Contains(got, "dmarc=fail") {
		t.Error(got)
	}
}

func TestGuard(t *testing.T) {
	broken := errors.New("broken disk")
	g := &guard{ctx: t.Context(), r: io.MultiReader(strings.NewReader("x"), errorReader{broken})}
	if got, err := io.ReadAll(g); err != nil || string(got) != "x" || g.err != broken {
		t.Errorf("%q, %v, %v", got, err, g.err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	g = &guard{ctx: ended, r: strings.NewReader("x")}
	if got, err := io.ReadAll(g); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// TestDeadline: a message whose peer is gone ends; the stage says so.
func TestDeadline(t *testing.T) {
	f := newFixture(t, "")
	f.zone.Break("example.org", resolvertest.Fault{Silent: true})
	m := f.message("alice@example.org", plain)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.stage.Process(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
