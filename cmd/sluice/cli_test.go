package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

// TestMain lets the test binary be the program where that starts itself: as a plugin, and as what goes before one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "plugin" {
		main()
	}
	os.Exit(m.Run())
}

// sluice runs a command line in this process.
func sluice(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &out, stderr: &err}
	code = a.run(t.Context(), args)
	return code, out.String(), err.String()
}

const testConfig = `hostname = "mx.example.test"
[domain."example.test"]
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
[pipeline.inbound.anti-spam]
plugins = ["gtube"]
[pipeline.inbound.anti-virus]
plugins = ["eicar", "own"]
[plugin.own]
command = ["./own.sh", "-v"]
on_failure = "accept"
on_crash = "quarantine"
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "sluice.toml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own.sh"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestUsage: every wrong command line has exit status 2 and one line that says what to do next.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"usr"}, "sluice --help"},
		{[]string{"--nope"}, "unknown flag"},
		{[]string{"check", "extra"}, "does not take"},
		{[]string{"user"}, "needs a command"},
		{[]string{"user", "ad"}, "sluice user --help"},
		{[]string{"user", "add"}, "needs an address"},
		{[]string{"user", "add", "--quota", "much", "a@example.test"}, "such as 2GB"},
		{[]string{"trace", "a@example.test", "b@example.test"}, `does not take "b@example.test"`},
		{[]string{"dkim", "show", "a.test", "b.test"}, `does not take "b.test"`},
		{[]string{"report", "show", "a", "b"}, `does not take "b"`},
		{[]string{"queue", "reroute", "--all"}, "needs --via smtp://host:port, lmtp://host:port, mx or default\n"},
		{[]string{"queue", "reroute", "--all", "--via", "http://x"}, "--via is no next hop"},
		{[]string{"queue", "remove", "--all", "06H03TY7J705RHB2"}, "queue IDs, or filters, or --all"},
		{[]string{"quarantine", "remove", "06H03TY7J705RHB2", "--from", "<>"}, "queue IDs, or filters, or --all"},
		{[]string{"suppress", "add", "a@example.test", "--for", "-3d"}, "such as 90d"},
		{[]string{"suppress", "add", "a@example.test", "--for", "0s"}, "such as 90d"},
		{[]string{"route", "a@example.test", "--from", "nonsense"}, "--from \"nonsense\" is no address"},
		{[]string{"route", "a@example.test", "--from", "a@b c"}, "is no address"},
		{[]string{"route", "a@example.test", "--from", "a@b\r\nc"}, "is no address"},
		{[]string{"trace", "--limit", "0"}, `invalid argument "0" for "--limit" flag: expected a number from 1 to 10000; sluice trace --help`},
		{[]string{"trace", "--limit", "10001"}, "from 1 to 10000"},
		{[]string{"queue", "list", "--limit", "-1"}, "expected a number, 1 or more"},
		{[]string{"quarantine", "list", "--limit", "0"}, "expected a number, 1 or more"},
		{[]string{"suppress", "list", "--limit=all"}, "expected a number, 1 or more"},
		{[]string{"report", "show", "--account", "a@example.test", "--limit", "0"}, "from 1 to 100000"},
		{[]string{"plugin", "run"}, "needs the name of a plugin"},
		{[]string{"plugin", "run", "nobody"}, "expected " + strings.Join(builtinNames(), " or ")},
	} {
		code, stdout, stderr := sluice(t, "", c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("sluice %s: %d, %q, %q; want status 2 and one line with %q", strings.Join(c.args, " "), code, stdout, stderr, c.want)
		}
	}
	if code, stdout, _ := sluice(t, ""); code != exitDone || !strings.Contains(stdout, "check") {
		t.Errorf("sluice alone: %d, %q; want the list of commands", code, stdout)
	}
}

func TestCheck(t *testing.T) {
	name := writeConfig(t, testConfig)
	code, stdout, stderr := sluice(t, "", "--config", name, "check", "--no-plugins") // own.sh is none
	if code != exitDone || stderr != "" {
		t.Fatalf("check: %d, %q", code, stderr)
	}
	for _, want := range []string{
		"no problems", "mx  smtp  127.0.0.1:0", "-> inbound",
		"asks gtube about content, enforce, within 10s; if it fails: accept (the stage's default)",
		"asks eicar about content, enforce, within 10s; if it fails: defer (the stage's default)",
		"asks own about content, enforce, within 10s; if it fails: accept, too late: accept, dies: quarantine",
		"junk at 6, quarantine off, reject at 20", "asked by inbound.anti-virus", "runs the server as", "accounts: not compared",
		"plugins were not started (--no-plugins)",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, " \n") {
		t.Error("spaces at the end of a line")
	}
	code, stdout, _ = sluice(t, "", "--config", name, "--json", "check", "--no-plugins")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitDone || len(r.Pipelines) != 2 || len(r.Plugins) != 3 {
		t.Errorf("check --json: %d, %v, %s", code, err, stdout)
	}
}

// TestCheckSystem: what the file refers to has to be there.
func TestCheckSystem(t *testing.T) {
	text := strings.Replace(testConfig, "./own.sh", "./absent.sh", 1) + "[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"
	name := writeConfig(t, text)
	code, stdout, stderr := sluice(t, "", "--config", name, "check")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, ":11: plugin.own.command: ") || !strings.Contains(stderr, ":15: tls.certificate: cannot be used") {
		t.Errorf("check: %d, %q, %q", code, stdout, stderr)
	}
	code, stdout, stderr = sluice(t, "", "--config", name, "--json", "check")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var p config.Problem
	if code != exitFailed || stderr != "" || len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &p) != nil || p.Line != 11 {
		t.Errorf("check --json: %d, %q, %q", code, stdout, stderr)
	}
}

func TestCheckProblems(t *testing.T) {
	name := writeConfig(t, "hostname = 5\nlistner = {}\n")
	for _, args := range [][]string{{"check"}, {"serve"}, {"user", "list"}, {"plugin", "list"}} {
		code, stdout, stderr := sluice(t, "", append([]string{"--config", name}, args...)...)
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, ":1: hostname: is a whole number") || !strings.Contains(stderr, `did you mean "listener"?`) {
			t.Errorf("%v: %d, %q, %q; want every problem", args, code, stdout, stderr)
		}
	}
}

// TestUsers makes, lists, changes and removes accounts while no server runs.
func TestUsers(t *testing.T) {
	name := writeConfig(t, testConfig)
	for _, c := range []struct {
		stdin, args string
		code        int
		want        string
	}{
		{"", "user list", exitDone, "there are no accounts"},
		{"pass word\n", "user add Alice@EXAMPLE.test --password-stdin --quota 2GB", exitDone, "added alice@example.test"},
		{"other", "user add alice@example.test --password-stdin", exitFailed, "user password alice@example.test"},
		{"", "user add bob@example.test --password-stdin", exitUsage, "expected one line"},
		{"two\nlines\n", "user add bob@example.test --password-stdin", exitUsage, "expected one line"},
		{"", "user add bob@example.test", exitUsage, "--password-stdin"},
		{"x", "user add bob@exmaple.test --password-stdin", exitFailed, `did you mean "example.test"?`},
		{"x", "user add bob --password-stdin", exitFailed, "is not an address"},
		{"", "user list", exitDone, "2.0 GB"},
		{"", "user list --json", exitDone, `{"address":"alice@example.test","created":"`},
		{"new one\n", "user password alice@example.test --password-stdin", exitDone, "is changed"},
		{"new one\n", "user password carol@example.test --password-stdin", exitFailed, "sluice user list"},
		{"", "user remove carol@example.test", exitFailed, "there is no account carol@example.test"},
		{"", "user remove alice@example.test --json", exitDone, `{"address":"alice@example.test"}`},
		{"", "user list", exitDone, "there are no accounts"},
	} {
		code, stdout, stderr := sluice(t, c.stdin, append([]string{"--config", name}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("sluice %s: %d, %q, %q; want %d and %q", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
}

func TestDeadEnds(t *testing.T) {
	c, err := config.Parse("sluice.toml", `hostname = "mx.example.test"
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
[domain."Bücher.example"]
aliases = { team = ["alice@bücher.example", "bob@bücher.example", "alice+x@bücher.example"], alice = "carol@bücher.example" }
[domain."example.test"]
catch_all = "nobody@example.test"
aliases = { a = "anything@example.test" }
[domain."round.test"]
catch_all = "all@round.test"
aliases = { all = "gone@round.test", fine = "carol+x@bücher.example" }
[domain."other.test"]
catch_all = ["x@fine.test", "any@relay.test", "carol+x@bücher.example", "a@elsewhere.example"]
[domain."fine.test"]
catch_all = "carol@bücher.example"
[domain."missing.test"]
catch_all = ["carol@bücher.example", "dave@bücher.example", "alice+x@missing.test"]
[domain."ping.test"]
catch_all = "x@pong.test"
[domain."pong.test"]
catch_all = "y@ping.test"
[domain."relay.test"]
accept = "relay"
aliases = { here = "dave@bücher.example", there = "dave@relay.test" }
`, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range deadEnds(c, map[string]bool{"alice@xn--bcher-kva.example": true, "carol@xn--bcher-kva.example": true}) {
		got = append(got, p.String())
	}
	const loops = " has no account and no alias, and the catch-all that gets its mail leads back to it, so it is refused; sluice user add "
	want := []string{
		`sluice.toml:8: domain."example.test".catch_all: warning: nobody@example.test` + loops + `nobody@example.test makes one`,
		`sluice.toml:18: domain."missing.test".catch_all: warning: dave@xn--bcher-kva.example has no account and no alias; sluice user add dave@xn--bcher-kva.example makes one`,
		`sluice.toml:18: domain."missing.test".catch_all: warning: alice+x@missing.test` + loops + `alice+x@missing.test makes one`,
		`sluice.toml:20: domain."ping.test".catch_all: warning: x@pong.test` + loops + `x@pong.test makes one`,
		`sluice.toml:22: domain."pong.test".catch_all: warning: y@ping.test` + loops + `y@ping.test makes one`,
		`sluice.toml:25: domain."relay.test".aliases.here: warning: dave@xn--bcher-kva.example has no account and no alias; sluice user add dave@xn--bcher-kva.example makes one`,
		`sluice.toml:12: domain."round.test".aliases.all: warning: gone@round.test` + loops + `gone@round.test makes one`,
		`sluice.toml:6: domain."Bücher.example".aliases.alice: warning: is never used: there is an account of that name, and accounts come first; list the address itself to keep a copy`,
		`sluice.toml:6: domain."Bücher.example".aliases.team: warning: bob@xn--bcher-kva.example has no account and no alias; sluice user add bob@xn--bcher-kva.example makes one`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestPostmasters: there is one at each domain that is delivered here (RFC 5321 section 4.5.1).
func TestPostmasters(t *testing.T) {
	for _, test := range []struct {
		what, more string
		want       []string
	}{
		{"one domain, whose postmaster is <Postmaster>", "", []string{
			`sluice.toml: postmaster: warning: postmaster@example.test has no account and no alias; sluice user add postmaster@example.test makes one`}},
		{"a relayed one beside it", "[domain.\"backup.test\"]\naccept = \"relay\"\n", []string{
			`sluice.toml: postmaster: warning: postmaster@example.test has no account and no alias; sluice user add postmaster@example.test makes one`}},
		{"two, of which the other one has none", "[domain.\"other.test\"]\naliases = { postmaster = \"alice@example.test\" }\n", []string{
			`sluice.toml:5: domain."example.test": warning: mail for postmaster@example.test is refused, which RFC 5321 section 4.5.1 forbids; expected an alias or an account`}},
		{"two, one with a catch-all", "[domain.\"other.test\"]\ncatch_all = \"alice@example.test\"\n[domain.\"third.test\"]\n", []string{
			`sluice.toml:5: domain."example.test": warning: mail for postmaster@example.test is refused, which RFC 5321 section 4.5.1 forbids; expected an alias or an account`,
			`sluice.toml:8: domain."third.test": warning: mail for postmaster@third.test is refused, which RFC 5321 section 4.5.1 forbids; expected an alias or an account`}},
	} {
		c, err := config.Parse("sluice.toml", `hostname = "mx.example.test"
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
[domain."example.test"]
`+test.more, config.Options{})
		if err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		exists := map[string]bool{"alice@example.test": true}
		var got []string
		for _, p := range append(deadEnds(c, exists), nobodysPost(c, exists)...) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", test.what, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := sluice(t, "", "version", "--json")
	var v versionItem
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitDone || v.Version != version || v.Protocol < 1 {
		t.Errorf("version --json: %d, %v, %s", code, err, stdout)
	}
}

// TestBuiltins: the configuration's list of shipped plugins is the program's.
func TestBuiltins(t *testing.T) {
	if have := slices.Sorted(slices.Values(config.Builtins())); !slices.Equal(have, builtinNames()) {
		t.Errorf("config knows %v, the program has %v", have, builtinNames())
	}
	if askedBy := slices.Sorted(maps.Keys(askedBy(config.Default()))); len(askedBy) != 0 {
		t.Errorf("the defaults ask %v", askedBy)
	}
}

// TestUserBesideAlias: who makes an account that takes an alias's mail is told.
func TestUserBesideAlias(t *testing.T) {
	name := writeConfig(t, strings.Replace(testConfig, "[listener.mx]", "aliases = { team = \"bob@example.test\" }\n[listener.mx]", 1))
	for address, want := range map[string]string{"Team@example.test": "warning: the alias team@example.test in " + name + " is used no more", "bob@example.test": ""} {
		code, _, stderr := sluice(t, "secret words", "--config", name, "user", "add", address, "--password-stdin")
		if code != exitDone || !strings.Contains(stderr, want) || want == "" && stderr != "" {
			t.Errorf("user add %s: %d, %q; want %q", address, code, stderr, want)
		}
	}
}

// TestSuppressReason: a reason is one line of the list, whatever was typed.
func TestSuppressReason(t *testing.T) {
	name := writeConfig(t, testConfig)
	if code, _, stderr := sluice(t, "", "--config", name, "suppress", "add", "bob@example.net", "--reason", "has left\r\neve@example.net  suppressed"); code != exitDone {
		t.Fatalf("%d, %q", code, stderr)
	}
	code, stdout, stderr := sluice(t, "", "--config", name, "suppress", "list")
	if code != exitDone || strings.Count(stdout, "\n") != 1 || !strings.Contains(stdout, "has left? eve@example.net suppressed") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
}
