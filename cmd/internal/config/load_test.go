package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what is reported into testdata/*.want")

// testOptions keeps the machine that runs the tests out of them.
func testOptions() Options {
	return Options{
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{"SLUICE_TEST_SECRET": "from the environment"}[name]
			return v, ok
		},
		Machine: func() (string, error) { return "machine", nil },
	}
}

// TestProblems holds what is reported about each broken file, and about files that only earn warnings, against the lines
// in the .want file beside it.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in testdata", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			c, err := Load(file, testOptions())
			var problems Problems
			if err == nil {
				problems = c.Warnings
			} else if !errors.As(err, &problems) {
				t.Fatal(err)
			}
			if bad := strings.Contains(file, "/bad/"); bad != (err != nil) {
				t.Errorf("Load = %v; want an error: %v", err, bad)
			}
			got := problems.Error() + "\n"
			if abs, err := filepath.Abs(filepath.Dir(file)); err == nil {
				got = strings.ReplaceAll(got, abs, "DIR")
			}
			got = strings.ReplaceAll(got, filepath.Dir(file)+"/", "")
			want := strings.TrimSuffix(file, ".toml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(text) {
				t.Errorf("reported:\n%s\nwanted:\n%s", got, text)
			}
		})
	}
}
