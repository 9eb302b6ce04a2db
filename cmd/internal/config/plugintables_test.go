package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadPlugins(t *testing.T) {
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "plugin.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	name := write("[plugin.a]\ncommand = [\"./a\", \"b\"]\nread = [\".\"]\n[plugin.a.config]\nwords = [\"x\"]\n")
	c, err := LoadPlugins(name, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Plugin["a"]
	if p == nil || p.Name != "a" || p.Command[0] != filepath.Join(filepath.Dir(name), "a") || p.Read[0] != filepath.Dir(name) || p.Lanes != 16 {
		t.Errorf("%+v", p)
	}
	if got := c.PluginProblem("a", "words", "no").String(); !strings.Contains(got, "plugin.toml:5: plugin.a.config.words: no") {
		t.Error(got)
	}
	for text, want := range map[string]string{
		"":                                      "plugin.toml: plugin: no plugin here",
		"[plugin.a]\nlanes = 0\nbuiltin = \"\"": "plugin.a.lanes",
		"[plugin.a]\ncomand = [\"x\"]":          `did you mean "command"`,
		"hostname = 3":                          "no plugin here",
	} {
		if _, err := LoadPlugins(write(text), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, expected %s", text, err, want)
		}
	}
}
