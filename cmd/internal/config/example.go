package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/sluicemail/sluice/pipeline/route"
)

// Example returns examples/full/sluice.toml: every key that there is, with its default and its meaning, made from the
// Config structs. A key whose default says little (a name, an address) has an example instead; one that must not stand
// beside another, or that is not in force yet, is there as a comment.
func Example() (string, error) {
	w := &exampleWriter{}
	w.b.WriteString(exampleHead)
	c := Default()
	w.table(nil, reflect.ValueOf(c).Elem(), false)
	if len(w.missing) > 0 {
		return "", fmt.Errorf("these keys have no meaning: %s; give their fields a tag doc:\"...\"", strings.Join(w.missing, ", "))
	}
	return strings.TrimRight(w.b.String(), "\n") + "\n", nil
}

const exampleHead = `# sluice.toml with every key, its default and its meaning.
#
# This file is made from the program's own structs ("make generate") and is tested to be equal to the defaults, apart
# from names, addresses and paths, which are examples. Keep only what you want to differ: examples/minimal is a better start.
#
#   sizes      B, KB, MB, GB: powers of 1024        durations   as in Go, and d: "90s", "15m", "5d", "1d12h"
#   paths      relative to this file                lists       an empty list is []
#   secrets    "@FILE" is what is in FILE, "$NAME" is NAME in the environment; in [plugin.NAME.config] too, where a
#              value that really begins with @, or looks like $NAME, has that sign doubled
#   #key = ... what is not set here, because it needs a file or would not go with its neighbours

`

type exampleWriter struct {
	b       strings.Builder
	missing []string
}

// exampleTables are the named tables that the example shows. The first of its kind explains every key, the others have
// what differs.
var exampleTables = map[string][]string{
	"listener": {"mx", "submission", "lmtp", "imap", "pop3", "admin"},
	"domain":   {"example.test"},
	"relay":    {"example.net"},

	"destination": {"example.net"},

	"plugin":   {"eicar"},
	"pipeline": {"inbound"},
}

// exampleValues take the place of defaults that would say little, or that would not work.
var exampleValues = map[string]string{
	"hostname":                    `"mx.example.test"`,
	"tls.certificate":             `"cert.pem"`,
	"tls.key":                     `"key.pem"`,
	"listener.mx.address":         `"127.0.0.1:2525"`,
	"listener.submission.address": `"127.0.0.1:2587"`,
	"listener.lmtp.address":       `"127.0.0.1:2424"`,
	"listener.imap.address":       `"127.0.0.1:2143"`,
	"listener.pop3.address":       `"127.0.0.1:2110"`,
	"listener.admin.address":      `"127.0.0.1:9090"`,
	"domain.example.test.aliases": `{ postmaster = "alice@example.test", team = ["alice@example.test", "bob@example.test"] }`,
	"domain.example.test.send_as": `{ alice = ["sales@example.test"] }`,
	"relay.example.net.hosts":     `["127.0.0.1:2600"]`,
	"relay.example.net.username":  `"example"`,
	"relay.example.net.password":  `"@relay.secret"`,
	"plugin.eicar.command":        `["./eicar"]`,
	"plugin.eicar.builtin":        `"eicar"`,
	"plugin.eicar.canary.command": `["./eicar-next"]`,
	"plugin.eicar.canary.share":   "0.05",
	"forward.srs_domain":          `"example.test"`,
	"forward.srs_secrets":         `["@srs.secret"]`,
}

// exampleComments are the keys and tables that are shown as comments.
var exampleComments = map[string]string{
	"tls":                  "",
	"relay":                "",
	"forward":              "",
	"destination":          "",
	"plugin.eicar.command": "",
	"plugin.eicar.config":  "",
	"plugin.eicar.canary":  "",
}

// table writes the keys of v, then the tables in it.
func (w *exampleWriter) table(path []string, v reflect.Value, commented bool) {
	var inner []reflect.StructField
	for _, f := range fieldsInOrder(v.Type()) {
		if isTable(f.Type) {
			inner = append(inner, f)
			continue
		}
		w.key(append(slices.Clip(path), tomlName(f)), v.FieldByIndex(f.Index), f, commented)
	}
	for _, f := range inner {
		at := append(slices.Clip(path), tomlName(f))
		why, comment := exampleComments[strings.Join(at, ".")]
		w.inner(at, v.FieldByIndex(f.Index), f, commented || comment, why)
	}
}

