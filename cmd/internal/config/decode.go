package config

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/sluicemail/sluice/pipeline/units"
)

var (
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
	tomlType = reflect.TypeFor[toml.Unmarshaler]()
)

// decode puts the file's value at path into out, which holds the default. out must be settable. Whatever does not fit is
// reported and leaves the default in place.
func (s *source) decode(path []string, value any, out reflect.Value, tag reflect.StructTag) {
	if words := choicesAt(path, tag); len(words) > 0 {
		if text, ok := value.(string); ok && !slices.Contains(words, text) {
			s.errorf(path, "unknown %s %q, expected %s%s", lastOf(path), text, list(nonEmpty(words)), didYouMean(text, words))
			return
		}
	}
	if out.Kind() == reflect.Pointer {
		if out.IsNil() {
			out.Set(reflect.New(out.Type().Elem()))
		}
		s.decode(path, value, out.Elem(), tag)
		return
	}
	if out.Addr().Type().Implements(tomlType) {
		if err := out.Addr().Interface().(toml.Unmarshaler).UnmarshalTOML(value); err != nil {
			s.refuse(path, err)
		}
		return
	}
	if out.Addr().Type().Implements(textType) {
		s.decodeText(path, value, out)
		return
	}
	switch out.Kind() {
	case reflect.Struct:
		s.decodeStruct(path, value, out)
	case reflect.Map:
		s.decodeMap(path, value, out)
	case reflect.Slice:
		s.decodeSlice(path, value, out, tag)
	default:
		s.decodeLeaf(path, value, out, tag)
	}
}

// decodeStruct decodes a table whose keys are known.
func (s *source) decodeStruct(path []string, value any, out reflect.Value) {
	table, ok := value.(map[string]any)
	if !ok {
		s.errorf(path, "%s, expected a table, [%s]", describe(value), toml.Key(path))
		return
	}
	fields := fieldsOf(out.Type())
	for _, key := range slices.Sorted(maps.Keys(table)) {
		at := append(slices.Clip(path), key)
		i, ok := fields[key]
		if !ok {
			s.unknown(at, key, fields)
			continue
		}
		field := out.Type().FieldByIndex(i)
		s.decode(at, table[key], out.FieldByIndex(i), field.Tag)
	}
}

// fieldsOf maps the TOML keys of a struct to its fields; embedded structs without a tag lend theirs.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := make(map[string][]int, t.NumField())
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		fields[name] = f.Index
	}
	return fields
}

// unknown reports a key that does not exist. A renamed key names its successor.
func (s *source) unknown(path []string, key string, fields map[string][]int) {
	if now, ok := renamed[strings.Join(path, ".")]; ok {
		s.errorf(path, "unknown key: it is called %q now", now)
		return
	}
	names := slices.Sorted(maps.Keys(fields))
	hint := didYouMean(key, names)
	if hint == "" {
		s.errorf(path, "unknown key, expected one of %s", strings.Join(names, ", "))
		return
	}
	s.errorf(path, "unknown key%s", hint)
}

// renamed maps the keys of earlier releases to what they are called now (STYLE habit 12).
var renamed = map[string]string{}

// decodeMap decodes a table whose keys are names.
func (s *source) decodeMap(path []string, value any, out reflect.Value) {
	table, ok := value.(map[string]any)
	if !ok {
		s.errorf(path, "%s, expected named tables, [%s.NAME]", describe(value), toml.Key(path))
		return
	}
	if out.IsNil() {
		out.Set(reflect.MakeMapWithSize(out.Type(), len(table)))
	}
	elem := out.Type().Elem()
	if elem.Kind() == reflect.Interface { // free form: the plugin knows its own keys
		for key, v := range table {
			out.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(s.free(append(slices.Clip(path), key), v)))
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		at := append(slices.Clip(path), key)
		item := reflect.New(elem).Elem()
		if old := out.MapIndex(reflect.ValueOf(key)); old.IsValid() { // a table that exists unwritten: its defaults
			item.Set(old)
		}
		if item.Kind() == reflect.Pointer && item.IsNil() {
			item.Set(reflect.New(elem.Elem()))
		}
		if !out.MapIndex(reflect.ValueOf(key)).IsValid() {
			inner, _ := table[key].(map[string]any)
			setDefaults(item.Interface(), key, inner)
		}
		s.decode(at, table[key], item, "")
		if !s.isBad(at...) {
			out.SetMapIndex(reflect.ValueOf(key), item)
		}
	}
}

// free returns a value of a free-form table with its secrets filled in.
func (s *source) free(path []string, value any) any {
	switch v := value.(type) {
	case string:
		return s.secret(path, v)
	case map[string]any:
		table := make(map[string]any, len(v))
		for key, inner := range v {
			table[key] = s.free(append(slices.Clip(path), key), inner)
		}
		return table
	case []map[string]any:
		items := make([]any, len(v))
		for i, inner := range v {
			items[i] = s.free(path, inner)
		}
		return items
	case []any:
		items := make([]any, len(v))
		for i, inner := range v {
			items[i] = s.free(path, inner)
		}
		return items
	}
	return value
}

