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

const dnsConfig = `hostname = "mx.example.test"
postmaster = "postmaster@example.test"
[domain."example.test"]
[domain."bücher.example"]
[listener.mx]
protocol = "smtp"
address = "192.0.2.25:25"
[listener.imaps]
protocol = "imap"
address = "0.0.0.0:993"
tls = "implicit"
[listener.submission]
protocol = "submission"
address = "[::]:587"
[listener.submissions]
protocol = "submission"
address = "[::]:465"
tls = "implicit"
[listener.pop3]
protocol = "pop3"
address = "127.0.0.1:110"
[dns]
servers = ["%s"]
`

// TestDNS: what is printed, put into a real DNS server, is what the check wants; anything else is found.
func TestDNS(t *testing.T) {
	name := writeConfig(t, fmt.Sprintf(dnsConfig, "127.0.0.1:1"))
	if code, _, stderr := sluice(t, "", "--config", name, "dkim", "new", "example.test"); code != exitDone {
		t.Fatalf("dkim new: %d %s", code, stderr)
	}
	code, zone, stderr := sluice(t, "", "--config", name, "dns", "Example.Test.")
	if code != exitDone || stderr != "" {
		t.Fatalf("%d %s", code, stderr)
	}
	for _, want := range []string{
		"example.test. 3600 IN MX 10 mx.example.test.\n", "mx.example.test. 3600 IN A 192.0.2.25\n", "_domainkey.example.test. 3600 IN TXT",
		"_imaps._tcp.example.test. 3600 IN SRV 0 1 993 mx.example.test.\n_submissions._tcp.example.test. 3600 IN SRV 0 1 465 ",
		"_submission._tcp.example.test. 3600 IN SRV 0 1 587", "; TO DO: No records for listeners that this machine alone reaches, or whose port changes: pop3.\n",
	} {
		if !strings.Contains(zone, want) {
			t.Errorf("%q is not in\n%s", want, zone)
		}
	}
	// The policy of MTA-STS can't be fetched here, where there is no web server: the record is left out.
	lines := strings.Split(zone, "\n")
	served := ""
	for _, line := range lines {
		if !strings.HasPrefix(line, "_mta-sts.") {
			served += line + "\n"
		}
	}
	for _, c := range []struct {
		what, zone string
		code       int
		want       string
	}{
		{"published", served, exitDone, ""},
		{"no MX", strings.ReplaceAll(served, "IN MX 10", "IN MX 0 other.test.\nx.test. IN MX 10"), exitFailed, "differs"},
		{"no DMARC", strings.ReplaceAll(served, "_dmarc.", "dmarc."), exitFailed, "missing"},
		{"another DKIM key", strings.ReplaceAll(served, "p=MII", "p=MIIC"), exitFailed, "another key"},
		{"nothing", "", exitFailed, "missing"},
	} {
		addr, stop, err := resolvertest.Start(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(dnsConfig, addr)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := sluice(t, "", "--config", name, "dns", "example.test", "--check")
		if code != c.code || !strings.Contains(stdout, c.want) || (code == exitFailed) != strings.Contains(stderr, "not as they should be") {
			t.Errorf("%s: %d\n%s%s", c.what, code, stdout, stderr)
		}
		code, stdout, _ = sluice(t, "", "--config", name, "--json", "dns", "example.test", "--check")
		for _, line := range strings.Split(strings.TrimSpace(stdout), "\n") {
			var r struct{ Kind, Name, State, Need, Value string }
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Kind == "" || r.State == "" || r.Need == "" || code != c.code {
				t.Errorf("%s: %d %v %s", c.what, code, err, line)
			}
		}
		stop()
	}
}

func TestDNSUsage(t *testing.T) {
	name := writeConfig(t, fmt.Sprintf(dnsConfig, "127.0.0.1:1"))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"dns"}, exitUsage, "needs a domain"},
		{[]string{"dns", "example.net"}, exitFailed, "not hosted here"},
		{[]string{"dns", "nonsense domain"}, exitFailed, "not a"},
		{[]string{"dns", "example.test", "--address", "here"}, exitUsage, "not an IP address"},
		{[]string{"report", "show"}, exitUsage, "needs a file"},
		{[]string{"report", "show", "x", "--account", "a@example.test"}, exitUsage, "needs a file"},
		{[]string{"report", "show", filepath.Join(t.TempDir(), "none")}, exitFailed, "no such file"},
		{[]string{"report", "show", "--account", "nobody@example.test"}, exitFailed, "no account"},
	} {
		code, _, stderr := sluice(t, "", append([]string{"--config", name}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d %q, want %d with %q", c.args, code, stderr, c.code, c.want)
		}
	}
	code, stdout, _ := sluice(t, "", "--config", name, "dns", "bücher.example", "--address", "198.51.100.1,2001:db8::1")
	if code != exitDone || !strings.Contains(stdout, "_dmarc.xn--bcher-kva.example.") || !strings.Contains(stdout, "AAAA 2001:db8::1") || strings.Contains(stdout, "192.0.2.25") {
		t.Errorf("%d %s", code, stdout)
	}
}
