package rspamd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/plugins/internal/plain"
)

// maxText bounds a text that is shown to people, in octets.
const maxText = 500

// answer is what we take from rspamd's answer to /checkv2.
type answer struct {
	action   string
	score    float64
	required float64
	skipped  bool // an early decision: the scores of the symbols do not add up to the score
	symbols  []symbol
	subject  string // what Subject shall be, in "rewrite subject"
	message  string // for the peer
	remove   []removal
	add      []field
}

type symbol struct {
	name  string
	score float64
	text  string
}

// removal is a field that shall go; index 0 means all of that name, 1 the first from the
// top, -1 the last.
type removal struct {
	name  string
	index int
}

type field struct{ name, value string }

// rawAnswer is the JSON. What may have several shapes, or does not matter enough to
// make an opinion worthless when it is odd, is read in a second step.
type rawAnswer struct {
	Action   *string         `json:"action"`
	Score    *float64        `json:"score"`
	Required float64         `json:"required_score"`
	Skipped  bool            `json:"is_skipped"`
	Symbols  json.RawMessage `json:"symbols"`
	Subject  any             `json:"subject"`
	Messages any             `json:"messages"`
	Milter   any             `json:"milter"`
	Error    any             `json:"error"`
}

type rawSymbol struct {
	Score       float64 `json:"score"`
	MetricScore float64 `json:"metric_score"`
	Description any     `json:"description"`
	Options     any     `json:"options"`
}

// parseAnswer reads the body of an answer. One without an action and a score is none.
func parseAnswer(body []byte) (*answer, error) {
	var raw rawAnswer
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, fmt.Errorf("is no JSON of the right shape: %w", err)
	}
	switch {
	case raw.Error != nil:
		return nil, fmt.Errorf("is an error: %s", plain.Line(fmt.Sprint(raw.Error), maxText))
	case raw.Action == nil || *raw.Action == "":
		return nil, errors.New("has no action")
	case raw.Score == nil:
		return nil, errors.New("has no score")
	}
	a := &answer{
		action: plain.Line(*raw.Action, 100), score: *raw.Score, required: raw.Required, skipped: raw.Skipped,
		subject: text(raw.Subject), message: text(member(raw.Messages, "smtp_message")),
	}
	symbols := make(map[string]rawSymbol)
	if s := strings.TrimSpace(string(raw.Symbols)); s != "" && s != "[]" && s != "null" { // a table without members may be written as a list
		if err := json.Unmarshal(raw.Symbols, &symbols); err != nil {
			return nil, fmt.Errorf("has symbols that are none: %w", err)
		}
	}
	for name, s := range symbols {
		if plain.Line(name, maxText) == "" {
			continue
		}
		a.symbols = append(a.symbols, symbol{plain.Line(name, 100), s.Score, s.text()})
	}
	slices.SortFunc(a.symbols, func(x, y symbol) int {
		switch dx, dy := math.Abs(x.score), math.Abs(y.score); {
		case dx > dy:
			return -1
		case dx < dy:
			return 1
		}
		return strings.Compare(x.name, y.name)
	})
	a.remove, a.add = milterFields(raw.Milter)
	return a, nil
}

// text is a symbol's description and options in one line.
func (s rawSymbol) text() string {
	out := text(s.Description)
	options, _ := s.Options.([]any)
	var words []string
	for _, o := range options[:min(len(options), 20)] {
		words = append(words, text(o))
	}
	if len(words) > 0 {
		out += " [" + strings.Join(words, ", ") + "]"
	}
	return plain.Line(out, maxText)
}

// milterFields reads the block "milter": add_headers has names with a text, an object with
// a value, or a list of those; remove_headers has names with an index, or a list of those.
func milterFields(milter any) (remove []removal, add []field) {
	gone, _ := member(milter, "remove_headers").(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		for _, one := range list(gone[name]) {
			n, ok := one.(float64)
			if ok && n == math.Trunc(n) && math.Abs(n) <= 1000 {
				remove = append(remove, removal{name, int(n)})
			}
		}
	}
	fresh, _ := member(milter, "add_headers").(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(fresh)) {
		for _, one := range list(fresh[name]) {
			value, ok := one.(string)
			if !ok {
				value, ok = member(one, "value").(string)
			}
			if ok {
				add = append(add, field{name, value})
			}
		}
	}
	return remove, add
}

// list returns v if it is a list, else a list of v.
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

func member(v any, name string) any {
	table, _ := v.(map[string]any)
	return table[name]
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// learned reports whether a controller said that it did.
func learned(body []byte) bool {
	var raw struct {
		Success bool `json:"success"`
	}
	return json.Unmarshal(body, &raw) == nil && raw.Success
}

// errorText returns what a body says under "error", or "".
func errorText(body []byte) string {
	var raw struct {
		Error any `json:"error"`
	}
	if json.Unmarshal(body, &raw) != nil {
		return ""
	}
	return text(raw.Error)
}
