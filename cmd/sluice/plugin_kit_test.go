package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/sdk"
)

// The kit for authors: what needs no plugin to be tested. The rest is in cmd/internal/interop.

func TestReadModule(t *testing.T) {
	version, requires := readModule("module x\n\ngo 1.26.0\n\nrequire (\n\ta.example/b v1.2.3\n\t// why\n\tc.example/d v0.1.0 // indirect\n)\n\nrequire e.example/f v2.0.0\n")
	if version != "1.26.0" || requires != "\ta.example/b v1.2.3 // indirect\n\tc.example/d v0.1.0 // indirect\n\te.example/f v2.0.0 // indirect\n" {
		t.Errorf("%q %q", version, requires)
	}
}

func TestPluginNewFiles(t *testing.T) {
	for _, lang := range []string{"go", "python", "javascript"} {
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs}
		dir := filepath.Join(t.TempDir(), "x")
		if code := a.run(t.Context(), []string{"plugin", "new", "--lang", lang, "--dir", dir, "invoice-check"}); code != exitDone {
			t.Fatalf("%s: status %d, %s", lang, code, errs.String())
		}
		// What goes into sluice.toml is something that plugin check and ask can read.
		c, err := config.LoadPlugins(filepath.Join(dir, "plugin.toml"), config.Options{})
		if err != nil || c.Plugin["invoice-check"] == nil || !c.PluginsOnly() {
			t.Errorf("%s: %+v %v", lang, c, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) < 5 {
			t.Errorf("%s: %v %v", lang, entries, err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil || strings.Contains(string(text), lang+"-scanner") || strings.Contains(string(text), "scanner.py") {
				t.Errorf("%s/%s still speaks of the example: %v", lang, e.Name(), err)
			}
		}
		out.Reset()
		if code := a.run(t.Context(), []string{"plugin", "new", "--lang", lang, "--dir", dir, "other"}); code != exitFailed || !strings.Contains(errs.String(), "is there already") {
			t.Errorf("%s: written over: status %d, %s", lang, code, errs.String())
		}
	}
}

func TestWhichPlugin(t *testing.T) {
	name := filepath.Join(t.TempDir(), "p.toml")
	if err := os.WriteFile(name, []byte("[plugin.a]\ncommand = [\"a\"]\n[plugin.b]\ncommand = [\"b\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadPlugins(name, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, try := range []struct {
		flags pluginCheckFlags
		args  []string
		want  string
	}{
		{pluginCheckFlags{name: "b"}, nil, "b"},
		{pluginCheckFlags{name: "c"}, nil, ""},
		{pluginCheckFlags{}, []string{"/usr/bin/a", "-v"}, "a"},
		{pluginCheckFlags{builtin: "b"}, nil, "b"},
		{pluginCheckFlags{}, nil, ""},
	} {
		if got, err := whichPlugin(c, try.flags, try.args); got != try.want || (err == nil) != (got != "") {
			t.Errorf("%+v %q: %q %v", try.flags, try.args, got, err)
		}
	}
	delete(c.Plugin, "b")
	if got, err := whichPlugin(c, pluginCheckFlags{}, nil); got != "a" || err != nil {
		t.Errorf("the only one: %q %v", got, err)
	}
}

func TestAskLine(t *testing.T) {
	a := asked{Source: "x.eml", MS: 1.25, Verdict: &sdk.Verdict{
		Action: sdk.Reject, Score: 2.5, Detections: []string{"EICAR"},
		Reasons:    []sdk.Reason{{Symbol: "WORD", Score: 2.5, Text: "a word"}},
		Changes:    []sdk.Change{{Kind: sdk.AddField, Name: "X-A"}, {Kind: sdk.ReplaceBody}},
		Reply:      &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "No"},
		Recipients: []sdk.RecipientVerdict{{Recipient: "a@b", Action: sdk.Junk, Route: &sdk.Route{To: []string{"c@d"}}}},
	}}
	want := "reject         2.5     1.2 ms  found EICAR; WORD +2.5 (a word); a@b: junk to c@d; add field X-A; replace body; reply 550 5.7.1 No"
	if got := a.line(); !strings.HasPrefix(got, "x.eml ") || !strings.HasSuffix(got, want) {
		t.Errorf("%q", got)
	}
	routed := asked{Source: "x", Verdict: &sdk.Verdict{
		Route:      &sdk.Route{Via: "lmtp://store.example:24"},
		Recipients: []sdk.RecipientVerdict{{Recipient: "a@b", Route: &sdk.Route{To: []string{"c@d", "e@f"}, Via: "smtp://mx.example:25"}}},
	}}
	if got := routed.line(); !strings.HasSuffix(got, "a@b: accept to c@d, e@f via smtp://mx.example:25; via lmtp://store.example:24") {
		t.Errorf("%q", got)
	}
	failed := asked{Source: "x", Kind: "timeout", Error: "no answer in time"}
	if got := failed.line(); !strings.Contains(got, "FAILED") || !strings.HasSuffix(got, "timeout: no answer in time") {
		t.Errorf("%q", got)
	}
}

func TestFieldOf(t *testing.T) {
	header := []byte("Return-path: <a@example.org>\r\nDelivered-To: b@example.test\r\nDelivered-To: c@example.test\r\n\r\n")
	for name, want := range map[string]string{"Return-Path": "a@example.org", "delivered-to": "b@example.test", "X": ""} {
		if got := fieldOf(header, name); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
}

func TestCopyState(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := copyState(filepath.Join(from, "absent"), to); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(from, "db"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyState(from, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(to, "db")); err != nil || string(text) != "x" {
		t.Errorf("%q %v", text, err)
	}
	large, err := os.Create(filepath.Join(from, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	if err := large.Truncate(maxState + 1); err != nil {
		t.Fatal(err)
	}
	if err := copyState(from, to+"2"); err == nil {
		t.Error("2 GB were copied")
	}
}
