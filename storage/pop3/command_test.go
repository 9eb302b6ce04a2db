package pop3

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	tests := []struct {
		line, verb, arg string
		ok              bool
	}{
		{"QUIT", "QUIT", "", true},
		{"top 1 2", "TOP", "1 2", true},
		{"PASS  two spaces ", "PASS", " two spaces ", true},
		{"USER jörg@example.test", "USER", "jörg@example.test", true},
		{"", "", "", false},
		{"QU", "", "", false},
		{"QUITE", "", "", false},
		{"QUIT\t", "", "", false},
		{"RETR 1\x00", "", "", false},
		{"RETR 1\rDELE 1", "", "", false},
		{"ÄBC", "", "", false},
		{" QUIT", "", "", false},
	}
	for _, test := range tests {
		c, err := parseCommand([]byte(test.line))
		if (err == nil) != test.ok || c.verb != test.verb || c.arg != test.arg {
			t.Errorf("%q: got %q %q %v", test.line, c.verb, c.arg, err)
		}
	}
}

func TestParsePlain(t *testing.T) {
	tests := []struct {
		raw  string
		want credentials
		err  error
	}{
		{"\x00a@b\x00pw", credentials{"a@b", "pw"}, nil},
		{"A@B\x00a@b\x00pw", credentials{"a@b", "pw"}, nil},
		{"c@b\x00a@b\x00pw", credentials{}, errCredentials},
		{"\x00a@b\x00p\x00w", credentials{}, errSyntax},
		{"a@b\x00pw", credentials{}, errSyntax},
		{"\x00\x00pw", credentials{}, errSyntax},
		{"\x00a@b\x00", credentials{}, errSyntax},
		{"", credentials{}, errSyntax},
	}
	for _, test := range tests {
		got, err := parsePlain([]byte(base64.StdEncoding.EncodeToString([]byte(test.raw))))
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%q: got %v, %v", test.raw, got, err)
		}
	}
	for _, broken := range []string{"=", "A", "AA==AA==", "\nAGE=", "!"} {
		if got, err := parsePlain([]byte(broken)); err == nil {
			t.Errorf("%q: got %v", broken, got)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, line := range []string{"QUIT", "top 1 2", "PASS a b ", "AUTH PLAIN =", "RETR 1\rDELE 2", "USER \xff"} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := parseCommand(line)
		if err != nil {
			return
		}
		if len(c.verb) < 3 || len(c.verb) > 4 || strings.ToUpper(c.verb) != c.verb {
			t.Fatalf("verb %q of %q", c.verb, line)
		}
		if strings.ContainsAny(c.arg, "\r\n\x00") {
			t.Fatalf("argument %q of %q", c.arg, line)
		}
		if !strings.EqualFold(c.verb+" "+c.arg, string(line)) && !strings.EqualFold(c.verb, string(line)) {
			t.Fatalf("%q became %q %q", line, c.verb, c.arg)
		}
		for _, field := range c.fields() {
			if n, ok := parseNumber(field); ok && n < 0 {
				t.Fatalf("number %q is %d", field, n)
			}
		}
	})
}

func FuzzParsePlain(f *testing.F) {
	f.Add([]byte("AGFsaWNlAHNlY3JldA=="))
	f.Add([]byte("="))
	f.Add([]byte("YQBiAGM="))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		creds, err := parsePlain(encoded)
		if err == nil && (creds.user == "" || creds.password == "" || strings.ContainsRune(creds.user+creds.password, 0)) {
			t.Fatalf("%q gave %q", encoded, creds)
		}
	})
}