// inner writes a table, or the named tables of a map.
func (w *exampleWriter) inner(at []string, v reflect.Value, f reflect.StructField, commented bool, why string) {
	fmt.Fprintf(&w.b, "\n")
	w.comment(w.meaning(at, f))
	if why != "" {
		w.comment(why)
	}
	if v.Kind() != reflect.Map {
		w.header(at, commented)
		w.table(at, v, commented)
		return
	}
	if v.Type().Elem().Kind() == reflect.Interface {
		w.header(at, commented)
		return
	}
	for i, name := range exampleTables[at[0]] {
		item := reflect.New(v.Type().Elem().Elem())
		protocol := name
		if name == "mx" {
			protocol = "smtp"
		}
		setDefaults(item.Interface(), name, map[string]any{"protocol": protocol})
		named := append(slices.Clip(at), name)
		if i > 0 {
			w.brief(named, item.Elem(), v.Type())
			continue
		}
		if hasKeys(item.Type().Elem()) {
			w.header(named, commented)
		}
		w.table(named, item.Elem(), commented)
	}
}

// brief writes a further table of a kind: what a listener of that protocol needs, and what it has of its own.
func (w *exampleWriter) brief(path []string, v reflect.Value, _ reflect.Type) {
	l, ok := v.Addr().Interface().(*Listener)
	if !ok {
		return
	}
	w.b.WriteString("\n")
	w.header(path, false)
	fmt.Fprintf(&w.b, "protocol = %q\naddress = %s\n", l.Protocol, exampleValues[strings.Join(path, ".")+".address"])
	if l.Pipeline != "" {
		fmt.Fprintf(&w.b, "pipeline = %q\n", l.Pipeline)
	}
}

func (w *exampleWriter) header(path []string, commented bool) {
	if commented {
		w.b.WriteString("#")
	}
	fmt.Fprintf(&w.b, "[%s]\n", toml.Key(path))
}

func (w *exampleWriter) key(path []string, v reflect.Value, f reflect.StructField, commented bool) {
	joined := strings.Join(path, ".")
	text, ok := exampleValues[joined]
	if !ok {
		text = literal(v)
	}
	_, comment := exampleComments[joined]
	w.comment(w.meaning(path, f))
	if commented || comment {
		w.b.WriteString("#")
	}
	fmt.Fprintf(&w.b, "%s = %s\n", toml.Key{path[len(path)-1]}, text)
}

// comment wraps text at 110 columns.
func (w *exampleWriter) comment(text string) {
	const prefix = "# "
	line := prefix
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > 110 && line != prefix {
			w.b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = prefix
		}
		line += word + " "
	}
	if line != prefix {
		w.b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// meaning returns what a key is for: its struct's tag, or the table of meanings for rooms that have no tags.
func (w *exampleWriter) meaning(path []string, f reflect.StructField) string {
	if doc := f.Tag.Get("doc"); doc != "" {
		return doc
	}
	if doc, ok := meanings[pattern(path)]; ok {
		return doc
	}
	w.missing = append(w.missing, pattern(path))
	return ""
}

func tomlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return name
}

// fieldsInOrder are the fields that TOML can set, in the order of the source.
func fieldsInOrder(t reflect.Type) []reflect.StructField {
	var out []reflect.StructField
	known := fieldsOf(t)
	for _, f := range reflect.VisibleFields(t) {
		if index, ok := known[tomlName(f)]; ok && slices.Equal(index, f.Index) {
			out = append(out, f)
		}
	}
	return out
}

// isTable reports whether a key of this type is a table of its own, rather than a value.
func isTable(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textType) || reflect.PointerTo(t).Implements(tomlType) {
		return false
	}
	return t.Kind() == reflect.Struct || t.Kind() == reflect.Map &&
		(t.Elem().Kind() == reflect.Pointer || t.Elem().Kind() == reflect.Interface)
}

// hasKeys reports whether a table has keys beside the tables in it.
func hasKeys(t reflect.Type) bool {
	return slices.ContainsFunc(fieldsInOrder(t), func(f reflect.StructField) bool { return !isTable(f.Type) })
}

// literal writes a value as TOML.
func literal(v reflect.Value) string {
	if addresses, ok := v.Interface().(route.AddressList); ok && len(addresses) < 2 {
		return strconv.Quote(strings.Join(addresses, ""))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && v.Kind() != reflect.Slice {
		text, err := m.MarshalText()
		if err == nil {
			return strconv.Quote(string(text))
		}
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Float64, reflect.Float32:
		text := strconv.FormatFloat(v.Float(), 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = literal(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		items := make([]string, 0, v.Len())
		for _, key := range slices.SortedFunc(maps.Keys(keyed(v)), strings.Compare) {
			items = append(items, toml.Key{key}.String()+" = "+literal(v.MapIndex(reflect.ValueOf(key))))
		}
		if len(items) == 0 {
			return "{}"
		}
		return "{ " + strings.Join(items, ", ") + " }"
	}
	return fmt.Sprint(v.Interface())
}

func keyed(v reflect.Value) map[string]bool {
	out := make(map[string]bool, v.Len())
	for _, key := range v.MapKeys() {
		out[key.String()] = true
	}
	return out
}
