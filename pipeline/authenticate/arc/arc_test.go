package arc

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// fixture has one key, with which every domain seals.
type fixture struct {
	t      testing.TB
	signer *dkim.Signer
	key    *dkim.Key
	body   dkim.Body
	sum    dkim.Sum
}

func newFixture(t testing.TB) *fixture {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t}
	if f.signer, err = dkim.NewSigner("one.test", "s1", private, 0); err != nil {
		t.Fatal(err)
	}
	text, err := dkim.Record(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	if f.key, err = dkim.ParseKey(text); err != nil {
		t.Fatal(err)
	}
	f.body.Want(true)
	f.body.Write([]byte("body\r\n"))
	f.body.Close()
	f.sum, _, _ = f.body.Sum(true)
	return f
}

func fieldsOf(raw ...string) (fields []pipeline.Field) {
	for _, r := range raw {
		name, _, _ := strings.Cut(r, ":")
		fields = append(fields, pipeline.Field{Name: name, Raw: []byte(r)})
	}
	return fields
}

// seal puts a set on top.
func (f *fixture) seal(fields []pipeline.Field, cv string) []pipeline.Field {
	f.t.Helper()
	s := Seal{
		Header: dkim.NewHeader(fields), Chain: Parse(fields), CV: cv, Results: "mx.one.test; none",
		Signer: f.signer, Body: f.sum, Now: time.Unix(1_800_000_000, 0),
	}
	set, err := s.Make()
	if err != nil {
		f.t.Fatal(err)
	}
	var raw []string
	for _, r := range set {
		raw = append(raw, string(r))
	}
	return append(fieldsOf(raw...), fields...)
}

// chain is a message with n sets.
func (f *fixture) chain(n int) []pipeline.Field {
	fields := fieldsOf("From: a@example.test\r\n", "Subject: x\r\n")
	for i := range n {
		cv := Pass
		if i == 0 {
			cv = None
		}
		fields = f.seal(fields, cv)
	}
	return fields
}

func (f *fixture) verify(fields []pipeline.Field) Verdict {
	return Parse(fields).Verify(&Check{
		Header: dkim.NewHeader(fields), Body: &f.body,
		Key:   func(*dkim.Signature) (*dkim.Key, error) { return f.key, nil },
		Spend: func(*dkim.Key, bool) bool { return true },
	})
}

