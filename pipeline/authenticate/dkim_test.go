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
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
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
	err := msgauth.Sign(&out, strings.NewReader(strings.ReplaceAll(raw, "\n", "\r\n")), &msgauth.SignOptions{
		Domain: domain, Selector: "s", Identifier: identifier, Signer: s.key, Hash: crypto.SHA256,
		HeaderCanonicalization: msgauth.CanonicalizationRelaxed, BodyCanonicalization: msgauth.CanonicalizationRelaxed,
		HeaderKeys: []string{"From", "Subject"},
	})
	if err != nil {
		s.f.t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

// TestDKIM: DRILLS E4.2.
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
		{"t=y is as if it were not signed", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "t=y; ").sign("reject.test", "", from)
		}, "policy fail", sdk.Reject},
		{"t=y that fails is so too", func(f *fixture) string {
			return strings.Replace(newSigner(f, "s._domainkey.reject.test", "t = s : y; ").sign("reject.test", "", from), "Subject: ", "Subject: not ", 1)
		}, "policy fail", sdk.Reject},
		{"t=y beside one that counts", func(f *fixture) string {
			once := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
			return newSigner(f, "s._domainkey.sub.reject.test", "t=y; ").sign("sub.reject.test", "", once)
		}, "policy pass pass", sdk.Accept},
		{"another flag", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "t=yes:x; ").sign("reject.test", "", from)
		}, "pass pass", sdk.Accept},
		{"t=s says nothing of From", func(f *fixture) string {
			return newSigner(f, "s._domainkey.mail.reject.test", "t=s; ").sign("mail.reject.test", "", from)
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
		{"signed in the future", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", from)
			return strings.Replace(s, " t=", " t=9", 1)
		}, "policy fail", sdk.Reject},
		{"the key record is junk", func(f *fixture) string {
			return newSigner(f, "s._domainkey.reject.test", "junk; =; ").sign("reject.test", "", from)
		}, "permerror fail", sdk.Reject},
		{"junk stands beside the key", func(f *fixture) string {
			s := newSigner(f, "s._domainkey.reject.test", "")
			for _, text := range []string{"junk", "v=spf1 -all", "v=DKIM1; p=", `\000\255`} {
				if err := f.zone.Add(`s._domainkey.reject.test. 300 TXT "` + text + `"`); err != nil {
					f.t.Fatal(err)
				}
			}
			return s.sign("reject.test", "", from)
		}, "pass pass", sdk.Accept},
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

// TestTestingKey: what a key in testing mode signs is treated like unsigned mail by all who ask (RFC 6376 section 3.6.1), and the
// field says how the signature fared.
func TestTestingKey(t *testing.T) {
	const from = "From: b@reject.test\nSubject: x\n\nbody\n"
	unsigned := func(auth map[string]string) string { return fmt.Sprint(auth["dkim"], auth["dkim.domains"]) }
	for _, test := range []struct{ change, want string }{
		{"x", `dkim=policy reason="the signature passes, but its key is in testing mode" header.d=reject.test`},
		{"y", `dkim=policy reason="its key is in testing mode, and the signature does not verify" header.d=reject.test`},
	} {
		f := newFixture(t, "")
		raw := newSigner(f, "s._domainkey.reject.test", "t=y; ").sign("reject.test", "", from)
		m := f.message("x@reject.test", strings.Replace(raw, "Subject: x", "Subject: "+test.change, 1))
		m.Peer.Addr = m.Peer.Addr.Next() // SPF does not know it
		f.process(m)
		bare := f.message("x@reject.test", from)
		bare.Peer.Addr = m.Peer.Addr
		f.process(bare)
		if got := field(t, m); !strings.Contains(got, test.want) || strings.Contains(got, "(the key") {
			t.Errorf("got %s, want %s", got, test.want)
		}
		if got, want := unsigned(m.Envelope().Auth), unsigned(bare.Envelope().Auth); got != want || m.Auth.SenderVerified {
			t.Errorf("plugins see %q, want %q; verified: %v", got, want, m.Auth.SenderVerified)
		}
		if got, want := m.Recipients[0].Opinion.Action, bare.Recipients[0].Opinion.Action; got != want || got != sdk.Reject {
			t.Errorf("it is %s, unsigned %s", got, want)
		}
	}
}

// TestCostIsBounded: DRILLS E4.2. Work grows with the size of a message, whatever its signatures ask for.
func TestCostIsBounded(t *testing.T) {
	const signature = "DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=football.example.com; s=brisbane; h=%s; bh=%s; b=AAAA\n"
	sums := map[string]string{}
	for what, body := range map[string]string{"empty": "", "lines": strings.Repeat("\r\n", 8<<20) + "x\r\n"} {
		var b dkim.Body
		b.Want(false)
		b.Write([]byte(body))
		b.Close()
		sum, _, _ := b.Sum(false)
		sums[what] = base64.StdEncoding.EncodeToString(sum[:])
	}
	from := fmt.Sprintf(signature, "from", sums["empty"])
	tests := []struct{ what, raw string }{
		{"folds", from + "From: a@evil.test\nX-Long: x\n" + strings.Repeat(" y\n", 300_000) + "\n"},
		{"names times fields", fmt.Sprintf(signature, "from"+strings.Repeat(":x", 200_000), sums["empty"]) + "From: a@evil.test\n" + strings.Repeat("X: y\n", 100_000) + "\n"},
		{"names that are not there", fmt.Sprintf(signature, "from"+strings.Repeat(":z", 400_000), sums["empty"]) + "From: a@evil.test\n" + strings.Repeat("X: y\n", 10_000) + "\n"},
		{"different names", fmt.Sprintf(signature, "from", sums["empty"]) + "From: a@evil.test\n" + manyNames(80_000) + "\n"},
		{"one field of 900 KiB", from + "From: a@evil.test\nX: " + strings.Repeat("y ", 450<<10) + "\n\n"},
		{"empty lines", fmt.Sprintf(signature, "from", sums["lines"]) + "From: a@evil.test\n\n" + strings.Repeat("\n", 8<<20) + "x\n"},
		{"large body, 50 signatures", strings.Repeat(from, 50) + "From: a@evil.test\n\n" + strings.Repeat("0123456789abcde\n", 20<<16)},
		{"a list of tags without end", "DKIM-Signature: " + strings.Repeat("x=y;", 200_000) + "\nFrom: a@evil.test\n\n"},
	}
	for _, test := range tests {
		before := runtime.NumGoroutine()
		f := newFixture(t, "")
		m := f.message("a@evil.test", test.raw)
		start := time.Now()
		f.process(m)
		if took := time.Since(start); took > 5*time.Second { // under the race detector, beside other tests
			t.Errorf("%s: took %s", test.what, took)
		}
		if got := field(t, m); strings.Contains(got, "dkim=pass") || !strings.Contains(got, "dkim=") || len(got) > 4000 {
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

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: y\n", i)
	}
	return b.String()
}

// TestSpending (DRILLS E4.2): a message cannot make us verify with large keys for ever.
func TestSpending(t *testing.T) {
	f := newFixture(t, "")
	s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: b@reject.test\nSubject: x\nX-Large: "+strings.Repeat("y ", 400<<10)+"\n\n")
	head, rest, _ := strings.Cut(s, "From: b@")
	m := f.message("x@evil.test", strings.Repeat(head, 8)+"From: b@"+rest)
	f.process(m)
	if got := field(t, m); strings.Count(got, "dkim=pass") != 8 {
		t.Errorf("eight signatures of a header of 800 KiB: %s", got)
	}
	c := &checker{cost: 1}
	key, err := dkim.ParseKey("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for c.spend(key, true) {
		n++
	}
	if n < 200 || n > 250 {
		t.Errorf("%d verifications before it is enough", n)
	}
}

// TestTruncatedBodyIsNoPass (DRILLS E4.2): what stands behind a run of empty lines is part of the body.
func TestTruncatedBodyIsNoPass(t *testing.T) {
	f := newFixture(t, "")
	s := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: b@reject.test\nSubject: x\n\nbody\n")
	m := f.message("x@evil.test", s+strings.Repeat("\n", 100_000)+"unsigned\n")
	f.process(m)
	if got := field(t, m); !strings.Contains(got, "dkim=fail") || !strings.Contains(got, "dmarc=fail") {
		t.Error(got)
	}
	m = f.message("x@evil.test", s+strings.Repeat("\n", 100_000))
	f.process(m)
	if got := field(t, m); !strings.Contains(got, "dkim=pass") {
		t.Errorf("empty lines at the end do not count (RFC 6376 section 3.4.3): %s", got)
	}
}

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
