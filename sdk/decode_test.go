package sdk

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

type decoded struct {
	Name    string             `config:"name"`
	On      bool               `config:"on"`
	Count   int                `config:"count"`
	Small   uint8              `config:"small"`
	Weight  float64            `config:"weight"`
	Wait    time.Duration      `config:"wait"`
	Size    Octets             `config:"size"`
	Action  Action             `config:"action"`
	List    []string           `config:"list"`
	Weights map[string]float64 `config:"weights"`
	Sub     struct {
		Depth int `config:"depth"`
	} `config:"sub"`
	Kept string
}

func TestDecode(t *testing.T) {
	got := decoded{Name: "default", Kept: "kept"}
	err := Settings{Config: map[string]any{
		"on": true, "count": int64(3), "small": int64(255), "weight": int64(2), "wait": "5d", "size": "1.5MB", "action": "junk",
		"list": []any{"a", "b"}, "weights": map[string]any{"X": 1.5, "Y": int64(1)}, "sub": map[string]any{"depth": int64(7)},
	}}.Decode(&got)
	want := decoded{
		Name: "default", On: true, Count: 3, Small: 255, Weight: 2, Wait: 120 * time.Hour, Size: 3 << 19, Action: Junk,
		List: []string{"a", "b"}, Weights: map[string]float64{"X": 1.5, "Y": 1}, Kept: "kept",
	}
	want.Sub.Depth = 7
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestDecodeComplains(t *testing.T) {
	for _, c := range []struct {
		key  string
		item any
		want string // of the complaint
	}{
		{"nmae", "x", "nmae: unknown key, did you mean name?"},
		{"zzz", "x", "zzz: unknown key, expected action, count"},
		{"name", int64(1), "name: 1, expected text"},
		{"on", "yes", "on: yes, expected true or false"},
		{"count", 1.5, "count: 1.5, expected an integer"},
		{"small", int64(256), "small: 256, expected an integer that is not negative"},
		{"weight", "1", "weight: 1, expected a number"},
		{"wait", int64(5), "wait: 5, expected a duration"},
		{"wait", "5 minutes", "wait: 5 minutes, expected a duration"},
		{"size", "5 parsecs", "size: 5 parsecs, expected a number of octets"},
		{"size", int64(-1), "size: -1, expected a number of octets"},
		{"action", "explode", "action: explode: unknown action"},
		{"list", "a", "list: a, expected a list"},
		{"list", []any{"a", int64(2)}, "list[2]: 2, expected text"},
		{"weights", map[string]any{"X": "heavy"}, "weights.X: heavy, expected a number"},
		{"sub", map[string]any{"dept": int64(1)}, "sub.dept: unknown key, did you mean depth?"},
	} {
		err := Settings{Config: map[string]any{c.key: c.item}}.Decode(&decoded{})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s = %v: %v, want %q", c.key, c.item, err, c.want)
		}
	}
	err := Settings{Config: map[string]any{"on": 1.5, "wait": true}}.Decode(&decoded{})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not every complaint at once: %v", err)
	}
}
