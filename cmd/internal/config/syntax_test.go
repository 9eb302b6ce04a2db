package config

import (
	"strings"
	"testing"
)

// TestSyntaxErrorsKeepSecrets: an error in the syntax names the line, the key and what was expected, and nothing of what
// stands there, which may be a password.
func TestSyntaxErrorsKeepSecrets(t *testing.T) {
	const relay = "[relay.\"*\"]\n"
	for _, c := range []struct{ text, want string }{
		{"password = hunter2secret", `:2: relay."*".password: not TOML: expected value; text stands in quotes`},
		{"password = 'hunter2", `:2: relay."*".password: not TOML: unexpected EOF; expected "'"`},
		{"password = \"hunter2\n", `:2: relay."*".password: not TOML: strings cannot contain newlines`},
		{"password = \"hunter2\" x", `:2: relay."*": not TOML: expected a top-level item to end with a newline, comment, or EOF`},
		{"password = \"hunter\\2\"", `:2: relay."*".password: not TOML: invalid escape in string`},
		{"password = \"\\xhunter2\"", `:2: relay."*".password: not TOML: expected two hexadecimal digits after '\x'`},
		{"password = 0815hunter", `:2: relay."*".password: not TOML: `},
		{"password = 081547114711", `:2: relay."*".password: not TOML: Invalid integer: cannot have leading zeroes`},
		{"password = 98765432109876543210", `:2: relay."*".password: not TOML: the number is out of range for int64`},
		{"password = 12.", `:2: relay."*".password: not TOML: `},
		{"password = 1234-56-78", `:2: relay."*".password: not TOML: invalid datetime`},
		{"password = +0xhunter", `:2: relay."*".password: not TOML: cannot use sign with non-decimal numbers`},
		{"password = thunter2", `:2: relay."*".password: not TOML: expected value; text stands in quotes`},
		{"password = \"\\uD800\"", `:2: relay."*".password: not TOML: Escaped character is not valid UTF-8.`},
		{"hosts = [\n\"a\" hunter2]", `:3: relay."*".hosts: not TOML: expected a comma (',') or array terminator (']')`},
		{"password = \"\"\"\nhunter2\n", `: relay."*".password: not TOML: unexpected EOF; expected '"""'`},
		{"password = \"a\"\nhunter2secret", `:3: not TOML: unexpected EOF; expected key separator '='`}, // a line of its own: it may be the rest of the value
		{"password = \"a\"\nhunter2 secret", `:3: not TOML: expected '.' or '='`},
		{"password = \"a\"\npassword = \"hunter2\"", `:3: not TOML: Key 'relay."*".password' has already been defined.`},
		{"password = \"a\x01hunter2\"", `:2: relay."*".password: not TOML: TOML files cannot contain control characters: '0x01'`},
	} {
		_, err := Parse("sluice.toml", relay+c.text, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
			continue
		}
		for _, word := range []string{"hunter", "secret", "0815", "9876", "12.", "1234", "D800", "\\2"} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%q: %v says %q", c.text, err, word)
			}
		}
	}
}