// TestStructure: RFC 8617 section 5.2 steps 1 to 3. Each case changes a chain of three.
func TestStructure(t *testing.T) {
	f := newFixture(t)
	edit := func(old, fresh string, n int) func([]pipeline.Field) []pipeline.Field {
		return func(fields []pipeline.Field) []pipeline.Field {
			out := fieldsOf()
			done := false
			for _, field := range fields {
				raw := string(field.Raw)
				if strings.Contains(raw, old) && strings.Contains(raw, fmt.Sprintf(": i=%d;", n)) {
					raw, done = strings.Replace(raw, old, fresh, 1), true
				}
				if raw != "" {
					out = append(out, fieldsOf(raw)...)
				}
			}
			if !done {
				t.Fatalf("%q is not there", old)
			}
			return out
		}
	}
	drop := func(name string, n int) func([]pipeline.Field) []pipeline.Field {
		return func(fields []pipeline.Field) (out []pipeline.Field) {
			for _, field := range fields {
				if field.Name != name || !strings.Contains(string(field.Raw), fmt.Sprintf(": i=%d;", n)) {
					out = append(out, field)
				}
			}
			return out
		}
	}
	twice := func(name string, n int) func([]pipeline.Field) []pipeline.Field {
		return func(fields []pipeline.Field) (out []pipeline.Field) {
			for _, field := range fields {
				out = append(out, field)
				if field.Name == name && strings.Contains(string(field.Raw), fmt.Sprintf(": i=%d;", n)) {
					out = append(out, field)
				}
			}
			return out
		}
	}
	for _, test := range []struct {
		what   string
		change func([]pipeline.Field) []pipeline.Field
		want   string
	}{
		{"nothing", func(f []pipeline.Field) []pipeline.Field { return f }, ""},
		{"no results", drop(ResultsField, 1), "set 1 is not complete"},
		{"no message signature", drop(MessageField, 2), "set 2 is not complete"},
		{"no seal", drop(SealField, 3), "set 3 is not complete"},
		{"no first set", func(fields []pipeline.Field) []pipeline.Field {
			return drop(SealField, 1)(drop(MessageField, 1)(drop(ResultsField, 1)(fields)))
		}, "set 1 is not complete"},
		{"two seals", twice(SealField, 2), "set 2 has a field twice"},
		{"two results", twice(ResultsField, 1), "set 1 has a field twice"},
		{"two message signatures", twice(MessageField, 3), "set 3 has a field twice"},
		{"instance 0", edit("i=2;", "i=0;", 2), "a field has no instance from 1 to 50"},
		{"instance 51", edit("i=2;", "i=51;", 2), "a field has no instance from 1 to 50"},
		{"instance +2", edit("i=2;", "i=+2;", 2), "a field has no instance from 1 to 50"},
		{"no instance", edit("i=2;", "", 2), "a field has no instance from 1 to 50"},
		{"instance is a word", edit("i=2;", "i=two;", 2), "a field has no instance from 1 to 50"},
		{"cv=pass at the beginning", edit("cv=none", "cv=pass", 1), "seal 1 has a wrong cv="},
		{"cv=none later", edit("cv=pass", "cv=none", 2), "seal 2 has a wrong cv="},
		{"cv=fail later", edit("cv=pass", "cv=fail", 2), "seal 2 has a wrong cv="},
		{"cv=fail at the end", edit("cv=pass", "cv=fail", 3), "the last sealer found the chain broken"},
		{"cv=other", edit("cv=pass", "cv=other", 3), "seal 3 has a wrong cv="},
		{"no cv", edit("cv=pass;", "", 3), "seal 3 has a wrong cv="},
		{"CV in capitals, which is not what was signed", edit("cv=pass", "cv=PASS", 3), "seal 3: the signature does not verify"},
		{"h= in a seal", edit("cv=pass;", "cv=pass; h=from;", 3), "seal 3: h= has no place in a seal"},
		{"no s= in a seal", edit("s=s1;", "", 2), "seal 2: d= or s= is not a name"},
		{"a message signature that covers seals", edit("h=From:", "h=From:ARC-Seal:", 2), "message signature 2: h= names ARC-Seal"},
		{"a message signature without bh=", edit("bh=", "xbh=", 2), "message signature 2: bh= is not base64"},
		{"another time in the first seal", edit("t=1800000000", "t=1800000001", 1), ""},
		{"another result", edit("mx.one.test; none", "mx.one.test; dmarc=pass", 1), "seal 3: the signature does not verify"},
	} {
		fields := test.change(f.chain(3))
		got := f.verify(fields)
		switch {
		case test.what == "nothing":
			if got.Result != Pass || got.Oldest != 0 {
				t.Errorf("unchanged: %+v", got)
			}
		case got.Result != Fail || test.want != "" && got.Why != test.want:
			t.Errorf("%s: %+v, want %q", test.what, got, test.want)
		}
	}
	if got := f.verify(fieldsOf("From: a@example.test\r\n")); got.Result != None {
		t.Errorf("no chain: %+v", got)
	}
}

