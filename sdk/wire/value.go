package wire

import (
	"fmt"
	"time"
)

// maxDepth bounds tables within tables.
const maxDepth = 50

// ToTable puts a TOML table on the wire. Values are what sdk.Settings.Config
// lists; local dates and times of TOML arrive as time.Time too.
func ToTable(table map[string]any) (map[string]*Value, error) { return toTable(table, 0) }

func toTable(table map[string]any, depth int) (map[string]*Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("tables are nested deeper than %d", maxDepth)
	}
	out := make(map[string]*Value, len(table))
	for key, item := range table {
		v, err := toValue(item, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out[key] = v
	}
	return out, nil
}

func toValue(item any, depth int) (*Value, error) {
	switch x := item.(type) {
	case string:
		return &Value{Kind: &Value_Text{Text: valid(x)}}, nil
	case int64:
		return &Value{Kind: &Value_Integer{Integer: x}}, nil
	case int:
		return &Value{Kind: &Value_Integer{Integer: int64(x)}}, nil
	case float64:
		return &Value{Kind: &Value_Real{Real: x}}, nil
	case bool:
		return &Value{Kind: &Value_Boolean{Boolean: x}}, nil
	case time.Time:
		return &Value{Kind: &Value_Time{Time: x.Format(time.RFC3339Nano)}}, nil
	case []any:
		return toList(x, depth)
	case []map[string]any: // how the TOML decoder gives an array of tables
		items := make([]any, len(x))
		for i := range x {
			items[i] = x[i]
		}
		return toList(items, depth)
	case map[string]any:
		t, err := toTable(x, depth+1)
		return &Value{Kind: &Value_Table{Table: &Table{Items: t}}}, err
	}
	return nil, fmt.Errorf("a value of type %T cannot be handed to a plugin", item)
}

func toList(items []any, depth int) (*Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("lists are nested deeper than %d", maxDepth)
	}
	list := &List{}
	for i, item := range items {
		v, err := toValue(item, depth+1)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i+1, err)
		}
		list.Items = append(list.Items, v)
	}
	return &Value{Kind: &Value_List{List: list}}, nil
}

// FromTable reads what ToTable wrote.
func FromTable(table map[string]*Value) (map[string]any, error) {
	out := make(map[string]any, len(table))
	for key, v := range table {
		item, err := fromValue(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out[key] = item
	}
	return out, nil
}

func fromValue(v *Value) (any, error) {
	switch x := v.GetKind().(type) {
	case *Value_Text:
		return x.Text, nil
	case *Value_Integer:
		return x.Integer, nil
	case *Value_Real:
		return x.Real, nil
	case *Value_Boolean:
		return x.Boolean, nil
	case *Value_Time:
		return time.Parse(time.RFC3339Nano, x.Time)
	case *Value_List:
		list := make([]any, 0, len(x.List.GetItems()))
		for _, item := range x.List.GetItems() {
			value, err := fromValue(item)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case *Value_Table:
		return FromTable(x.Table.GetItems())
	}
	return nil, fmt.Errorf("a value of a kind that this version does not know")
}
