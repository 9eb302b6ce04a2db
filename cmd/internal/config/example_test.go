package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

const full = "../../../examples/full/sluice.toml"

// TestFullIsFresh compares the committed example with what the structs say; "make generate" writes it.
func TestFullIsFresh(t *testing.T) {
	want, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(full, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("examples/full/sluice.toml is not what the Config structs say; run: make generate")
	}
}

// TestFullIsTheDefaults reads the example and a file with nothing but its names, addresses and lists, and expects the same
// configuration: so every other value in the example is the default.
func TestFullIsTheDefaults(t *testing.T) {
	text, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("full.toml", text, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse("full.toml", `
hostname = "mx.example.test"
[listener]
mx = { protocol = "smtp", address = "127.0.0.1:2525" }
submission = { protocol = "submission", address = "127.0.0.1:2587" }
lmtp = { protocol = "lmtp", address = "127.0.0.1:2424" }
imap = { protocol = "imap", address = "127.0.0.1:2143" }
pop3 = { protocol = "pop3", address = "127.0.0.1:2110" }
admin = { protocol = "admin", address = "127.0.0.1:9090" }
[domain."example.test"]
aliases = { postmaster = "alice@example.test", team = ["alice@example.test", "bob@example.test"] }
send_as = { alice = ["sales@example.test"] }
[plugin.eicar]
builtin = "eicar"
`, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{got, want} {
		c.src, c.written, c.Warnings = nil, nil, nil
		emptyToNil(reflect.ValueOf(c).Elem())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v\nthe defaults are\n%+v", dump(got), dump(want))
	}
}

// TestFullHasEveryKey looks for every key of every struct.
func TestFullHasEveryKey(t *testing.T) {
	text, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	var visit func(path string, typ reflect.Type)
	visit = func(path string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for name, index := range fieldsOf(typ) {
			f := typ.FieldByIndex(index)
			if isTable(f.Type) {
				visit(path+"."+name, f.Type)
				continue
			}
			if !strings.Contains(text, "\n"+name+" = ") && !strings.Contains(text, "\n#"+name+" = ") {
				t.Errorf("no key %s.%s", path, name)
			}
		}
	}
	visit("", reflect.TypeFor[Config]())
}

// TestMeanings finds meanings of keys that are gone.
func TestMeanings(t *testing.T) {
	for key := range meanings {
		path := strings.Split(key, ".")
		typ := reflect.TypeFor[Config]()
		for _, name := range path {
			for typ.Kind() == reflect.Pointer {
				typ = typ.Elem()
			}
			if name == "*" {
				typ = typ.Elem()
				continue
			}
			index, ok := fieldsOf(typ)[name]
			if !ok {
				t.Errorf("meanings has %s, which is no key", key)
				break
			}
			typ = typ.FieldByIndex(index).Type
		}
	}
}

// emptyToNil makes empty lists and maps nil, because TOML's [] and a key that is left out mean the same here.
func emptyToNil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			emptyToNil(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				emptyToNil(v.Field(i))
			}
		}
	case reflect.Map, reflect.Slice:
		if v.Len() == 0 && v.CanSet() {
			v.SetZero()
			return
		}
		if v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.Pointer {
			for _, key := range v.MapKeys() {
				emptyToNil(v.MapIndex(key))
			}
		}
	}
}

func dump(c *Config) string {
	var b strings.Builder
	for name, l := range c.Listener {
		b.WriteString(name + ": " + literalOf(l) + "\n")
	}
	for name, l := range c.Domain {
		b.WriteString(name + ": " + literalOf(l) + "\n")
	}
	for name, l := range c.Plugin {
		b.WriteString(name + ": " + literalOf(l) + "\n")
	}
	for name, l := range c.Pipeline {
		b.WriteString(name + ": " + literalOf(l) + "\n")
	}
	return b.String() + literalOf(c)
}

func literalOf(v any) string {
	w := &exampleWriter{}
	w.table(nil, reflect.ValueOf(v).Elem(), false)
	return w.b.String()
}