// TestHighest: a new set goes above whatever is there, and covers itself alone if that is broken (section 5.1.2).
func TestHighest(t *testing.T) {
	f := newFixture(t)
	broken := f.chain(2)[1:] // without the seal of the second set
	sealed := f.seal(broken, Fail)
	if raw := string(sealed[0].Raw); !strings.HasPrefix(raw, "ARC-Seal: i=3;") || !strings.Contains(raw, "cv=fail") {
		t.Fatalf("on a broken chain: %s", raw)
	}
	seal, err := dkim.ParseARCSeal(sealed[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	alone := &Chain{Sets: []Set{{Results: sealed[2].Raw, Message: &dkim.Signature{Raw: sealed[1].Raw}, Seal: seal}}}
	digests, err := alone.digests()
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.Verify(digests[0], f.key); err != nil {
		t.Errorf("the seal does not cover its own set alone: %v", err)
	}
	if got := f.seal(sealed, Fail); len(got) != len(sealed) {
		t.Error("something was added to a chain that had ended")
	}
	// What a caller says cannot make a chain better than it is.
	for cv, want := range map[string]string{Pass: "cv=fail", None: "cv=fail", Fail: "cv=fail"} {
		if raw := string(f.seal(broken, cv)[0].Raw); !strings.Contains(raw, want) {
			t.Errorf("%s: %s", cv, raw)
		}
	}
	if raw := string(f.seal(fieldsOf("From: a@example.test\r\n"), Pass)[0].Raw); !strings.Contains(raw, "cv=none") {
		t.Errorf("the first seal: %s", raw)
	}
}

// TestSpending: a chain that costs too much does not pass.
func TestSpending(t *testing.T) {
	f := newFixture(t)
	fields := f.chain(5)
	for limit := range 12 {
		n := 0
		got := Parse(fields).Verify(&Check{
			Header: dkim.NewHeader(fields), Body: &f.body,
			Key:   func(*dkim.Signature) (*dkim.Key, error) { return f.key, nil },
			Spend: func(*dkim.Key, bool) bool { n++; return n <= limit },
		})
		if want := map[bool]string{true: Fail, false: Pass}[limit < 6]; got.Result != want || n > limit+1 {
			t.Errorf("%d verifications: %+v after %d", limit, got, n)
		}
	}
}

// TestHostileChain: thousands of fields cost no more than to look at them.
func TestHostileChain(t *testing.T) {
	var raw []string
	for i := range 30_000 {
		raw = append(raw, fmt.Sprintf("ARC-Seal: i=%d; a=rsa-sha256; cv=none; d=x.test; s=s; b=AAAA\r\n", i%60))
	}
	start := time.Now()
	c := Parse(fieldsOf(raw...))
	if c.Why == "" || time.Since(start) > 2*time.Second {
		t.Errorf("%q after %s", c.Why, time.Since(start))
	}
}

func FuzzChain(f *testing.F) {
	fixture := newFixture(f)
	for n := range 3 {
		var text string
		for _, field := range fixture.chain(n) {
			text += string(field.Raw)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var fields []pipeline.Field
		for _, raw := range strings.SplitAfter(strings.ReplaceAll(text, "\r\n\t", "\x00"), "\r\n") {
			if name, _, ok := strings.Cut(raw, ":"); ok && len(fields) < 300 {
				fields = append(fields, pipeline.Field{Name: name, Raw: []byte(strings.ReplaceAll(raw, "\x00", "\r\n\t"))})
			}
		}
		c := Parse(fields)
		if c.Highest > MaxSets || len(c.Sets) > MaxSets || c.Why == "" && len(c.Sets) != c.Highest {
			t.Fatalf("%d sets, highest %d, %q", len(c.Sets), c.Highest, c.Why)
		}
		fixture.t = t
		v := fixture.verify(fields)
		if v.Result != None && v.Result != Pass && v.Result != Fail || v.Result == Fail && v.Why == "" {
			t.Fatalf("%+v", v)
		}
		if v.Result == Pass {
			c.Vouched("example.test", func(string) bool { return true })
		}
		before := len(fields)
		sealed := fixture.seal(fields, v.Result)
		if n := len(sealed) - before; n != 0 && n != 3 {
			t.Fatalf("%d fields added", n)
		}
		if v.Result != Fail && len(sealed) > before && c.Highest < MaxSets {
			if again := fixture.verify(sealed); again.Result != Pass {
				t.Fatalf("our seal on %s: %+v\n%s", v.Result, again, text)
			}
		}
	})
}

func FuzzResults(f *testing.F) {
	for _, s := range []string{
		"ARC-Authentication-Results: i=1; mx.test; dmarc=pass header.from=example.test", `X: i=1; a; dmarc=fail (dmarc=pass header.from=example.test) reason="; dmarc=pass"`, "X: ;;dmarc=pass header.from=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if dmarcPass([]byte(s), "example.test") && (!strings.Contains(strings.ToLower(s), "pass") || !strings.Contains(strings.ToLower(s), "header.from")) {
			t.Errorf("%q", s)
		}
	})
}
