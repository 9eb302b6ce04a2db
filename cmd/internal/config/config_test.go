package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

func TestMinimal(t *testing.T) {
	c, err := Load("../../../examples/minimal/sluice.toml", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
	if c.Plugin["eicar"].Builtin != "eicar" || c.Plugin["gtube"].Name != "gtube" {
		t.Errorf("plugins named without a table: %+v", c.Plugin)
	}
	if c.Listener["submission"].Pipeline != "outbound" || c.Listener["mx"].Pipeline != "inbound" || c.Listener["imap"].Pipeline != "" {
		t.Error("a listener's pipeline does not follow from its protocol")
	}
	if c.Postmaster != "postmaster@example.test" {
		t.Errorf("postmaster is %q", c.Postmaster)
	}
	want, err := filepath.Abs("../../../examples/minimal/data")
	if err != nil || c.DataDir != want {
		t.Errorf("data_dir is %q, want %q, beside the file", c.DataDir, want)
	}
}

// TestValues reads one of each kind of value, and what follows from it.
func TestValues(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pass"), []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse(filepath.Join(dir, "sluice.toml"), `
data_dir = "/srv/mail"
max_buffered = 1048576
[log]
level = "debug"
[dns]
servers = ["192.0.2.53", "[2001:db8::53]:5353"]
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:2525"
trusted = ["10.0.0.1", "10.1.0.0/16", "::ffff:10.2.0.1"]
idle_timeout = "90s"
[domain."BÜCHER.example"]
catch_all = ["Alice@bücher.example"]
aliases = { Team = "alice@xn--bcher-kva.example" }
[plugin.one]
command = ["./bin/one", "-v"]
timeout = "2.5s"
[plugin.one.config]
key = "@pass"
token = "$SLUICE_TEST_SECRET"
literal = "@@me"
dollars = "$$SLUICE_TEST_SECRET"
price = "$5"
n = 5
f = 0.5
when = 2026-01-02T03:04:05Z
list = ["@pass", { deep = "$SLUICE_TEST_SECRET" }]
[[plugin.one.config.rule]]
name = "a"
[plugin.two]
command = ["python3"]
[pipeline.inbound.anti-spam]
plugins = ["one", "two"]
junk_at = 5
`, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	mx := c.Listener["mx"]
	wantTrusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.1/32")}
	if !slices.Equal(mx.Trusted, wantTrusted) || mx.IdleTimeout.Std() != 90*time.Second || mx.MaxConnections != 20000 {
		t.Errorf("listener: %+v", mx)
	}
	if !slices.Equal(c.DNS.Servers, []string{"192.0.2.53:53", "[2001:db8::53]:5353"}) {
		t.Errorf("dns.servers: %v", c.DNS.Servers)
	}
	d, ok := c.Domain["xn--bcher-kva.example"]
	if !ok || !slices.Equal(d.CatchAll, []string{"alice@xn--bcher-kva.example"}) || len(d.Aliases["team"]) != 1 {
		t.Errorf("domain: %+v", c.Domain)
	}
	one := c.Plugin["one"]
	if one.Command[0] != filepath.Join(dir, "bin/one") || c.Plugin["two"].Command[0] != "python3" {
		t.Errorf("commands: %v %v", one.Command, c.Plugin["two"].Command)
	}
	for key, want := range map[string]any{
		"key": "from a file", "token": "from the environment", "literal": "@me", "dollars": "$SLUICE_TEST_SECRET",
		"price": "$5", "n": int64(5), "f": 0.5, "when": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	} {
		if got := one.Config[key]; got != want {
			t.Errorf("plugin.one.config.%s = %#v, want %#v", key, got, want)
		}
	}
	if rules, ok := one.Config["rule"].([]any); !ok || len(rules) != 1 {
		t.Errorf("plugin.one.config.rule = %#v", one.Config["rule"])
	}
	if list := one.Config["list"].([]any); list[0] != "from a file" || list[1].(map[string]any)["deep"] != "from the environment" {
		t.Errorf("plugin.one.config.list = %#v", list)
	}
	if c.DataDir != "/srv/mail" || c.Pipeline["inbound"].AntiSpam.JunkAt != 5 || c.Pipeline["outbound"].AntiSpam.JunkAt != 6 {
		t.Errorf("data_dir %q, junk_at %v and %v", c.DataDir, c.Pipeline["inbound"].AntiSpam.JunkAt, c.Pipeline["outbound"].AntiSpam.JunkAt)
	}
}

func TestPluginProblem(t *testing.T) {
	c, err := Parse("a.toml", `
hostname = "mx.example.test"
[plugin.x]
command = ["x"]
[plugin.x.config]
speed = 9
[plugin.x.config.deep]
"a.b" = 1
[pipeline.inbound.anti-spam]
plugins = ["x"]
`, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"speed":    "a.toml:6: plugin.x.config.speed: too fast",
		"deep.a.b": `a.toml:8: plugin.x.config.deep."a.b": too fast`,
		"missing":  "a.toml:5: plugin.x.config.missing: too fast",
		"":         "a.toml:5: plugin.x.config: too fast",
	} {
		if got := c.PluginProblem("x", key, "too\nfast").String(); got != want {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
	}
}

// TestPluginProblems: what a plugin or its canary complains of is put where it was written, whichever of the two tables that is.
func TestPluginProblems(t *testing.T) {
	c, err := Parse("a.toml", `
hostname = "mx.example.test"
[plugin.x]
command = ["x"]
[plugin.x.config]
speed = 9
list = ["a"]
[plugin.x.canary]
share = 0.1
command = ["y"]
[plugin.z]
command = ["z"]
[plugin.z.config]
speed = 9
[plugin.z.canary]
share = 0.1
[plugin.z.canary.config]
slow = 1
[pipeline.inbound.anti-spam]
plugins = ["x", "z"]
`, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	fast := &sdk.SettingError{Key: "speed", Problem: "too fast"}
	gone := &pluginhost.FieldError{Key: "command", Problem: "is gone"}
	for _, e := range []struct {
		err  error
		want string
	}{
		{&pluginhost.StartError{Plugin: "x", Err: fast}, "a.toml:6: plugin.x.config.speed: too fast"},
		{&pluginhost.StartError{Plugin: "x", Err: &sdk.SettingError{Key: "list[1]", Problem: "no"}}, "a.toml:7: plugin.x.config.list: entry 1: no"},
		{&pluginhost.StartError{Plugin: "x", Canary: true, Err: fast}, "a.toml:6: plugin.x.config.speed: the canary: too fast"},
		{&pluginhost.StartError{Plugin: "x", Canary: true, Err: gone}, "a.toml:10: plugin.x.canary.command: is gone"},
		{&pluginhost.StartError{Plugin: "x", Canary: true, Err: errors.New("hangs")}, "a.toml:8: plugin.x.canary: hangs"},
		{&pluginhost.StartError{Plugin: "z", Canary: true, Err: &sdk.SettingError{Key: "slow", Problem: "too slow"}}, "a.toml:18: plugin.z.canary.config.slow: too slow"},
		{&pluginhost.StartError{Plugin: "z", Canary: true, Err: gone}, "a.toml:12: plugin.z.command: the canary: is gone"},
		{&pluginhost.StartError{Plugin: "z", Err: &pluginhost.FieldError{Key: "files./a/rules.py", Problem: "is gone"}}, `a.toml:11: plugin.z.files."/a/rules.py": is gone`},
	} {
		if got := c.PluginProblems(e.err); got == nil || got.Error() != e.want {
			t.Errorf("%v, expected %s", got, e.want)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), Options{})
	if err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("Load of a missing file: %v; want the next step", err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"smtp", "smpt", 1}, {"kitten", "sitting", 3}, {"adress", "address", 1}, {"abc", "abc", 0}} {
		if got := distance(c.a, c.b, 5); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzParse: whatever the file says, there is a configuration or there are problems, each with a text; and the same again
// the second time.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.toml", "../../../examples/*/sluice.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "@") && strings.Contains(text, "/dev/") {
			t.Skip("a secret in a device may be endless")
		}
		_, err := Parse("dir/fuzz.toml", text, testOptions())
		_, again := Parse("dir/fuzz.toml", text, testOptions())
		if (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
			t.Fatalf("twice read, two answers:\n%v\n%v", err, again)
		}
		problems, _ := err.(Problems)
		if err != nil && len(problems) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		for _, p := range problems {
			if p.Text == "" || p.File != "dir/fuzz.toml" || strings.ContainsAny(p.Text, "\r\n") {
				t.Fatalf("a problem with nothing to say: %+v", p)
			}
		}
	})
}

// TestDefaultPostmaster: <Postmaster> is the postmaster of the only domain that there is, or of the only one that is delivered here.
func TestDefaultPostmaster(t *testing.T) {
	const local, relay = "", "accept = \"relay\""
	for _, test := range []struct {
		domains [][2]string
		want    string
	}{
		{[][2]string{{"a.test", local}}, "postmaster@a.test"},
		{[][2]string{{"a.test", relay}}, "postmaster@a.test"},
		{[][2]string{{"a.test", relay}, {"b.test", local}, {"c.test", relay}}, "postmaster@b.test"},
		{[][2]string{{"a.test", relay}, {"b.test", relay}}, ""},
		{[][2]string{{"a.test", local}, {"b.test", local}, {"c.test", relay}}, ""},
	} {
		text := "hostname = \"mx.a.test\"\n[listener.mx]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:2525\"\n"
		for _, d := range test.domains {
			text += fmt.Sprintf("[domain.%q]\n%s\n", d[0], d[1])
		}
		c, err := Parse("sluice.toml", text, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if c.Postmaster != test.want || len(c.Warnings) > 0 != (test.want == "") {
			t.Errorf("%v: %q, warnings %v; want %q", test.domains, c.Postmaster, c.Warnings, test.want)
		}
	}
}

// TestRelays reads what says where mail goes that leaves.
func TestRelays(t *testing.T) {
	c, err := Load("testdata/warn/forward.toml", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Relay["*"].Hosts; !slices.Equal(got, []string{"smart.example.net:587", "192.0.2.1:25", "[2001:db8::1]:25", "[2001:db8::2]:26"}) {
		t.Errorf("hosts %q", got)
	}
	if got := c.Domain["example.test"].Aliases["postmaster"]; !slices.Equal(got, []string{"Someone.Else@example.net"}) {
		t.Errorf("a forward leads to %q", got)
	}
	for domain, want := range map[string]string{"mx.example.net": "verify", "a.b.example.net": "verify", "example.net": "", "example.org": "", "net": ""} {
		if got, _ := c.DestinationFor(domain); got.DeliverDestination.TLS != want {
			t.Errorf("%s has tls %q, want %q", domain, got.DeliverDestination.TLS, want)
		}
	}
}

// TestRelayExamples: the examples of mail that leaves are right, once their secrets are there.
func TestRelayExamples(t *testing.T) {
	files, err := filepath.Glob("../../../examples/relay/*.toml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	dir := t.TempDir()
	for _, secret := range []string{"srs.secret", "provider.secret"} {
		if err := os.WriteFile(filepath.Join(dir, secret), []byte("a secret for the test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(filepath.Join(dir, filepath.Base(file)), string(text), testOptions())
		if err != nil {
			t.Error(err)
		} else if len(c.Warnings) > 0 {
			t.Errorf("%s: %v", file, c.Warnings)
		}
	}
}
