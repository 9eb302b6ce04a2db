package house

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluicemail/sluice/"

// rule says what a file in some directories must not import, and why.
type rule struct {
	name   string
	who    func(dir string) bool // directories that it binds, relative to the module's root
	tests  bool                  // it binds tests too
	refuse func(dir, path string) bool
	why    string
}

var stages = []string{"receive", "authenticate", "antispam", "antivirus", "route", "queue", "deliver"}

// stageOf returns the stage that a directory below pipeline belongs to, or "".
func stageOf(dir string) string {
	rest, ok := strings.CutPrefix(dir, "pipeline/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	if slices.Contains(stages, first) {
		return first
	}
	return ""
}

// below reports whether dir is root or in it.
func below(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }

// ours returns the directory of an import path of this module, or "".
func ours(path string) string {
	dir, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	return dir
}

// standard reports whether a path is of the standard library: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

var rules = []rule{
	{
		name: "sdk imports the standard library only", tests: true,
		who:    func(dir string) bool { return below(dir, "sdk") && !plumbing(dir) },
		refuse: func(_, path string) bool { return !standard(path) && !below(ours(path), "sdk") },
		why:    "a plugin author gets our words and nothing else; what needs a library belongs to sdk/serve or sdk/wire",
	},
	{
		name: "sdk does not depend on its plumbing", tests: true,
		who:    func(dir string) bool { return below(dir, "sdk") && !plumbing(dir) },
		refuse: func(_, path string) bool { return plumbing(ours(path)) },
		why:    "the words are the contract; how they travel may change",
	},
	{
		name: "sdk knows no server", tests: true,
		who:    func(dir string) bool { return below(dir, "sdk") },
		refuse: func(_, path string) bool { return ours(path) != "" && !below(ours(path), "sdk") },
		why:    "plugins are built without the server, and by others",
	},
	{
		name: "storage does not import pipeline", tests: true,
		who: func(dir string) bool { return below(dir, "storage") },
		refuse: func(_, path string) bool {
			return below(ours(path), "pipeline") && ours(path) != "pipeline/units" || below(ours(path), "cmd") || below(ours(path), "plugins")
		},
		why: "IMAP and POP3 serve mail however it came; pipeline/units is the exception, because it is only how durations and sizes are written",
	},
	{
		name:   "pipeline imports no stage",
		who:    func(dir string) bool { return dir == "pipeline" },
		refuse: func(_, path string) bool { return stageOf(ours(path)) != "" },
		why:    "stages are values that the pipeline is given; they meet in cmd/sluice/serve.go",
	},
	{
		name: "stages do not import each other", // their tests may: a queue is tested with a real delivery
		who:  func(dir string) bool { return stageOf(dir) != "" },
		refuse: func(dir, path string) bool {
			other := stageOf(ours(path))
			return other != "" && other != stageOf(dir)
		},
		why: "a stage knows the message and not its neighbours; what two need belongs to pipeline, and they meet in cmd/sluice/serve.go",
	},
	{
		name: "rooms do not import cmd",
		who:  func(dir string) bool { return below(dir, "pipeline") || below(dir, "storage") || below(dir, "plugins") },
		refuse: func(_, path string) bool {
			return below(ours(path), "cmd")
		},
		why: "a room is told what it needs; it does not look for it in the program around it",
	},
	{
		name: "plugins and examples import sdk only", tests: true,
		who: func(dir string) bool { return below(dir, "plugins") || below(dir, "examples") },
		refuse: func(dir, path string) bool {
			at := ours(path)
			shared := below(at, "plugins/internal") && below(dir, "plugins")
			return at != "" && !below(at, "sdk") && !(dir == "plugins" && below(at, "plugins")) && !shared && at != dir
		},
		why: "they are what others write: if one needs more than sdk, so does everybody's; what several of ours share, and nobody else needs, is in plugins/internal",
	},
	{
		name: "only cmd/sluice imports plugins", tests: true,
		who:    func(dir string) bool { return dir != "cmd/sluice" && dir != "plugins" },
		refuse: func(dir, path string) bool { return below(ours(path), "plugins") && !below(dir, "plugins") },
		why:    "shipped plugins run in processes of their own, for `sluice plugin run NAME`; the core never calls one",
	},
	{
		name: "programs are started in three places",
		who: func(dir string) bool {
			return dir != "pipeline/pluginhost" && dir != "cmd/internal/conformance" && dir != "cmd/internal/config" && !strings.Contains(dir, "/testdata/")
		},
		refuse: func(_, path string) bool { return path == "os/exec" },
		why:    "what a peer wrote must never reach a command line: those two start plugins by the configuration alone, without a shell, and config looks for the program (DRILLS E6.9)",
	},
	{
		name:   "only cmd/internal/config decodes TOML",
		who:    func(dir string) bool { return dir != "cmd/internal/config" },
		refuse: func(_, path string) bool { return strings.HasPrefix(path, "github.com/BurntSushi/toml") },
		why:    "one decoder reports every problem at once with its place; a type that wants to read itself implements UnmarshalText or UnmarshalTOML",
	},
	{
		name: "only storage/kv/pebble knows the engine",
		who:  func(dir string) bool { return dir != "storage/kv/pebble" },
		refuse: func(dir, path string) bool {
			rest, ok := strings.CutPrefix(path, "github.com/cockroachdb/pebble/v2")
			return ok && !(rest == "/vfs" && below(dir, "storage")) && !(strings.HasPrefix(rest, "/vfs/") && below(dir, "storage"))
		},
		why: "a second engine is to come; the rest of storage knows kv.Engine, and vfs for its own files (RULES B4)",
	},
	{
		name: "only sdk/serve, sdk/wire and pluginhost know go-plugin", tests: true,
		who: func(dir string) bool {
			return dir != "sdk/serve" && dir != "sdk/wire" && dir != "sdk/sdktest" && dir != "pipeline/pluginhost"
		},
		refuse: func(_, path string) bool { return strings.HasPrefix(path, "github.com/hashicorp/go-plugin") },
		why:    "neither plugins nor stages may come to depend on how they talk",
	},
}

