package wire

import (
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	for address, want := range map[string]string{
		"":                                      "<>",
		"a@b.example":                           "<a@b.example>",
		"a.b+c@b.example":                       "<a.b+c@b.example>",
		`"a b"@b.example`:                       `<"a b"@b.example>`,
		`a b@b.example`:                         `<"a b"@b.example>`,
		`"a@b"@c.example`:                       `<"a@b"@c.example>`,
		`a@b@c.example`:                         `<"a@b"@c.example>`,
		`"a\"b"@c.example`:                      `<"a\"b"@c.example>`,
		`"a"b"@c.example`:                       `<"\"a\"b\""@c.example>`,
		`"a\"@c.example`:                        `<"\"a\\\""@c.example>`,
		`""@c.example`:                          `<""@c.example>`,
		`.a@c.example`:                          `<".a"@c.example>`,
		`a> NOTIFY=NEVER@c.test`:                `<"a> NOTIFY=NEVER"@c.test>`,
		"ä@bücher.example":                      "<ä@bücher.example>",
		"a@[192.0.2.1]":                         "<a@[192.0.2.1]>",
		"a@[IPv6:2001:db8::1]":                  "<a@[IPv6:2001:db8::1]>",
		"Postmaster":                            "<Postmaster>",
		"a_b@c_d.example":                       "<a_b@c_d.example>",
		"a\r\nRSET@b.example":                   "",
		"a@b.example\r\nRSET":                   "",
		"a@b.example>":                          "",
		"a@b.example> NOTIFY=X":                 "",
		"a@b..example":                          "",
		"a@.example":                            "",
		"a@b.example.":                          "",
		"a@":                                    "",
		"@b.example":                            "",
		"a":                                     "",
		"a\x00@b.example":                       "",
		"a\x7f@b.example":                       "",
		"a\xff@b.example":                       "",
		"a@b\xff.example":                       "",
		"a@b example":                           "",
		"a@[192.0.2.1]x":                        "",
		"a@[192.0.2.1":                          "",
		"a@[192.0.2]":                           "",
		"a@[2001:db8::1]":                       "",
		"a@[IPv6:fe80::1%eth0]":                 "",
		"a@[x> BODY=7BIT]":                      "",
		"a@b\u2028c.example":                    "",
		strings.Repeat("a", 600) + "@b.example": "",
	} {
		got, err := appendPath(nil, address)
		if want == "" && address != "" {
			if err == nil {
				t.Errorf("%q is sent as %s", address, got)
			}
			continue
		}
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v; expected %s", address, got, err, want)
		}
	}
}

// FuzzPath: what is sent is one path in angle brackets, without anything that could end it or the command, and reading it back changes nothing.
func FuzzPath(f *testing.F) {
	f.Fuzz(func(t *testing.T, address, orcpt string) {
		if out, ok := appendORCPT(nil, orcpt, false); ok && (!printable(string(out)) || strings.ContainsAny(string(out), " =\r\n")) {
			t.Fatalf("%q became %q", orcpt, out)
		}
		if out := appendXtext(nil, orcpt); !printable(string(out)) || strings.ContainsAny(string(out), " =") {
			t.Fatalf("%q became %q", orcpt, out)
		}
		path, err := appendPath(nil, address)
		if err != nil {
			return
		}
		s := string(path)
		if s[0] != '<' || s[len(s)-1] != '>' || strings.ContainsAny(s, "\r\n\x00") {
			t.Fatalf("%q became %q", address, s)
		}
		inner := s[1 : len(s)-1]
		quoted := false
		for i := 0; i < len(inner); i++ {
			switch c := inner[i]; {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case !quoted && (c == '>' || c == '<' || c == ' '):
				t.Fatalf("%q became %q", address, s)
			}
		}
		if quoted {
			t.Fatalf("%q became %q", address, s)
		}
		if again, err := appendPath(nil, inner); len(inner) <= maxAddress && (err != nil || string(again) != s) {
			t.Fatalf("%q became %q and then %q, %v", address, s, again, err)
		}
	})
}
