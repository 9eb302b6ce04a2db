package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	examples "github.com/sluicemail/sluice/examples/plugins"
)

const module = "github.com/sluicemail/sluice"

func (a *app) pluginNewCommand() *cobra.Command {
	var n newPlugin
	cmd := &cobra.Command{
		Use:   "new --lang go|python|javascript NAME",
		Short: "write a plugin to begin with: it builds, runs, and passes the check",
		Long: `Write a plugin to begin with into a directory of its own: the program, a test, a README, and its lines for sluice.toml. It refuses
mail with words that the administrator lists; it builds and runs as it is, and passes sluice plugin check.

A plugin in Go imports ` + module + `/sdk. The directory with Sluice's source is found where you
are, or named with --sluice; without one, go.mod says what to fill in.`,
		Args: exactArgs("the name of the new plugin"),
		RunE: func(_ *cobra.Command, args []string) error {
			n.name = args[0]
			return a.pluginNew(&n)
		},
	}
	cmd.Flags().StringVar(&n.lang, "lang", "", "go, python or javascript")
	cmd.Flags().StringVar(&n.dir, "dir", "", "the `directory` to make; default: the plugin's name")
	cmd.Flags().StringVar(&n.sluice, "sluice", "", "the `directory` with Sluice's source, for plugins in Go")
	return cmd
}

// newPlugin is a plugin that is to be written.
type newPlugin struct{ name, lang, dir, sluice string }

var goVersionForm = regexp.MustCompile(`^v[0-9]+$`)

var pluginNameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

func (a *app) pluginNew(n *newPlugin) error {
	if !pluginNameForm.MatchString(n.name) {
		return usagef("the name %q, expected small letters, digits and hyphens, a letter first", n.name)
	}
	if n.lang == "go" && goVersionForm.MatchString(n.name) {
		return usagef("the name %q, which Go takes for a version of a module", n.name)
	}
	n.dir = or(n.dir, n.name)
	var files map[string]string
	var next []string
	var err error
	switch n.lang {
	case "go":
		files, next, err = n.golang()
	case "python":
		files, next, err = n.python()
	case "javascript":
		files, next, err = n.javascript()
	default:
		return usagef("--lang %q, expected go, python or javascript", n.lang)
	}
	if err != nil {
		return err
	}
	if err := writeNew(n.dir, files); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "wrote %s: %s\n\nnext:\n    cd %s\n", n.dir, strings.Join(sortedNames(files), ", "), shellWord(n.dir))
	for _, line := range next {
		fmt.Fprintf(a.stdout, "    %s\n", line)
	}
	fmt.Fprintf(a.stdout, "then put what is in plugin.toml into your sluice.toml, with the plugin's directory in its paths, and name %s in a stage\n", n.name)
	return nil
}

// shellWord writes a word so that a shell reads it as one.
func shellWord(s string) string {
	if regexp.MustCompile(`^[A-Za-z0-9_./+:,@%-]+$`).MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func sortedNames(files map[string]string) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// writeNew writes files into a directory that does not exist, or is empty.
func writeNew(dir string, files map[string]string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("%s is there already, and not empty; choose another place with --dir", dir)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for _, name := range sortedNames(files) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("write a file of the plugin: %w", err)
		}
		_, err = f.WriteString(files[name])
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", f.Name(), err)
		}
	}
	return nil
}

// example reads a file of an example and puts other words into it: pairs of old and new.
func example(name string, words ...string) (string, error) {
	text, err := examples.Files.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read the example %s: %w", name, err)
	}
	return strings.NewReplacer(words...).Replace(string(text)), nil
}

// copies makes the files of a plugin from those of an example: from[new name] is the example's.
func copies(from map[string]string, words ...string) (map[string]string, error) {
	files := make(map[string]string, len(from))
	for name, source := range from {
		text, err := example(source, words...)
		if err != nil {
			return nil, err
		}
		files[name] = text
	}
	return files, nil
}

const protocolLink = "[PROTOCOL.md](../../../sdk/PROTOCOL.md)"

func (n *newPlugin) python() (map[string]string, []string, error) {
	files, err := copies(
		map[string]string{"plugin.py": "python/scanner.py", "README.md": "python/README.md", "plugin.toml": "python/plugin.toml"},
		"python-scanner", n.name, "scanner.py", "plugin.py", protocolLink, "Sluice's `sdk/PROTOCOL.md`",
		"../../../sdk/wire", "SLUICE/sdk/wire",
	)
	if err != nil {
		return nil, nil, err
	}
	files[".gitignore"] = "__pycache__/\n"
	if files["plugin_pb2.py"], err = example("python/plugin_pb2.py"); err != nil {
		return nil, nil, err
	}
	if files["test_plugin.py"], err = example("python/test_scanner.py", "scanner", "plugin"); err != nil {
		return nil, nil, err
	}
	return files, []string{
		"apt-get install python3-grpcio                    # if it is not there",
		"/usr/bin/python3 -m unittest",
		"sluice plugin check --config plugin.toml",
	}, nil
}

