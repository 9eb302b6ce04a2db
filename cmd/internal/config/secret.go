package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// maxSecret bounds what is read from a secret's file.
const maxSecret = 64 << 10

// variable is what a reference to the environment looks like: "$NAME" and nothing else in the string.
var variable = regexp.MustCompile(`^\$[A-Z_][A-Z0-9_]*$`)

// secret returns what text stands for: the content of FILE without its last line break for "@FILE" (relative to the configuration), the value
// of NAME in the environment for "$NAME", and text itself otherwise. A value that really begins with @, or looks like a
// variable, is written with that sign doubled.
func (s *source) secret(path []string, text string) string {
	switch {
	case strings.HasPrefix(text, "@@"), strings.HasPrefix(text, "$$") && variable.MatchString(text[1:]):
		return text[1:]
	case strings.HasPrefix(text, "@") && len(text) > 1:
		value, err := readSecret(s.path(text[1:]))
		if err != nil {
			s.errorf(path, "%v; \"@FILE\" stands for what is in FILE, and a value that begins with @ is written \"@@...\"", err)
		}
		if mode, open := openToOthers(s.path(text[1:])); open {
			s.warnf(path, "%s can be read by others (mode %04o), expected 0600", text[1:], mode)
		}
		return value
	case variable.MatchString(text):
		value, ok := s.env(text[1:])
		if !ok || value == "" {
			s.errorf(path, "%s is not in the environment; set it, or write \"$%s\" if the value itself looks like that", text, text)
		}
		return value
	}
	return text
}

func readSecret(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("cannot read the secret: %s is not a file", name)
	}
	octets, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the secret: %w", err)
	}
	if len(octets) > maxSecret {
		return "", fmt.Errorf("cannot read the secret: %s is larger than 64 KiB", name)
	}
	value := strings.TrimRight(string(octets), "\r\n")
	if value == "" {
		return "", fmt.Errorf("cannot read the secret: %s: %w", name, errors.New("it is empty"))
	}
	return value, nil
}

// openToOthers reports whether a file can be read by everybody.
func openToOthers(name string) (os.FileMode, bool) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, false
	}
	return info.Mode().Perm(), info.Mode().Perm()&0o004 != 0
}
