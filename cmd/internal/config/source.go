package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// source is a parsed file that can say where each key stands, and collects what is wrong with it.
type source struct {
	name     string // as it is shown in problems
	dir      string // what relative paths are relative to
	meta     toml.MetaData
	top      map[string]toml.Primitive
	values   map[string]any
	env      func(string) (string, bool)
	problems Problems
	bad      map[string]bool // keys that have an error already: later checks need not look at them again
}

// parse reads text. A syntax error is a Problem like any other, but nothing can be said about the rest of the file.
func parse(name, text string, env func(string) (string, bool)) *source {
	s := &source{name: name, dir: filepath.Dir(name), env: env, bad: make(map[string]bool)}
	meta, err := toml.Decode(text, &s.top)
	if err == nil {
		s.meta = meta
		_, err = toml.Decode(text, &s.values)
	}
	if err != nil {
		var syntax toml.ParseError
		p := Problem{File: name, Text: err.Error()}
		if errors.As(err, &syntax) {
			p = syntaxProblem(name, &syntax)
		}
		s.problems = append(s.problems, p)
	}
	return s
}

// probe fails wherever it is decoded, and so returns the place of a key as a toml.ParseError.
type probe struct{}

var errProbe = errors.New("probe")

func (*probe) UnmarshalTOML(any) error { return errProbe }

// line returns where path stands: the line of its value, of its table's header, or of the nearest table around it that
// is written down; 0 if none is.
func (s *source) line(path []string) int {
	for n := len(path); n > 0; n-- {
		if line := s.exactLine(path[:n]); line > 0 {
			return line
		}
	}
	return 0
}

func (s *source) exactLine(path []string) int {
	table := s.top
	for i, name := range path {
		prim, ok := table[name]
		if !ok {
			return 0
		}
		if i == len(path)-1 {
			return s.lineOf(prim)
		}
		var inner map[string]toml.Primitive
		if s.meta.PrimitiveDecode(prim, &inner) != nil {
			return 0
		}
		table = inner
	}
	return 0
}

// lineOf returns the line of a value. A table that is there only because of those inside it ([listener.mx] makes one
// called listener) stands where the first of them does.
func (s *source) lineOf(prim toml.Primitive) int {
	var at toml.ParseError
	if errors.As(s.meta.PrimitiveDecode(prim, &probe{}), &at) && at.Position.Line > 0 {
		return at.Position.Line
	}
	var inner map[string]toml.Primitive
	if s.meta.PrimitiveDecode(prim, &inner) != nil {
		return 0
	}
	first := 0
	for _, p := range inner {
		if line := s.lineOf(p); line > 0 && (first == 0 || line < first) {
			first = line
		}
	}
	return first
}

// isSet reports whether the file itself sets path.
func (s *source) isSet(path ...string) bool { return s.meta.IsDefined(path...) }

// errorf and warnf add a problem with a key. A key gets one error at most from each side: what has been found to be of the wrong
// type is not also blamed for its value.
func (s *source) errorf(path []string, format string, args ...any) {
	s.bad[strings.Join(path, "\x00")] = true
	s.problems = append(s.problems, s.problem(path, false, fmt.Sprintf(format, args...)))
}

func (s *source) warnf(path []string, format string, args ...any) {
	s.problems = append(s.problems, s.problem(path, true, fmt.Sprintf(format, args...)))
}

func (s *source) problem(path []string, warning bool, text string) Problem {
	return Problem{File: s.name, Line: s.line(path), Key: toml.Key(path).String(), Text: text, Warning: warning}
}

// hint adds a suggestion to the problem of a key.
func (s *source) hint(path []string, suggestion string) {
	key := toml.Key(path).String()
	for i := range s.problems {
		if s.problems[i].Key == key && !strings.HasSuffix(s.problems[i].Text, suggestion) {
			s.problems[i].Text += suggestion
		}
	}
}

// isBad reports whether path itself already has an error.
func (s *source) isBad(path ...string) bool { return s.bad[strings.Join(path, "\x00")] }

// failed reports whether anything is wrong that keeps the server from starting.
func (s *source) failed() bool {
	for _, p := range s.problems {
		if !p.Warning {
			return true
		}
	}
	return false
}
