package main

import (
	"reflect"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

// TestReloadRefusesWhatItWouldIgnore: a key that a running server does not take over is named, so that what is in force is
// always one file.
func TestReloadRefusesWhatItWouldIgnore(t *testing.T) {
	load := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse("sluice.toml", "hostname = \"mx.example.test\"\n"+text, config.Options{Builtins: builtinNames()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s := &server{config: load("")}
	for text, fixed := range map[string]bool{
		"":                                    false,
		"[log]\nlevel = \"debug\"":            true,
		"[dns]\nservers = [\"127.0.0.1:53\"]": true,
		"[pipeline.inbound.receive]\nmax_size = \"1MB\"":                  true,
		"[pipeline.other.queue]\nretry = \"1m\"":                          true,
		"[pipeline.inbound.queue]\nretry = \"1m\"":                        false,
		"[pipeline.inbound.anti-spam]\njunk_at = 3.0":                     false,
		"[pipeline.inbound.anti-spam]\nplugins = [\"gtube\"]":             false,
		"[plugin.gtube]\nbuiltin = \"gtube\"\ntimeout = \"1s\"":           false,
		"[domain.\"example.test\"]\naliases = { a = \"b@example.test\" }": false,
	} {
		if what := s.fixed(load(text)); (what != "") != fixed {
			t.Errorf("%q: fixed %q", text, what)
		}
	}
	// Whoever adds a top-level key has to say here, or in fixed, what a reload does about it.
	replaced := map[string]bool{"Domain": true, "Postmaster": true, "Pipeline": true, "Plugin": true, "Relay": true, "Forward": true, "Destination": true, "Reports": true}
	inert := map[string]bool{"Path": true, "Warnings": true} // no keys
	for i := range reflect.TypeFor[config.Config]().NumField() {
		f := reflect.TypeFor[config.Config]().Field(i)
		if !f.IsExported() || replaced[f.Name] || inert[f.Name] {
			continue
		}
		other := load("")
		mutate(reflect.ValueOf(other).Elem().Field(i))
		if s.fixed(other) == "" {
			t.Errorf("%s changes, and a reload says nothing", f.Name)
		}
	}
}

// mutate gives a value another value.
func mutate(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Struct:
		mutate(v.Field(0))
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("new"), reflect.New(v.Type().Elem().Elem()))
		v.Set(m)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), v.Len()+1, v.Len()+1))
	}
}
