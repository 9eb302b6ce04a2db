package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// dkimSite is a configuration whose DNS is the test's.
func dkimSite(t *testing.T) (config string, zone *resolvertest.Zone) {
	t.Helper()
	zone = resolvertest.MustParse("")
	server, err := resolvertest.StartServer(zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return writeConfig(t, fmt.Sprintf("hostname = \"mx.example.test\"\n[domain.\"example.test\"]\n[domain.\"other.test\"]\n"+
		"[dns]\nservers = [%q]\nnegative_ttl = \"0s\"\nmax_ttl = \"0s\"\ncache_entries = 0\n", server.Addr)), zone
}

// records returns the lines of a zone file among what a command prints.
func zoneLines(out string) (lines []string) {
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, " IN TXT ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestDKIMLife: new, show, publish, rotate, activate, retire.
func TestDKIMLife(t *testing.T) {
	config, zone := dkimSite(t)
	run := func(want int, says string, args ...string) string {
		t.Helper()
		code, out, errs := sluice(t, "", append(append([]string{"dkim"}, args...), "--config", config)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Fatalf("%v: exit %d\n%s%s\nwant %d and %q", args, code, out, errs, want, says)
		}
		return out
	}
	publish := func(lines []string) {
		t.Helper()
		for _, line := range lines {
			if err := zone.Add(line); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
		}
	}
	run(0, "example.test has no keys", "show")
	run(1, "has no keys; sluice dkim new", "rotate", "example.test")
	first := zoneLines(run(0, "publish this; mail from example.test is signed from now on", "new", "example.test", "--bits", "1024"))
	if len(first) != 2 {
		t.Fatalf("records: %q", first)
	}
	run(1, "in DNS: missing", "show", "--check")
	publish(first)
	run(0, "in DNS: published", "show", "example.test", "--check")
	next := zoneLines(run(0, "rotate example.test --activate", "rotate", "example.test", "--bits", "1024"))
	if len(next) != 2 || next[0] == first[0] {
		t.Fatalf("next records: %q", next)
	}
	if again := zoneLines(run(0, "these were made before", "rotate", "example.test")); strings.Join(again, "\n") != strings.Join(next, "\n") {
		t.Errorf("rotate again made others: %q", again)
	}
	run(1, "has a next key already", "new", "example.test")
	run(1, "in DNS: missing; publish it first", "rotate", "example.test", "--activate")
	publish(next[:1])
	run(1, "in DNS: missing; publish it first", "rotate", "example.test", "--activate")
	publish(next[1:])
	run(0, "signs with", "rotate", "example.test", "--activate")
	run(0, "no retired key whose time is over", "rotate", "example.test", "--retire")
	zone.Remove(strings.Fields(first[0])[0])
	run(1, "retired, needed until", "show", "--check")
	run(0, "removed; take", "rotate", "example.test", "--retire", "--force")
	run(0, "active since", "show", "--check")
	var items []dkimItem
	for _, line := range strings.Split(strings.TrimSpace(run(0, "", "show", "--json", "--check")), "\n") {
		var item dkimItem
		if err := json.Unmarshal([]byte(line), &item); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		items = append(items, item)
	}
	if len(items) != 2 || items[0].State != "active" || items[0].DNS != keyPublished || items[0].Domain != "example.test" || items[0].Text == "" {
		t.Errorf("%+v", items)
	}
}

func TestDKIMMistakes(t *testing.T) {
	config, zone := dkimSite(t)
	for _, c := range []struct {
		want int
		says string
		args []string
	}{
		{2, "needs a domain", []string{"new"}},
		{1, "elsewhere.test is not hosted here", []string{"new", "elsewhere.test"}},
		{2, `"a b" is not a domain`, []string{"show", "a b"}},
		{2, "--bits: 512", []string{"new", "example.test", "--bits", "512"}},
		{2, `--algorithm: "dsa"`, []string{"new", "example.test", "--algorithm", "dsa"}},
		{1, "is not a selector", []string{"new", "example.test", "--algorithm", "ed25519", "--selector", "../x"}},
		{0, "one._domainkey.example.test.", []string{"new", "example.test", "--algorithm", "ed25519", "--selector", "one"}},
		{1, "selector one", []string{"new", "example.test", "--algorithm", "ed25519", "--selector", "one"}},
		{1, "has no next keys", []string{"rotate", "example.test", "--activate"}},
		{2, "do not go together", []string{"rotate", "example.test", "--activate", "--retire"}},
		{2, "--keep", []string{"rotate", "example.test", "--activate", "--keep", "soon"}},
		{0, "two-rsa._domainkey.other.test.", []string{"new", "OTHER.test", "--bits", "1024", "--selector", "two"}},
	} {
		code, out, errs := sluice(t, "", append(append([]string{"dkim"}, c.args...), "--config", config)...)
		if code != c.want || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: exit %d\n%s%s\nwant %d and %q", c.args, code, out, errs, c.want, c.says)
		}
	}
	// Somebody else's key under our name is not ours.
	if err := zone.Add(`one._domainkey.example.test. TXT "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="`); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := sluice(t, "", "dkim", "show", "example.test", "--check", "--config", config); code != 1 || !strings.Contains(out, "in DNS: another key") {
		t.Errorf("another key: exit %d\n%s", code, out)
	}
	// A key that went away is said aloud.
	if err := os.Remove(filepath.Join(filepath.Dir(config), "data", "dkim", "example.test", "one.pem")); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := sluice(t, "", "dkim", "show", "--config", config); code != 1 || !strings.Contains(errs, "read the key one of example.test") {
		t.Errorf("a key that went away: exit %d\n%s", code, errs)
	}
}