// plumbing are the packages of sdk that move the words.
func plumbing(dir string) bool {
	return below(dir, "sdk/serve") || below(dir, "sdk/wire") || below(dir, "sdk/sdktest")
}

func TestImports(t *testing.T) {
	files := sources(t)
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			for _, f := range files {
				if !r.who(f.dir) || f.test && !r.tests {
					continue
				}
				for _, path := range f.imports {
					if r.refuse(f.dir, path) {
						t.Errorf("%s imports %s: %s, because %s", f.name, path, r.name, r.why)
					}
				}
			}
		})
	}
}

// TestRulesBite shows each rule an import that it has to refuse, so that a rule that binds nobody is seen.
func TestRulesBite(t *testing.T) {
	bad := map[string][2]string{
		"sdk imports the standard library only":                  {"sdk/scan", "google.golang.org/grpc"},
		"sdk does not depend on its plumbing":                    {"sdk", module + "sdk/wire"},
		"sdk knows no server":                                    {"sdk/serve", module + "pipeline"},
		"storage does not import pipeline":                       {"storage/imap", module + "pipeline"},
		"pipeline imports no stage":                              {"pipeline", module + "pipeline/queue"},
		"stages do not import each other":                        {"pipeline/receive/internal", module + "pipeline/queue"},
		"rooms do not import cmd":                                {"pipeline/queue", module + "cmd/internal/config"},
		"plugins and examples import sdk only":                   {"plugins/eicar", module + "plugins/gtube"},
		"only cmd/sluice imports plugins":                        {"pipeline/pluginhost", module + "plugins/eicar"},
		"only cmd/internal/config decodes TOML":                  {"pipeline/route", "github.com/BurntSushi/toml"},
		"programs are started in three places":                   {"plugins/spamassassin", "os/exec"},
		"only storage/kv/pebble knows the engine":                {"pipeline/queue", "github.com/cockroachdb/pebble/v2/vfs"},
		"only sdk/serve, sdk/wire and pluginhost know go-plugin": {"cmd/sluice", "github.com/hashicorp/go-plugin"},
	}
	for _, r := range rules {
		example, ok := bad[r.name]
		if !ok {
			t.Errorf("no example for the rule %q", r.name)
			continue
		}
		if !r.who(example[0]) || !r.refuse(example[0], example[1]) {
			t.Errorf("the rule %q lets %s import %s", r.name, example[0], example[1])
		}
	}
	good := [][2]string{
		{"sdk/scan", module + "sdk"}, {"storage", module + "pipeline/units"}, {"pipeline/queue", module + "pipeline"},
		{"pipeline/queue", module + "storage"}, {"cmd/sluice", module + "plugins"}, {"plugins", module + "plugins/eicar"},
		{"plugins/eicar", module + "sdk/serve"}, {"storage/blob", "github.com/cockroachdb/pebble/v2/vfs"},
		{"pipeline/receive", "github.com/emersion/go-smtp"}, {"pipeline", module + "pipeline/trace"},
	}
	for _, g := range good {
		for _, r := range rules {
			if r.who(g[0]) && r.refuse(g[0], g[1]) {
				t.Errorf("the rule %q refuses that %s imports %s", r.name, g[0], g[1])
			}
		}
	}
	if len(bad) != len(rules) {
		t.Error(fmt.Sprintf("%d examples for %d rules", len(bad), len(rules)))
	}
}
