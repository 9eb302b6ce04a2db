package config

import (
	"reflect"
	"strings"
)

// choices are the words that a key of a room's Config may have where its struct does not say so with a tag oneof:"...". A
// slip of the hand is then answered with "did you mean" before the room itself refuses the word.
var choices = map[string]string{
	"plugin.*.mode":                     "enforce shadow off",
	"plugin.*.on_failure":               policies,
	"plugin.*.on_timeout":               policies,
	"plugin.*.on_crash":                 policies,
	"pipeline.*.mixed":                  "quarantine reject bounce",
	"pipeline.*.anti-virus.on_infected": "reject quarantine discard",
	"pipeline.*.authenticate.dmarc":     "off report enforce",
}

const policies = "accept junk quarantine defer reject"

// optional are the keys of choices that may also be empty, which is the same as leaving them out.
var optional = map[string]bool{
	"plugin.*.on_failure": true, "plugin.*.on_timeout": true, "plugin.*.on_crash": true, "pipeline.*.mixed": true,
}

// choicesAt returns the words that may stand at path, or nil when any value may.
func choicesAt(path []string, tag reflect.StructTag) []string {
	at := pattern(path)
	words := strings.Fields(tag.Get("oneof"))
	if len(words) == 0 {
		words = strings.Fields(choices[at])
	}
	if len(words) > 0 && optional[at] {
		words = append(words, "")
	}
	return words
}

// pattern is path with a star for the name of a table: "plugin.*.mode".
func pattern(path []string) string {
	words := append([]string(nil), path...)
	if len(words) > 1 && namedTables[words[0]] {
		words[1] = "*"
	}
	return strings.Join(words, ".")
}

// namedTables are the top-level keys below which every table has a name of the administrator's.
var namedTables = map[string]bool{"listener": true, "domain": true, "relay": true, "destination": true, "plugin": true, "pipeline": true}
