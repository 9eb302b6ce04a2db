package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// maxFile bounds the file.
const maxFile = 1 << 20

// Options are what Load needs to know of the world around the file. The zero value is right for the program.
type Options struct {
	Env      func(string) (string, bool) // os.LookupEnv if nil
	Machine  func() (string, error)      // the machine's name: os.Hostname if nil
	Builtins []string                    // plugins inside the program; nil: this version's
}

// Load reads a file. The error is Problems where the file was read and is wrong.
func Load(name string, o Options) (*Config, error) {
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, text, o)
}

// read returns the text of a file of bounded size.
func read(name string) (string, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no configuration at %s; name one with --config FILE, or start from examples/minimal/sluice.toml", name)
	}
	if err != nil {
		return "", fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("read the configuration %s: %w", name, err)
	}
	if len(text) > maxFile {
		return "", Problems{{File: name, Text: "is larger than 1 MiB"}}
	}
	return string(text), nil
}

func (o Options) withDefaults() Options {
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	if o.Machine == nil {
		o.Machine = os.Hostname
	}
	if o.Builtins == nil {
		o.Builtins = Builtins()
	}
	return o
}

// Parse is Load for text that is at hand; name is what problems and relative paths refer to.
func Parse(name, text string, o Options) (*Config, error) {
	o = o.withDefaults()
	s := parse(name, text, o.Env)
	if s.failed() {
		return nil, s.problems
	}
	if abs, err := filepath.Abs(s.dir); err == nil {
		s.dir = abs
	}
	c := Default()
	c.Path, c.src = name, s
	s.decode(nil, s.values, reflect.ValueOf(c).Elem(), "")
	if !s.isSet("data_dir") {
		c.DataDir = s.path(c.DataDir)
	}
	c.check(o)
	s.problems = s.problems.Sorted()
	if s.failed() {
		return nil, s.problems
	}
	c.Warnings, s.problems = s.problems, nil
	return c, nil
}

// Locate returns the file and line of a dotted key, or of the nearest table around it: for complaints that come later,
// such as those of a plugin about its own table.
func (c *Config) Locate(key ...string) (file string, line int) {
	if c.src == nil {
		return c.Path, 0
	}
	return c.src.name, c.src.line(c.asWritten(key))
}

// asWritten returns a key as the file has it: a domain may be written with other letters than its canonical name, an alias in
// another case.
func (c *Config) asWritten(key []string) []string {
	if len(key) < 2 || key[0] != "domain" {
		return key
	}
	key = slices.Clone(key)
	if as, ok := c.written[key[1]]; ok {
		key[1] = as
	}
	var table any = c.src.values
	for i, name := range key {
		inner, _ := table.(map[string]any)
		if _, ok := inner[name]; !ok {
			for have := range inner {
				if strings.EqualFold(have, name) {
					key[i], name = have, have
				}
			}
		}
		table = inner[name]
	}
	return key
}

// Warning makes a warning about a key, with its place. The name of a domain may be the canonical one.
func (c *Config) Warning(text string, key ...string) Problem {
	if c.src == nil {
		return Problem{File: c.Path, Key: strings.Join(key, "."), Text: text, Warning: true}
	}
	return c.src.problem(c.asWritten(key), true, text)
}

// PluginProblem gives a plugin's complaint about a key of [plugin.NAME.config] its place.
func (c *Config) PluginProblem(plugin, key, problem string) Problem {
	if c.src == nil {
		return Problem{File: c.Path, Key: "plugin." + plugin + ".config." + key, Text: problem}
	}
	return c.src.problem(c.src.below(keys("plugin", plugin, "config"), key), false, oneLine(problem))
}

// below returns the path of a dotted key below path. A name in it may contain dots itself ("aliases.first.last"): where the
// file has such a key, it is taken as one.
func (s *source) below(path []string, key string) []string {
	out := append([]string(nil), path...)
	var table any = s.values
	for _, name := range path {
		inner, _ := table.(map[string]any)
		table = inner[name]
	}
	for words := strings.Split(key, "."); key != "" && len(words) > 0; {
		take := 1
		inner, _ := table.(map[string]any)
		for n := len(words); n > 0; n-- {
			if _, ok := inner[strings.Join(words[:n], ".")]; ok {
				take = n
				break
			}
		}
		name := strings.Join(words[:take], ".")
		out, table, words = append(out, name), inner[name], words[take:]
	}
	return out
}

// refuse reports what a room's Validate or a type's UnmarshalTOML returned: any number of joined errors, each perhaps
// with a key below path.
func (s *source) refuse(path []string, err error) {
	type complaint struct {
		at   []string
		text string
	}
	var all []complaint
	for _, e := range flatten(err, nil) {
		at, text := path, e.Error()
		if key, problem, ok := fieldError(e); ok {
			at, text = s.below(path, key), problem
		}
		if !s.isBad(at...) { // a value of the wrong type is not also blamed for its default
			all = append(all, complaint{at, oneLine(text)})
		}
	}
	for _, c := range all {
		s.errorf(c.at, "%s", c.text)
	}
}

// flatten takes joined errors apart.
func flatten(err error, into []error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return append(into, err)
	}
	for _, e := range joined.Unwrap() {
		into = flatten(e, into)
	}
	return into
}

// fieldError reads the key and the problem of a room's FieldError. Each layer of the house has one of its own, because
// none may import another's for such a small thing.
func fieldError(err error) (key, problem string, ok bool) {
	v := reflect.ValueOf(err)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return "", "", false
	}
	k, p := v.Elem().FieldByName("Key"), v.Elem().FieldByName("Problem")
	if !k.IsValid() || !p.IsValid() || k.Kind() != reflect.String || p.Kind() != reflect.String {
		return "", "", false
	}
	return k.String(), p.String(), true
}
