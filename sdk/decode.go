package sdk

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Octets is a number of octets in a plugin's settings: an integer, or text such as
// "64KB", "50MB" or "1GB", in powers of 1024.
type Octets int64

// Decode fills the struct that into points to from Config. A field's key is its tag
// `config:"key"`; a field without the tag is left alone, and so is one whose key is not
// set, so that defaults are what into held before. Types are string, bool, integers,
// float64, time.Duration ("10s", "1h30m", "5d"), Octets, time.Time, Action, any, and
// slices, maps with string keys and structs of those.
//
// The error joins a *SettingError for every unknown key and every value of another
// type, so that the administrator sees all of them at once.
func (s Settings) Decode(into any) error {
	d := &settingsDecoder{}
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("decode settings into %T: expected a pointer to a struct", into)
	}
	d.table("", s.Config, v.Elem())
	return errors.Join(d.problems...)
}

type settingsDecoder struct{ problems []error }

func (d *settingsDecoder) bad(key, format string, args ...any) {
	d.problems = append(d.problems, &SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
}

func (d *settingsDecoder) table(prefix string, table map[string]any, into reflect.Value) {
	fields := make(map[string]int)
	for i := range into.NumField() {
		if key := into.Type().Field(i).Tag.Get("config"); key != "" {
			fields[key] = i
		}
	}
	for _, key := range sortedKeys(table) {
		i, ok := fields[key]
		if !ok {
			d.bad(prefix+key, "%s", unknownKey(key, fields))
			continue
		}
		d.value(prefix+key, table[key], into.Field(i))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func unknownKey(key string, fields map[string]int) string {
	known := sortedKeys(fields)
	for _, k := range known {
		if near(key, k) {
			return fmt.Sprintf("unknown key, did you mean %s?", k)
		}
	}
	return "unknown key, expected " + strings.Join(known, ", ")
}

// near reports whether two words differ in at most two letters.
func near(a, b string) bool {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)] <= min(2, len(b)/2)
}

func (d *settingsDecoder) value(key string, item any, into reflect.Value) {
	switch into.Interface().(type) {
	case time.Duration:
		d.duration(key, item, into)
		return
	case Octets:
		d.octets(key, item, into)
		return
	case Action:
		word, _ := item.(string)
		action, err := ParseAction(word)
		if err != nil {
			d.bad(key, "%v: %v", item, err)
			return
		}
		into.Set(reflect.ValueOf(action))
		return
	case time.Time:
		if t, ok := item.(time.Time); ok {
			into.Set(reflect.ValueOf(t))
			return
		}
		d.bad(key, "%v, expected a date and time", item)
		return
	}
	switch into.Kind() {
	case reflect.Interface: // any: as it came
		if item != nil && into.NumMethod() == 0 {
			into.Set(reflect.ValueOf(item))
			return
		}
		d.scalar(key, item, into)
	case reflect.Struct:
		if table, ok := item.(map[string]any); ok {
			d.table(key+".", table, into)
			return
		}
		d.bad(key, "%v, expected a table", item)
	case reflect.Map:
		d.mapping(key, item, into)
	case reflect.Slice:
		d.list(key, item, into)
	default:
		d.scalar(key, item, into)
	}
}

func (d *settingsDecoder) mapping(key string, item any, into reflect.Value) {
	table, ok := item.(map[string]any)
	if !ok {
		d.bad(key, "%v, expected a table", item)
		return
	}
	out := reflect.MakeMapWithSize(into.Type(), len(table))
	for _, name := range sortedKeys(table) {
		element := reflect.New(into.Type().Elem()).Elem()
		d.value(key+"."+name, table[name], element)
		out.SetMapIndex(reflect.ValueOf(name).Convert(into.Type().Key()), element)
	}
	into.Set(out)
}

func (d *settingsDecoder) list(key string, item any, into reflect.Value) {
	items, ok := item.([]any)
	if !ok {
		d.bad(key, "%v, expected a list", item)
		return
	}
	out := reflect.MakeSlice(into.Type(), len(items), len(items))
	for i, one := range items {
		d.value(fmt.Sprintf("%s[%d]", key, i+1), one, out.Index(i))
	}
	into.Set(out)
}

func (d *settingsDecoder) scalar(key string, item any, into reflect.Value) {
	switch into.Kind() {
	case reflect.String:
		if s, ok := item.(string); ok {
			into.SetString(s)
			return
		}
		d.bad(key, "%v, expected text in quotes", item)
	case reflect.Bool:
		if b, ok := item.(bool); ok {
			into.SetBool(b)
			return
		}
		d.bad(key, "%v, expected true or false", item)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n, ok := item.(int64); ok && !into.OverflowInt(n) {
			into.SetInt(n)
			return
		}
		d.bad(key, "%v, expected an integer", item)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if n, ok := item.(int64); ok && n >= 0 && !into.OverflowUint(uint64(n)) {
			into.SetUint(uint64(n))
			return
		}
		d.bad(key, "%v, expected an integer that is not negative", item)
	case reflect.Float32, reflect.Float64:
		switch n := item.(type) {
		case float64:
			if math.IsNaN(n) || math.IsInf(n, 0) {
				d.bad(key, "%v, expected a finite number", n)
				return
			}
			into.SetFloat(n)
		case int64:
			into.SetFloat(float64(n))
		default:
			d.bad(key, "%v, expected a number", item)
		}
	default:
		d.bad(key, "the plugin keeps it in a %s, which settings cannot fill", into.Type())
	}
}

func (d *settingsDecoder) duration(key string, item any, into reflect.Value) {
	text, _ := item.(string)
	value, err := parseDuration(text)
	if err != nil {
		d.bad(key, "%v, expected a duration such as \"10s\", \"4h\" or \"5d\"", item)
		return
	}
	into.SetInt(int64(value))
}

func parseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || math.Abs(n) > 36500 || math.IsNaN(n) {
			return 0, fmt.Errorf("%q is no number of days", days)
		}
		return time.Duration(n * 24 * float64(time.Hour)), nil
	}
	return time.ParseDuration(text)
}

var octetUnits = []struct {
	suffix string
	factor float64
}{{"KB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"B", 1}}

func (d *settingsDecoder) octets(key string, item any, into reflect.Value) {
	if n, ok := item.(int64); ok && n >= 0 {
		into.SetInt(n)
		return
	}
	text, _ := item.(string)
	at := slices.IndexFunc(octetUnits, func(u struct {
		suffix string
		factor float64
	},
	) bool {
		return strings.HasSuffix(text, u.suffix)
	})
	if at >= 0 {
		unit := octetUnits[at]
		n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(text, unit.suffix)), 64)
		if n *= unit.factor; err == nil && n >= 0 && n < 1<<60 {
			into.SetInt(int64(n))
			return
		}
	}
	d.bad(key, "%v, expected a number of octets such as \"64KB\" or \"50MB\"", item)
}
