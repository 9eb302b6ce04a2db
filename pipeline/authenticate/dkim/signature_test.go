package dkim

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
)

const good = "DKIM-Signature: v=1; a=rsa-sha256; d=Example.test; s=s1; c=relaxed/simple; h=From : To;\r\n\t t=1000; x=2000; bh=AAAA; b=QUJ\r\n DRA=="

// TestParse: DRILLS E4.2.
func TestParse(t *testing.T) {
	s, err := Parse([]byte(good + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Domain != "example.test" || s.Identity != "@example.test" || s.Names != "From:To" || !s.HeaderRelaxed || s.BodyRelaxed ||
		s.KeyName() != "s1._domainkey.example.test" || s.Short() != "QUJDRA==" || string(s.sign) != "ABCD" {
		t.Errorf("%+v", s)
	}
	for at, want := range map[int64]string{500: "", 1500: "", 2001: "it has expired", 1000 - 86500: "signed in the future"} {
		err := s.CheckTime(time.Unix(at, 0))
		if got := whyOf(err); got != want {
			t.Errorf("at %d: %q, want %q", at, got, want)
		}
	}
	for _, test := range []struct{ old, fresh, want string }{
		{"v=1;", "v=2;", "v= is not 1"},
		{"v=1;", "", "v= is not 1"},
		{"a=rsa-sha256", "a=rsa-sha1", "SHA-1 is not safe"},
		{"a=rsa-sha256", "a=rsa-md5", "the algorithm is unknown"},
		{"a=rsa-sha256; ", "", "the algorithm is unknown"},
		{"a=rsa-sha256", "a=RSA-SHA256", ""},
		{"d=Example.test", "d=", "d= or s= is not a name"},
		{"d=Example.test", "d=a..b", "d= or s= is not a name"},
		{"s=s1", "s=../../etc", "d= or s= is not a name"},
		{"s=s1", "s=" + strings.Repeat("a.", 120) + "a", "d= or s= is not a name"},
		{"c=relaxed/simple", "c=relaxed", ""},
		{"c=relaxed/simple", "c=nowsp/simple", "c= is unknown"},
		{"c=relaxed/simple", "c=simple/nowsp", "c= is unknown"},
		{"h=From", "h=Form", "h= does not name From"},
		{"h=From : To;", "", "h= is missing"},
		{"bh=AAAA", "bh=A", "bh= is not base64"},
		{"bh=AAAA; ", "", "bh= is not base64"},
		{"b=QUJ\r\n DRA==", "b=", "b= is not base64"},
		{"x=2000", "x=1000", "x= is not a time after t="},
		{"x=2000", "x=-1", "x= is not a time after t="},
		{"x=2000", "x=" + strings.Repeat("9", 70), ""},
		{"t=1000", "t=now", "t= is not a time"},
		{"t=1000", "t=1000; t=1001", "it is no list of tags"},
		{"t=1000", "l=x", "l= is not a number"},
		{"t=1000", "l=" + strings.Repeat("9", 77), "l= is not a number"},
		{"t=1000", "q=dns/txt", ""},
		{"t=1000", "q=http:dns/txt", ""},
		{"t=1000", "q=http", "q= names no way to the key that we know"},
		{"t=1000", "i=a@EXAMPLE.test", ""},
		{"t=1000", "i=@sub.example.test", ""},
		{"t=1000", "i=a@evilexample.test", "i= is not at d="},
		{"t=1000", "i=a@test", "i= is not at d="},
		{"t=1000", "i=example.test", "i= is not at d="},
		{"t=1000", "unknown=1; and=2", ""},
		{"t=1000", strings.Repeat("=;", 3), "it is no list of tags"},
	} {
		raw := strings.Replace(good, test.old, test.fresh, 1)
		if raw == good {
			t.Fatalf("%q is not there", test.old)
		}
		s, err := Parse([]byte(raw))
		if got := whyOf(err); got != test.want || s == nil {
			t.Errorf("%s: %q, want %q", test.fresh, got, test.want)
		}
	}
}

func whyOf(err error) string {
	var f *Failure
	if errors.As(err, &f) {
		return f.Why
	}
	if err != nil {
		return "no *Failure: " + err.Error()
	}
	return ""
}

// TestLength: DRILLS E4.2.
func TestLength(t *testing.T) {
	body := pieces("four\r\nmore\r\n", 5)
	sum, size, _ := body.Sum(true)
	for l, want := range map[int64]string{
		-1: "", size: "", size + 1: "l= is more than the body has", 6: "l= leaves part of the body unsigned", 0: "l= leaves part of the body unsigned",
	} {
		s := &Signature{BodyRelaxed: true, bodyHash: sum[:], length: l}
		if got := whyOf(s.CheckBody(body)); got != want {
			t.Errorf("l=%d: %q, want %q", l, got, want)
		}
	}
}

// TestParseKey: DRILLS E4.2.
func TestParseKey(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed := base64.StdEncoding.EncodeToString(public)
	spki := func(bits int) string {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		data, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(data)
	}
	large := spki(2048)
	raw, _ := base64.StdEncoding.DecodeString(large)
	parsed, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	bare := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(parsed.(*rsa.PublicKey)))
	// 512 bits; crypto/rsa makes none so small.
	const small = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKFx2P1O8c8l3cZqz3Dn1fXc1Q0xqQ2FZ6J0n6o7JmC0s1hQ2zY1w6q3s5b1o0v8g9v7q6w3c2e1f4a5d6b7c8kCAwEAAQ=="
	huge, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 8200, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ record, want string }{
		{"p=" + base64.StdEncoding.EncodeToString(huge), "the RSA key has more than 8192 bits"},
		{"v=DKIM1; k=rsa; p=" + large, ""},
		{"p=" + large[:100] + " " + large[100:], ""},
		{"k=RSA; p=" + bare, ""},
		{"v=DKIM1; k=ed25519; p=" + ed, ""},
		{"v=DKIM1; h=sha1:sha256; s=email; p=" + large, ""},
		{"v=DKIM1; s=*; t=y:s; p=" + large, ""},
		{"v=DKIM1; k=rsa; p=" + small, "the RSA key has less than 1024 bits"},
		{"v=DKIM1; p=", "the key is revoked"},
		{"v=DKIM1", "the key record has no key"},
		{"", "the key record has no key"},
		{"v=spf1 -all", "the key record is of another version"},
		{"some words", "the key record is no list of tags"},
		{"v=DKIM2; p=" + large, "the key record is of another version"},
		{"p=" + large + "; v=DKIM1", "the key record is of another version"},
		{"v=DKIM1; h=sha1; p=" + large, "the key is not for SHA-256"},
		{"v=DKIM1; s=tlsrpt; p=" + large, "the key is not for mail"},
		{"v=DKIM1; k=dsa; p=" + large, "the key is of an unknown kind"},
		{"v=DKIM1; k=ed25519; p=" + large, "the Ed25519 key has not 32 octets"},
		{"v=DKIM1; k=rsa; p=" + ed, "the key is no RSA key"},
		{"v=DKIM1; p=!", "the key is not base64"},
		{"v=DKIM1; n=" + strings.Repeat("x", 3000) + "; p=" + large, "the key record is too large"},
	} {
		k, err := ParseKey(test.record)
		if got := whyOf(err); got != test.want {
			t.Errorf("%.60s: %q, want %q", test.record, got, test.want)
		}
		if err == nil && (k.Cost() < 1 || k.Bits() < 256) {
			t.Errorf("%.60s: %+v", test.record, k)
		}
	}
}

