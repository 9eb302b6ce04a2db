package mime

import (
	"slices"
	"strings"
	"testing"
)

func TestDecodeParam(t *testing.T) {
	for _, c := range []struct {
		field string // parameters of a Content-Disposition
		want  Value
		ok    bool
	}{
		{`filename=a.txt`, Value{Text: "a.txt"}, true},
		{`filename="a b.txt"`, Value{Text: "a b.txt"}, true},
		{`other=x`, Value{}, false},
		{`filename*=utf-8''%e2%82%ac%20rates.pdf`, Value{Text: "€ rates.pdf"}, true},
		{`filename*=iso-8859-1'en'%A3.pdf`, Value{Text: "£.pdf"}, true},
		{`filename*=koi8-r''%d0%d2.exe`, Value{Text: "пр.exe"}, true},
		{`filename*0=foo; filename*1=bar.exe`, Value{Text: "foobar.exe", Pieces: true}, true},
		{`filename*1=bar.exe; filename*0=foo`, Value{Text: "foobar.exe", Pieces: true}, true},
		{`filename*0*=utf-8''f%c3; filename*1*=%bc; filename*2=.e%78e`, Value{Text: "fü.e%78e", Pieces: true}, true},
		{`filename*1=late.exe`, Value{}, false},
		{`filename="=?utf-8?q?f=C3=BC.exe?="`, Value{Text: "fü.exe", Words: true}, true},
		{`filename="=?utf-8?b?YQ==?= =?utf-8?b?Yg==?="`, Value{Text: "ab", Words: true}, true},
		{`filename="=?x-none?q?a?="`, Value{Text: "=?x-none?q?a?=", Words: true}, true},
		{`filename="=?"`, Value{Text: "=?"}, true},
		{`filename=safe.txt; filename*=utf-8''bad.exe`, Value{Text: "bad.exe", Plain: "safe.txt", Both: true}, true},
		{`filename=safe.txt; filename*0=bad; filename*1=.exe`, Value{Text: "bad.exe", Plain: "safe.txt", Both: true, Pieces: true}, true},
		{`filename*0="=?utf-8?q?a=2E"; filename*1="exe?="`, Value{Text: "a.exe", Pieces: true, Words: true}, true},
		{`filename*=100%`, Value{Text: "100%"}, true},
		{`filename*=utf-8'%zz%4`, Value{Text: "utf-8'%zz%4"}, true},
		{`filename*=x-none''%ff`, Value{Text: "\uFFFD"}, true},
		{"filename=\xff", Value{Text: "\uFFFD"}, true},
	} {
		s := parse("Content-Disposition: attachment; " + c.field + "\r\n\r\n")
		if got, ok := DecodeParam(s.Root.DispositionParams, "filename"); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v %v, expected %+v", c.field, got, ok, c.want)
		}
	}
}

func TestEachWord(t *testing.T) {
	for s, want := range map[string][]string{
		"":              nil,
		"=?utf-8?q?a?=": {"a"},
		"=?utf-8?b?AA==?==?utf-8?Q?=0A?= x =?utf-8?q?b?=": {"\x00", "\n", "b"},
		"=?utf-8?q?a":                nil,
		"=? =?utf-8?q?a?=":           {"a"},
		"=?none?q?a?= =?utf-8?q?b?=": {"b"},
	} {
		var got []string
		EachWord(s, func(w string) { got = append(got, w) })
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, expected %q", s, got, want)
		}
	}
	EachWord(strings.Repeat("=?", 100000), func(string) { t.Error("a word") }) // linear
}

func TestKnownCharset(t *testing.T) {
	for charset, known := range map[string]bool{
		"": true, "utf-8": true, "iso-8859-15": true, "koi8-r": true, "gb2312": true, "hz-gb-2312": true, "cp437": true,
		"ibm850": true, "utf-7": false, "x-unknown": false, strings.Repeat("a", 100): false, "utf-8 ": true,
	} {
		if KnownCharset(charset) != known {
			t.Errorf("%q is known: %v", charset, !known)
		}
	}
	if got := ToUTF8("cp437", []byte{0x81}); got != "ü" {
		t.Errorf("%q", got)
	}
	if got := ToUTF8("hz-gb-2312", []byte("~{VPND~}")); got != "中文" {
		t.Errorf("%q", got)
	}
}
