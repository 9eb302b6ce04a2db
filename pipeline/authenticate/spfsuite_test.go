package authenticate

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// spfScenario is what testdata/judges/spfsuite.py makes of one document.
type spfScenario struct {
	Name   string
	Zone   []string
	Broken []string // names about which nobody answers
	Tests  []struct {
		Name, Helo, Host, Sender, Skip string
		Result                         []string
	}
}

// TestSPFSuite (DRILLS E4.1) runs the test suites that ship inside the SPF library (that of RFC 7208 above all) through our resolver, our
// adapter to it and checkSPF, which are what stands between the library and the network. The library's own suite is not among them: its domains have one label,
// for which we ask nobody (RFC 7208 section 4.3).
func TestSPFSuite(t *testing.T) {
	if err := exec.Command(debianPython, "-c", "import yaml").Run(); err != nil {
		lacking(t, "python3-yaml is missing", "python3-yaml")
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "testdata")
	script, err := filepath.Abs("testdata/judges/spfsuite.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, suite := range []string{"rfc7208", "rfc4408", "pyspf"} {
		var scenarios []spfScenario
		if err := json.Unmarshal(ask(t, t.TempDir(), nil, debianPython, "-B", script, filepath.Join(dir, suite+"-tests.yml")), &scenarios); err != nil {
			t.Fatal(err)
		}
		n, skipped := 0, 0
		for _, scenario := range scenarios {
			for _, test := range scenario.Tests {
				if test.Skip != "" {
					skipped++
					continue
				}
				got := spfOf(t, &scenario, test.Helo, test.Host, test.Sender)
				n++
				if !slices.Contains(test.Result, got) {
					t.Errorf("%s, %s, %s: %s, want %v", suite, scenario.Name, test.Name, got, test.Result)
				}
			}
		}
		if n < 5 {
			t.Errorf("%s: only %d tests", suite, n)
		}
		t.Logf("%s: %d tests, %d that the library itself skips", suite, n, skipped)
	}
}

func spfOf(t *testing.T, s *spfScenario, helo, host, sender string) string {
	t.Helper()
	zone := resolvertest.MustParse("")
	for _, line := range s.Zone {
		if err := zone.Add(line); err != nil && !strings.Contains(err.Error(), "bad") { // names that DNS cannot have
			t.Fatalf("%s: %q: %v", s.Name, line, err)
		}
	}
	for _, name := range s.Broken {
		zone.Break(name+".", resolvertest.Fault{Rcode: 2})
	}
	stage := New(Options{Config: DefaultConfig(), Hostname: "mx.sluice.test", DNS: resolvertest.New(zone)})
	m := &pipeline.Message{Sender: sender, Peer: &pipeline.Peer{Addr: netip.MustParseAddr(host), Helo: helo}}
	return stage.checkSPF(t.Context(), m).result
}
