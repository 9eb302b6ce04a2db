package config

import (
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// The library's messages quote what it found (github.com/BurntSushi/toml v1.6.0), which may be a part of a password, and
// what is printed goes into journals. So only what is known to be none is kept: signs of TOML itself, and keys.
var (
	butFound = regexp.MustCompile(`(?s),? but (got|found) (.*?)( instead)?$`)
	quoted   = regexp.MustCompile(`(?s):? ?("(\\.|[^"\\])*"|'(\\.|[^'\\])+')`)
	range64  = regexp.MustCompile(`^\S+ is out of range`)

	harmless = regexp.MustCompile(`^(['"])([.,=\[\]{}"']+|\\[nxuU]|0x[0-9a-f]{2})['"]$`)
	ofKeys   = regexp.MustCompile(`^Key '|is not a table$|table name|key|'\.' or '='|^unexpected ('='|'\.')$`)
)

// syntaxProblem tells of a syntax error: where, in which key if it is in a value, and what was expected, but not what is
// there in its place.
func syntaxProblem(file string, e *toml.ParseError) Problem {
	p := Problem{File: file, Line: e.Position.Line}
	text := e.Message
	if !ofKeys.MatchString(text) {
		p.Key = oneLine(e.LastKey)
	}
	if !strings.HasPrefix(text, "Key '") && !strings.HasSuffix(text, "is not a table") {
		text = withoutValue(text)
	}
	if text == "expected value" {
		text += "; text stands in quotes"
	}
	p.Text = "not TOML: " + oneLine(text)
	return p
}

func withoutValue(text string) string {
	if m := butFound.FindStringSubmatchIndex(text); m != nil {
		switch found := text[m[4]:m[5]]; found {
		case `'\n'`, "EOF", "end of file":
		default:
			text = text[:m[0]]
		}
	}
	text = quoted.ReplaceAllStringFunc(text, func(s string) string {
		if harmless.MatchString(strings.TrimLeft(s, ": ")) {
			return s
		}
		return ""
	})
	return strings.TrimRight(range64.ReplaceAllString(text, "the number is out of range"), ": ")
}

// oneLine keeps a library's message on the line that it is shown on.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
