package mtasts

import (
	"strings"
	"testing"
	"time"
)

// TestParsePolicy: DRILLS E5.1.
func TestParsePolicy(t *testing.T) {
	const head = "version: STSv1\nmode: enforce\n"
	many := strings.Repeat("mx: a.test\n", maxPatterns)
	for _, c := range []struct {
		name, text string
		want       string // mode, patterns and seconds; "": an error
	}{
		{"of the RFC", "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\nmax_age: 604800\n",
			"enforce mail.example.com *.example.net backupmx.example.com 604800"}, // section 3.2
		{"CRLF", "version: STSv1\r\nmode: testing\r\nmx: a.test\r\nmax_age: 86400\r\n", "testing a.test 86400"},
		{"no last line end", head + "mx: a.test\nmax_age: 1", "enforce a.test 1"},
		{"no spaces", "version:STSv1\nmode:enforce\nmx:a.test\nmax_age:1\n", "enforce a.test 1"},
		{"spaces", "version: \t STSv1 \nmode:   enforce\t\nmx: a.test  \nmax_age: 1\n", "enforce a.test 1"},
		{"empty lines", head + "\n\nmx: a.test\nmax_age: 1\n\n", "enforce a.test 1"},
		{"unknown fields", head + "x-y.z_1: whatever: it says\nmx: a.test\nmax_age: 1\n", "enforce a.test 1"},
		{"the first counts", head + "mode: none\nmx: a.test\nmax_age: 1\nmax_age: 2\nversion: STSv2\n", "enforce a.test 1"},
		{"none without mx", "version: STSv1\nmode: none\nmax_age: 1\n", "none 1"},
		{"a year", head + "mx: a.test\nmax_age: 31557600\n", "enforce a.test 31557600"},
		{"more than a year", head + "mx: a.test\nmax_age: 9999999999\n", "enforce a.test 31557600"},
		{"capitals", head + "mx: *.Example.TEST.\nmax_age: 1\n", "enforce *.example.test 1"},
		{"U-label", head + "mx: *.bücher.test\nmax_age: 1\n", "enforce *.xn--bcher-kva.test 1"},
		{"as many mx as allowed", head + many + "max_age: 1\n", "enforce " + strings.Repeat("a.test ", maxPatterns) + "1"},

		{"empty", "", ""},
		{"no version", "mode: enforce\nmx: a.test\nmax_age: 1\n", ""},
		{"version is not first", "mode: enforce\nversion: STSv1\nmx: a.test\nmax_age: 1\n", ""},
		{"another version", "version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 1\n", ""},
		{"no mode", "version: STSv1\nmx: a.test\nmax_age: 1\n", ""},
		{"unknown mode", "version: STSv1\nmode: report\nmx: a.test\nmax_age: 1\n", ""},
		{"no mx", head + "max_age: 1\n", ""},
		{"no max_age", head + "mx: a.test\n", ""},
		{"negative", head + "mx: a.test\nmax_age: -1\n", ""},
		{"plus", head + "mx: a.test\nmax_age: +1\n", ""},
		{"eleven digits", head + "mx: a.test\nmax_age: 00000000001\n", ""},
		{"HTML", "<!DOCTYPE html>\n<html>\n", ""},
		{"star in the middle", head + "mx: a.*.test\nmax_age: 1\n", ""},
		{"star alone", head + "mx: *\nmax_age: 1\n", ""},
		{"star glued", head + "mx: *a.test\nmax_age: 1\n", ""},
		{"dot first", head + "mx: .a.test\nmax_age: 1\n", ""},
		{"two dots", head + "mx: a..test\nmax_age: 1\n", ""},
		{"two names", head + "mx: a.test, b.test\nmax_age: 1\n", ""},
		{"empty mx", head + "mx:\nmax_age: 1\n", ""},
		{"long mx", head + "mx: " + strings.Repeat("a.", 150) + "test\nmax_age: 1\n", ""},
		{"too many mx", head + many + "mx: a.test\nmax_age: 1\n", ""},
		{"NUL", head + "mx: a.test\x00\nmax_age: 1\n", ""},
		{"no field", head + "hello\nmx: a.test\nmax_age: 1\n", ""},
		{"too long", head + "x: " + strings.Repeat("x", MaxPolicySize) + "\nmx: a.test\nmax_age: 1\n", ""},
	} {
		p, err := ParsePolicy([]byte(c.text))
		if err != nil {
			if c.want != "" {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		words := append([]string{string(p.Mode)}, p.MX...)
		lines := p.Lines()
		words = append(words, strings.TrimPrefix(lines[len(lines)-1], "max_age: "))
		if got := strings.Join(words, " "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestMatch has the examples of RFC 8461 section 4.1.
func TestMatch(t *testing.T) {
	p := &Policy{MX: []string{"mail.example.com", "*.example.net"}}
	for host, want := range map[string]bool{
		"mail.example.com": true, "mx.mail.example.com": false, "example.com": false, "other.example.com": false,
		"mx.example.net": true, "example.net": false, "a.b.example.net": false, ".example.net": false, "mx.example.net.evil.test": false,
		"": false, "*.example.net": true,
	} {
		if got := p.Match(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		texts []string
		id    string
		fails bool
	}{
		{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z", false}, // section 3.1
		{[]string{"v=STSv1;id=1"}, "1", false},
		{[]string{"v=STSv1 ; id=1 ; ext=a-b ;"}, "1", false},
		{[]string{"other", "v=spf1 -all", "v=STSv1; id=a"}, "a", false},
		{[]string{"v=STSv10; id=a"}, "", false},
		{[]string{"V=STSv1; id=a"}, "", false},
		{[]string{" v=STSv1; id=a"}, "", false},
		{nil, "", false},
		{[]string{"v=STSv1; id=a", "v=STSv1; id=a"}, "", true},
		{[]string{"v=STSv1; id=a", "v=STSv1; id=b"}, "", true},
		{[]string{"v=STSv1;"}, "", true},
		{[]string{"v=STSv1; id=;"}, "", true},
		{[]string{"v=STSv1; id=a b"}, "", true},
		{[]string{"v=STSv1; id=a-b"}, "", true},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, "", true},
		{[]string{"v=STSv1; id=a; nonsense"}, "", true},
		{[]string{"v=STSv1; id=a; id=b"}, "a", false},
	} {
		id, err := ParseRecord(c.texts)
		if id != c.id || (err != nil) != c.fails {
			t.Errorf("%q: got %q, %v", c.texts, id, err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmax_age: 604800\n", "mail.example.com")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 0\r\n", "")
	f.Add("version: STSv1\nmode: testing\nmx: *.b\xc3\xbccher.test\nmax_age: 9999999999", "a.xn--bcher-kva.test")
	f.Add("version:STSv1\nmode:enforce\nmx:*.\nmax_age:1", ".")
	f.Fuzz(func(t *testing.T, text, host string) {
		p, err := ParsePolicy([]byte(text))
		if err != nil {
			if len(err.Error()) > 500 {
				t.Errorf("an error of %d octets", len(err.Error()))
			}
			return
		}
		if p.MaxAge < 0 || p.MaxAge > maxAge*time.Second || len(p.MX) > maxPatterns {
			t.Errorf("%+v", p)
		}
		for _, mx := range p.MX {
			if len(mx) > 260 || strings.ContainsAny(mx, " \t\r\n:\x00") || strings.LastIndexByte(mx, '*') > 0 {
				t.Errorf("mx %q", mx)
			}
		}
		if p.Match(host) && (len(p.MX) == 0 || host == "") {
			t.Errorf("%q matches %q", host, p.MX)
		}
		again, err := ParsePolicy([]byte(strings.Join(p.Lines(), "\n"))) // what the Cache keeps
		if err != nil || strings.Join(again.Lines(), "\n") != strings.Join(p.Lines(), "\n") {
			t.Errorf("kept as %q, %v", p.Lines(), err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	for _, text := range []string{"v=STSv1; id=20160831085700Z;", "v=STSv1;id=1", "v=STSv1 ;\tid=1;;x=y", "v=STSv1"} {
		f.Add(text, "")
		f.Add("v=spf1", text)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		id, err := ParseRecord([]string{one, two})
		if len(id) > 32 || strings.Trim(id, idOctets) != "" || err != nil && (id != "" || len(err.Error()) > 500) {
			t.Errorf("id %q, %v", id, err)
		}
	})
}