func (s *source) decodeSlice(path []string, value any, out reflect.Value, tag reflect.StructTag) {
	items, ok := value.([]any)
	if !ok {
		s.errorf(path, "%s, expected a list of %s, [...]", describe(value), plural(out.Type().Elem()))
		return
	}
	list := reflect.MakeSlice(out.Type(), len(items), len(items))
	before := len(s.problems)
	for i, item := range items {
		s.decode(path, item, list.Index(i), tag)
	}
	if len(s.problems) == before {
		out.Set(list)
	}
}

// decodeText decodes a value of a type that reads itself from a string.
func (s *source) decodeText(path []string, value any, out reflect.Value) {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case int64:
		if out.Kind() != reflect.Int64 { // a Size, and the Duration 0, may be written as a number
			s.errorf(path, "%s, expected %s", describe(value), expected(out.Type()))
			return
		}
		text = fmt.Sprint(v)
	default:
		s.errorf(path, "%s, expected %s", describe(value), expected(out.Type()))
		return
	}
	if out.Type() == reflect.TypeFor[netip.Prefix]() {
		prefix, err := parseNetwork(text)
		if err != nil {
			s.errorf(path, "%v, expected %s", err, expected(out.Type()))
			return
		}
		out.Set(reflect.ValueOf(prefix))
		return
	}
	fresh := reflect.New(out.Type())
	if err := fresh.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		if strings.Contains(err.Error(), "expected") {
			s.errorf(path, "%s", oneLine(err.Error()))
			return
		}
		s.errorf(path, "%s, expected %s", oneLine(err.Error()), expected(out.Type()))
		return
	}
	out.Set(fresh.Elem())
}

// decodeLeaf decodes the scalar kinds.
func (s *source) decodeLeaf(path []string, value any, out reflect.Value, tag reflect.StructTag) {
	switch kind := out.Kind(); {
	case kind == reflect.String:
		if text, ok := value.(string); ok {
			s.decodeString(path, text, out, tag)
			return
		}
	case kind == reflect.Bool:
		if v, ok := value.(bool); ok {
			out.SetBool(v)
			return
		}
	case out.CanInt() || out.CanUint():
		if v, ok := value.(int64); ok {
			s.decodeInt(path, v, out)
			return
		}
	case out.CanFloat():
		switch v := value.(type) {
		case float64:
			if math.IsNaN(v) || math.IsInf(v, 0) {
				s.errorf(path, "%v is not a number, expected one such as 6.0", v)
				return
			}
			out.SetFloat(v)
			return
		case int64:
			out.SetFloat(float64(v))
			return
		}
	default:
		s.errorf(path, "cannot be read into %s: this is a mistake in Sluice, please report it", out.Type())
		return
	}
	s.errorf(path, "%s, expected %s", describe(value), expected(out.Type()))
}

func (s *source) decodeInt(path []string, v int64, out reflect.Value) {
	switch {
	case v < 0:
		s.errorf(path, "%d is negative, expected 0 or more", v)
	case out.CanInt() && out.OverflowInt(v), out.CanUint() && out.OverflowUint(uint64(v)):
		s.errorf(path, "%d is too large", v)
	case out.CanInt():
		out.SetInt(v)
	default:
		out.SetUint(uint64(v))
	}
}

func (s *source) decodeString(path []string, text string, out reflect.Value, tag reflect.StructTag) {
	switch tag.Get("sluice") {
	case "path":
		text = s.path(text)
	case "secret":
		text = s.secret(path, text)
	}
	out.SetString(text)
}

// path makes a path relative to the file absolute.
func (s *source) path(text string) string {
	if text == "" || filepath.IsAbs(text) {
		return text
	}
	return filepath.Join(s.dir, text)
}

func lastOf(path []string) string { return path[len(path)-1] }

// parseNetwork reads a network, or one address as a network of its own.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr.Unmap().WithZone(""), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network", text)
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length; the network is %s", text, prefix.Masked())
	}
	return prefix, nil
}

// describe says what kind of value the file has, in the words of TOML.
func describe(value any) string {
	switch v := value.(type) {
	case string:
		return "is a string"
	case bool:
		return "is a boolean"
	case int64:
		return "is a whole number"
	case float64:
		return "is a number with a fraction"
	case time.Time:
		return "is a date"
	case []any:
		return "is a list"
	case []map[string]any:
		return "is an array of tables ([[...]])"
	case map[string]any:
		return "is a table"
	default:
		return fmt.Sprintf("is a %T", v)
	}
}

// expected says what a Go type wants to see in TOML.
func expected(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[units.Duration]():
		return `a duration such as "15m" or "5d"`
	case reflect.TypeFor[units.Size]():
		return `a size such as "50MB"`
	case reflect.TypeFor[netip.Prefix]():
		return `a network such as "192.0.2.0/24" or an address`
	case reflect.TypeFor[netip.Addr]():
		return `an IP address such as "192.0.2.1"`
	}
	if t.Implements(textType) || reflect.PointerTo(t).Implements(textType) {
		return "a string"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number such as 6.0"
	}
	return "a whole number"
}

func plural(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return "networks"
	case reflect.TypeFor[netip.Addr]():
		return "addresses"
	}
	return "strings"
}