func (n *newPlugin) javascript() (map[string]string, []string, error) {
	files, err := copies(
		map[string]string{
			"plugin.js": "javascript/scanner.js", "README.md": "javascript/README.md", "plugin.toml": "javascript/plugin.toml",
			"package.json": "javascript/package.json", "package-lock.json": "javascript/package-lock.json",
			"plugin.test.js": "javascript/scanner.test.js", "plugin.proto": "javascript/plugin.proto",
		},
		"javascript-scanner", n.name, "scanner.js", "plugin.js", protocolLink, "Sluice's `sdk/PROTOCOL.md`",
	)
	if err != nil {
		return nil, nil, err
	}
	files[".gitignore"] = "node_modules/\n"
	return files, []string{"npm ci --ignore-scripts", "npm test", "sluice plugin check --config plugin.toml"}, nil
}

func (n *newPlugin) golang() (map[string]string, []string, error) {
	main, err := example("scanner/main.go", `Name: "scanner"`, fmt.Sprintf("Name: %q", n.name), "Command scanner", "Command "+n.name)
	if err != nil {
		return nil, nil, err
	}
	test, err := example("scanner/main_test.go")
	if err != nil {
		return nil, nil, err
	}
	files := map[string]string{
		"main.go": main, "main_test.go": test, "README.md": goReadme(n.name), ".gitignore": "/" + n.name + "\n",
		"plugin.toml": fmt.Sprintf("# What goes into sluice.toml, with the plugin's directory in the path: paths are relative to the file that they stand in.\n"+
			"# `sluice plugin check --config plugin.toml` reads it too.\n"+
			"[plugin.%[1]s]\ncommand = [\"./%[1]s\"]\non_failure = \"accept\"\n\n[plugin.%[1]s.config]\nwords = [\"lottery\"]\n", n.name),
	}
	next := []string{"go build", "go test", "sluice plugin check --config plugin.toml"}
	complete, err := n.goModule(files)
	if !complete {
		next = append([]string{"go mod tidy                                       # see go.mod first"}, next...)
	}
	return files, next, err
}

func goReadme(name string) string {
	return fmt.Sprintf(`# %[1]s

A plugin for the mail server Sluice. It refuses mail whose subject has one of the words of its settings, and scores shouting.

    go build                                     # makes ./%[1]s
    go test                                      # through the real protocol, without a server
    sluice plugin check --config plugin.toml     # every promise of the protocol
    sluice plugin ask %[1]s message.eml --config plugin.toml

main.go is all of it: what the plugin is (Describe), its settings (Configure), its opinion about one message (Ask), and a
main function of one line. plugin.toml is what goes into sluice.toml; there, name it in a stage:

    [pipeline.inbound.anti-spam]
    plugins = [%[2]q]
`, name, name)
}

// goModule adds go.mod, and go.sum where the source of Sluice is at hand: then the plugin builds at once, without any network.
func (n *newPlugin) goModule(files map[string]string) (complete bool, err error) {
	root, err := n.source()
	if err != nil {
		return false, err
	}
	if root == "" {
		files["go.mod"] = fmt.Sprintf("%sgo 1.26\n\n%s", n.module(), releasedModule())
		return false, nil
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return false, fmt.Errorf("read Sluice's go.mod: %w", err)
	}
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		return false, fmt.Errorf("read Sluice's go.sum: %w", err)
	}
	goVersion, requires := readModule(string(mod))
	files["go.mod"] = fmt.Sprintf("%sgo %s\n\nrequire %s v0.0.0\n\nreplace %s => %s\n\n// What Sluice needs; go mod tidy leaves what this plugin needs.\nrequire (\n%s)\n",
		n.module(), goVersion, module, module, root, requires)
	files["go.sum"] = string(sum)
	return true, nil
}

// module is the first line of go.mod. A path of one word would be that of a package of Go's own, if that has the name.
func (n *newPlugin) module() string {
	return fmt.Sprintf("module example.com/%s // put your own path here, when you have one\n\n", n.name)
}

// releasedModule names this program's release, or says what to do while there is none.
func releasedModule() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == module && regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(info.Main.Version) {
		return fmt.Sprintf("require %s %s\n", module, info.Main.Version)
	}
	return fmt.Sprintf("require %s v0.0.0\n\n// This sluice was built from source: say where that is, then run go mod tidy.\n"+
		"replace %s => ../sluice\n", module, module)
}

// source returns the directory of Sluice's source: the one that was named, or one that we are in; "" if there is none.
func (n *newPlugin) source() (string, error) {
	dir, err := filepath.Abs(n.sluice)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", n.sluice, err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+module+"\n") {
			return dir, nil
		}
		if n.sluice != "" {
			return "", usagef("--sluice %s: there is no go.mod of %s", n.sluice, module)
		}
		if filepath.Dir(dir) == dir {
			return "", nil
		}
		dir = filepath.Dir(dir)
	}
}

// readModule returns the version of Go and the lines of all requirements of a go.mod, as indirect ones.
func readModule(mod string) (goVersion, requires string) {
	inBlock := false
	var b strings.Builder
	for line := range strings.Lines(mod) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "go "):
			goVersion = strings.TrimPrefix(line, "go ")
		case line == "require (":
			inBlock = true
		case line == ")":
			inBlock = false
		case inBlock && line != "" && !strings.HasPrefix(line, "//"), strings.HasPrefix(line, "require "):
			line, _, _ = strings.Cut(strings.TrimPrefix(line, "require "), " //")
			fmt.Fprintf(&b, "\t%s // indirect\n", line)
		}
	}
	return goVersion, b.String()
}