// TestSignOne: a signature verifies, and with another key, header or field does not.
func TestSignOne(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner("example.test", "s1", private, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Record(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHeader([]pipeline.Field{{Name: "From", Raw: []byte("From: a@example.test\r\n")}, {Name: "Subject", Raw: []byte("Subject: x\r\n")}})
	body := pieces("x\r\n", 1)
	sum, _, _ := body.Sum(true)
	now := time.Unix(1_800_000_000, 0)
	names := Names(h)
	raw, err := signer.Sign(Hash(h, names), names, sum, now)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(raw string, h *Header) string {
		s, err := Parse([]byte(raw))
		for _, check := range []func() error{
			func() error { return err }, func() error { return s.CheckTime(now) }, func() error { return s.CheckBody(body) },
			func() error { return s.CheckKey(key) }, func() error { return s.CheckHeader(h, key) },
		} {
			if err := check(); err != nil {
				return whyOf(err)
			}
		}
		return ""
	}
	if got := verify(string(raw), h); got != "" {
		t.Errorf("%s\n%s", got, raw)
	}
	if !strings.Contains(string(raw), fmt.Sprintf("x=%d", now.Add(time.Hour).Unix())) {
		t.Errorf("no x=: %s", raw)
	}
	other := NewHeader([]pipeline.Field{{Name: "From", Raw: []byte("From: b@example.test\r\n")}, {Name: "Subject", Raw: []byte("Subject: x\r\n")}})
	if got := verify(string(raw), other); got != "the signature does not verify" {
		t.Errorf("another author: %q", got)
	}
	for i := range raw { // no octet of the field itself may change, but for white space and the case of its name
		changed := string(raw[:i]) + string(raw[i]^1) + string(raw[i+1:])
		if raw[i] == '\r' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == ' ' {
			continue
		}
		if got := verify(changed, h); got == "" {
			t.Errorf("passes with octet %d changed: %q", i, changed)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{good, "DKIM-Signature:", "DKIM-Signature: rubbish", strings.ReplaceAll(good, "; ", ";\r\n "), good + "; l=5; q=dns/txt; i=@x.example.test;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		start, end := signatureValue([]byte(raw))
		if start < 0 || start > end || end > len(raw) {
			t.Fatalf("b= at %d to %d of %d", start, end, len(raw))
		}
		for _, parse := range []func([]byte) (*Signature, error){Parse, ParseARCMessage, ParseARCSeal} {
			s, err := parse([]byte(raw))
			if s == nil {
				t.Fatal("no signature")
			}
			if err != nil && strings.HasPrefix(whyOf(err), "no *Failure") {
				t.Fatal(err)
			}
			if len(s.Short()) > 8 {
				t.Error("too long")
			}
			if err != nil {
				continue
			}
			if len(s.KeyName()) > 253 || strings.ContainsAny(s.KeyName(), " \r\n\"()") {
				t.Errorf("key name %q", s.KeyName())
			}
			// What we cut out of the field is what the tag list calls b=.
			if got := Squeeze(string(raw[start:end])); got != s.Tags.Squeezed("b") {
				t.Errorf("cut %q, read %q", got, s.Tags.Squeezed("b"))
			}
		}
	})
}

func FuzzKey(f *testing.F) {
	for _, s := range []string{"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "v=DKIM1; p=", "k=rsa; p=MAA=", "t=y:s; h=sha256; s=*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil && strings.HasPrefix(whyOf(err), "no *Failure") {
			t.Fatal(err)
		}
		if err == nil {
			k.verify(make([]byte, 32), []byte(text))
		}
	})
}

func FuzzTags(f *testing.F) {
	for _, s := range []string{"v=1; a=rsa-sha256; b=ab\r\n cd; h=from:to", "a=b;a=c", "=;", "t=y:s; p="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tags, ok := ParseTags(s)
		if ok && len(tags) > MaxTags || !ok && tags != nil {
			t.Errorf("%d tags, %v", len(tags), ok)
		}
		for _, tag := range tags {
			if tag.Name == "" || strings.ContainsAny(tag.Name, ";=") {
				t.Errorf("tag %+v", tag)
			}
		}
	})
}
