package receive

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct{ in, address, rest string }{
		{"<>", "", ""},
		{"<> SIZE=1", "", " SIZE=1"},
		{"<a@b>", "a@b", ""},
		{"<A.b+c=d@E.example> X", "A.b+c=d@E.example", " X"},
		{`<"a"@b>`, "a@b", ""},
		{`<"a b"@b>`, `"a b"@b`, ""},
		{`<"a\b"@b>`, "ab@b", ""},
		{`<"a\"\\"@b>`, `"a\"\\"@b`, ""},
		{`<"a@b"@c>`, `"a@b"@c`, ""},
		{`<"a>b"@c>`, `"a>b"@c`, ""},
		{`<"a..b"@c>`, `"a..b"@c`, ""},
		{`<"<x>"@c>`, `"<x>"@c`, ""},
		{"<@a.example:u@b>", "u@b", ""},
		{"<@a.example,@c:u@b>", "u@b", ""},
		{"<user%remote@local>", "user%remote@local", ""},
		{"<ä@ö.example>", "ä@ö.example", ""},
		{"<a@[192.0.2.1]>", "a@[192.0.2.1]", ""},
		{"<a@[IPv6:::1]>", "a@[IPv6:::1]", ""},
		{"<postMASTER>", "postmaster", ""},
		{`<"postmaster">`, "postmaster", ""},
		{"<a_b@c_d.example>", "a_b@c_d.example", ""},
	} {
		p, rest, ok := parsePath(c.in)
		if !ok || p.address != c.address || rest != c.rest {
			t.Errorf("%s: %q, %q, %v", c.in, p.address, rest, ok)
		}
	}
	for _, bad := range []string{
		"", "a@b", "<", "<a", "<a@b", "<a@>", "<@b>", "<a>", "<a@b@c>", "<a b@c>", "<a@b c>", `<"a@b>`, `<""@b>`, `<"a"b@c>`,
		"<a..b@c>", "<.a@c>", "<a.@c>", "<a@.c>", "<a@c.>", "<a@c..d>", "<a@-c>", "<a@c->", "<a@[1.2.3]>", "<a@[IPv6:1.2.3.4]>",
		"<a@[::1]>", "<a@[IPv6:fe80::1%eth0]>", "<a@[1.2.3.4>", "<a@1.2.3.4]>", "<@a:>", "<@:a@b>", "<@a,b:u@c>", "<a\x7f@b>",
		"<a@b\u00a0c>", "<\u2028@b>", "<a\xff@b>", "<a@b\xff>", "<(a)@b>", "<a@b(c)>", "<a,b@c>",
		"<" + strings.Repeat("a", maxLocal+1) + "@b>", "<a@" + strings.Repeat("b", 64) + ".example>",
		"<a@" + strings.Repeat("b.", 128) + "c>", "<" + strings.Repeat("a", 100) + "@" + strings.Repeat("b.", 115) + "c>",
	} {
		if p, _, ok := parsePath(bad); ok {
			t.Errorf("%s: read as %q", bad, p.address)
		}
	}
}

// FuzzPath: what is read can be written and read again, fits a reply line, and has no octet that could end a line or a field.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b>", `<"a\"b"@c> X=1`, "<@a,@b:c@d>", "<a@[IPv6:::1]>", "<Postmaster>", "<ä@ö>", "<>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, rest, ok := parsePath(s)
		if !ok || p.address == "" || p.postmaster {
			return
		}
		if !strings.HasSuffix(s, rest) || len(p.address) > maxPath || !utf8.ValidString(p.address) || strings.ContainsAny(p.address, "\r\n\x00") {
			t.Fatalf("%q: %q, rest %q", s, p.address, rest)
		}
		if again, more, ok := parsePath("<" + p.address + ">"); !ok || again.address != p.address || more != "" {
			t.Fatalf("%q: %q is read again as %q, %v", s, p.address, again.address, ok)
		}
	})
}
