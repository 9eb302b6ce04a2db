package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// goExamples are the examples in Go, with settings for each.
const goExamples = `
[plugin.scanner]
command = ["./scanner"]
[plugin.scanner.config]
words = ["lottery"]

[plugin.policy]
command = ["./policy"]
[plugin.policy.config]
types = ["application/x-ms*"]
ambiguous = "accept"

[plugin.banner]
command = ["./banner"]
[plugin.banner.config]
text = "[External] Think."
internal = ["example.test"]

[plugin.router]
command = ["./router"]
[plugin.router.config]
address = "team@example.test"
otherwise = "bob@example.test"
[plugin.router.config.duty]

[plugin.tenants]
command = ["./tenants"]
[plugin.tenants.config.tenants.acme]
domains = ["acme.test"]
to = "alice@example.test"
[plugin.tenants.config.tenants.broke]
domains = ["broke.test"]
to = "alice@example.test"
suspended = true
`

var goExampleNames = []string{"scanner", "policy", "banner", "router", "tenants"}

// TestAuthorGo: the examples in Go keep every promise of the protocol, and do what they say in a server.
func TestAuthorGo(t *testing.T) {
	t.Parallel()
	s := newSite(t, goExamples+`
[domain."acme.test"]
catch_all = "bob@example.test"
[domain."broke.test"]
catch_all = "bob@example.test"
[pipeline.inbound.anti-spam]
plugins = ["scanner", "banner"]
[pipeline.inbound.anti-virus]
plugins = ["policy"]
[pipeline.inbound.route]
plugins = ["router", "tenants"]
`)
	for _, name := range goExampleNames {
		program, err := build(name, "github.com/sluicemail/sluice/examples/plugins/"+name)
		if err != nil {
			t.Fatal(err)
		}
		mustIn(t, s.dir, time.Minute, "ln", "-s", program, name)
	}
	for _, name := range goExampleNames {
		if out, err := s.trySluice("", "plugin", "check", "--quick", "--name", name); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	s.start()
	send := func(to, message string) error {
		t.Helper()
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		_, err = c.send(stranger, []string{to}, message)
		return err
	}
	attached := func(name string) string {
		return fmt.Sprintf("From: <%s>\r\nMessage-ID: <%s@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"+
			"--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nSGVsbG8K\r\n--b\r\nContent-Type: application/octet-stream\r\n"+
			"Content-Disposition: attachment; filename=\"%s\"\r\n\r\nx\r\n--b--\r\n", stranger, name, name)
	}
	for _, c := range []struct {
		to, message string
		code        int
	}{
		{alice, letter("word@example.org", "Your lottery", 500), 550},
		{alice, attached("cat.exe"), 550},
		{"x@broke.test", letter("broke@example.org", "hi", 500), 550},
		{"team@example.test", letter("team@example.org", "hi", 500), 0},
		{"sales@acme.test", attached("cat.png"), 0},
	} {
		if err := send(c.to, c.message); replyCode(err) != c.code || c.code == 0 && err != nil {
			t.Errorf("to %s: %v, expected %d", c.to, err, c.code)
		}
	}
	team := s.sluice("", "trace", "team@example.org", "--json")
	if !strings.Contains(team, "ON_DUTY") || !strings.Contains(team, "bob@example.test") {
		t.Errorf("the router did not send team's mail to bob:\n%s", team)
	}
	acme := s.sluice("", "trace", "cat.png@example.org", "--json")
	if !strings.Contains(acme, "TENANT") || !strings.Contains(acme, "alice@example.test") || !strings.Contains(acme, "replace body") {
		t.Errorf("acme's mail was not sent to alice with a banner:\n%s", acme)
	}
	s.stop()
}
