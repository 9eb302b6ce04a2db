package milter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/sdk"
)

// Settings is [plugin.NAME.config].
type Settings struct {
	Address     string            `config:"address"`     // "unix:/path" or "tcp:host:port"
	Connections int               `config:"connections"` // to the milter at a time
	Macros      map[string]string `config:"macros"`      // more macros, or other values: "{daemon_name}" = "ORIGINATING"
	Rename      map[string]string `config:"rename"`      // fields that it adds = under which name; "": not at all
	MaxBody     sdk.Octets        `config:"max_body"`    // the largest new body
	MaxSize     sdk.Octets        `config:"max_size"`    // larger messages are `larger`; 0: none is
	Larger      string            `config:"larger"`      // skip or fail
}

// The values of Settings.Larger.
const (
	largerSkip = "skip" // do not ask, and say so
	largerFail = "fail" // on_failure decides
)

// defaults leaves out what the core would refuse and count for each message: it has evaluated
// DKIM, SPF and DMARC by itself, and a field of that name that somebody else adds could not be told from
// a forged one.
func defaults() Settings {
	return Settings{
		Connections: 10, Rename: map[string]string{"Authentication-Results": ""}, MaxBody: 50 << 20, Larger: largerFail,
	}
}

// Bounds on what an administrator may add.
const (
	maxMacros     = 50
	maxMacroValue = 1000
)

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if s.Connections < 1 || s.Connections > 1000 {
		bad("connections", "%d, expected 1 to 1000", s.Connections)
	}
	if len(s.Macros) > maxMacros {
		bad("macros", "%d of them, expected at most %d", len(s.Macros), maxMacros)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Macros)) {
		if !isMacro(name) {
			bad("macros", "%q, expected a letter or a name in braces, such as \"{daemon_name}\"", name)
		}
		if value := s.Macros[name]; len(value) > maxMacroValue || strings.ContainsRune(value, 0) {
			bad("macros."+name, "it has a NUL, or more than %d octets", maxMacroValue)
		}
	}
	if err := s.checkRename(); err != nil {
		problems = append(problems, err)
	}
	if s.MaxBody < 1<<10 || s.MaxBody > 1<<30 {
		bad("max_body", "%d, expected 1KB to 1GB", s.MaxBody)
	}
	if s.Larger != largerSkip && s.Larger != largerFail {
		bad("larger", "%q, expected skip or fail", s.Larger)
	}
	return errors.Join(problems...)
}

// checkRename also puts the names into small letters, to be looked up.
func (s *Settings) checkRename() error {
	lower := make(map[string]string, len(s.Rename))
	for _, name := range slices.Sorted(maps.Keys(s.Rename)) {
		to := s.Rename[name]
		switch key := strings.ToLower(name); {
		case !isFieldName(name):
			return &sdk.SettingError{Key: "rename", Problem: fmt.Sprintf("%q is no name of a field", name)}
		case to != "" && !isFieldName(to):
			return &sdk.SettingError{Key: "rename", Problem: fmt.Sprintf("%q is no name of a field; \"\" leaves the field out", to)}
		case reserved(to):
			return &sdk.SettingError{Key: "rename", Problem: fmt.Sprintf("%q belongs to the server, expected another name", to)}
		default:
			if _, twice := lower[key]; twice {
				return &sdk.SettingError{Key: "rename", Problem: fmt.Sprintf("%q is there twice", name)}
			}
			lower[key] = to
		}
	}
	s.Rename = lower
	return nil
}

// isMacro reports whether a name is a macro's: one letter or sign, or a word in braces.
func isMacro(name string) bool {
	if len(name) == 1 {
		return name[0] > ' ' && name[0] <= '~' && name[0] != '{' && name[0] != '}'
	}
	word, ok := strings.CutPrefix(name, "{")
	word, closed := strings.CutSuffix(word, "}")
	bad := strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' || r == '{' || r == '}' })
	return ok && closed && word != "" && len(word) <= 100 && !bad
}

// isFieldName reports whether a name can be a field's (RFC 5322 section 2.2).
func isFieldName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// reserved reports whether the core refuses every change of a field (PROTOCOL.md section 6).
func reserved(name string) bool {
	name = strings.ToLower(name)
	return name == "authentication-results" || name == "return-path" || strings.HasPrefix(name, "x-sluice-")
}
