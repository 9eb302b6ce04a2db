package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/plugins"
	"github.com/sluicemail/sluice/sdk"
)

const manualBase = `hostname = "mx.example.test"
data_dir = "data"
[domain."example.test"]
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
[listener.submission]
protocol = "submission"
address = "127.0.0.1:0"
pipeline = "outbound"
`

// TestManual: every piece of configuration in the plugins' part of the manual passes `sluice check`, and
// the plugin takes its settings.
func TestManual(t *testing.T) {
	pages, err := filepath.Glob("../../plugins/*/README.md")
	if err != nil || len(pages) < 8 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../../plugins/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		examples := tomlOf(string(text))
		if len(examples) == 0 {
			t.Errorf("%s has no configuration to copy", page)
		}
		for _, example := range examples {
			dir := t.TempDir()
			file := filepath.Join(dir, "sluice.toml")
			for name, text := range map[string]string{file: manualBase + example, filepath.Join(dir, "rspamd.password"): "secret\n"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := config.Load(file, config.Options{Builtins: builtinNames()})
			if err != nil {
				t.Errorf("%s: %v\n%s", page, err, example)
				continue
			}
			for name, table := range c.Plugin {
				if table.Builtin == "" {
					continue
				}
				p := plugins.Builtins()[table.Builtin]()
				if err := p.Configure(t.Context(), sdk.Settings{Config: table.Config, StateDir: t.TempDir(), Dir: t.TempDir(), Lanes: 8}); err != nil {
					t.Errorf("%s: plugin %s: %v", page, name, err)
				}
				if closer, ok := p.(interface{ Close() error }); ok {
					_ = closer.Close()
				}
			}
		}
	}
}

// tomlOf returns the blocks of a page that begin with a table, indented or between fences.
func tomlOf(text string) []string {
	var list []string
	fences := strings.Split(text, "```")
	for i := 1; i < len(fences); i += 2 {
		if _, inside, ok := strings.Cut(fences[i], "\n"); ok && strings.HasPrefix(strings.TrimSpace(inside), "[") {
			list = append(list, inside)
		}
	}
	var block []string
	end := func() {
		for len(block) > 0 && block[0] == "" {
			block = block[1:]
		}
		if len(block) > 0 && strings.HasPrefix(block[0], "[") {
			list = append(list, strings.Join(block, "\n")+"\n")
		}
		block = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch inside, ok := strings.CutPrefix(line, "    "); {
		case ok:
			block = append(block, inside)
		case line == "":
			block = append(block, "")
		default:
			end()
		}
	}
	end()
	return list
}
