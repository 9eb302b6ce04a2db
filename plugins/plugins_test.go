package plugins

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

var daemons = map[string]bool{"rspamd": true, "spamassassin": true, "clamav": true, "icap": true, "milter": true}

// TestCheckOnly: each shipped plugin can check its settings without being configured: it finds what it would find, and leaves
// its state and its daemon alone.
func TestCheckOnly(t *testing.T) {
	place := map[string]string{ // none of them is there
		"clamav": "address", "milter": "address", "icap": "url", "rspamd": "url", "spamassassin": "address",
	}
	for name, make := range Builtins() {
		good := map[string]any{}
		if key := place[name]; key != "" {
			good[key] = map[string]string{"address": "unix:/nowhere", "url": "icap://127.0.0.1:1/x"}[key]
		}
		if name == "rspamd" {
			good["url"] = "unix:/nowhere"
		}
		if !make().Describe().CheckOnly {
			t.Errorf("%s does not say that it can check", name)
			continue
		}
		if err := (sdktest.Setup{Config: good, CheckOnly: true}).Configure(t, make()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		bad := maps.Clone(good)
		bad["wrong"], bad["wronger"] = true, int64(1)
		err := sdktest.Setup{Config: bad, CheckOnly: true}.Configure(t, make())
		if err == nil || !strings.Contains(err.Error(), "wrong: ") || !strings.Contains(err.Error(), "wronger: ") {
			t.Errorf("%s does not complain of unknown keys: %v", name, err)
		}
	}
}

// TestBuiltins: each shipped plugin is called what the list calls it, starts without settings, and has no
// objection to an ordinary message, an empty one and one that is hardly a message. Those that ask a daemon are only
// called by name: without it they have no opinion, which their own tests show.
func TestBuiltins(t *testing.T) {
	for name, make := range Builtins() {
		t.Run(name, func(t *testing.T) {
			if m := make().Describe(); daemons[name] {
				if m.Name != name || m.Version == "" || len(m.Phases) == 0 {
					t.Errorf("%+v", m)
				}
				return
			}
			p := sdktest.Start(t, make(), nil)
			if m := p.Manifest; m.Name != name || m.Version == "" || len(m.Phases) == 0 {
				t.Errorf("%+v", m)
			}
			if !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(name) {
				t.Errorf("the name %q", name)
			}
			for _, text := range []string{
				"", "\n", "From: a@example.org\nSubject: hello\n\nhello\n", "no header", "\x00\xff\r=\n=", strings.Repeat("=", 1<<20),
				"A: b\nContent-Transfer-Encoding: base64\n\n" + strings.Repeat("QUJD\n", 100000),
			} {
				if !slices.Contains(p.Manifest.Phases, sdk.PhaseContent) {
					break
				}
				m := sdktest.Mail(text)
				if p.Manifest.Parsed {
					m.Parsed = sdktest.Parsed(&sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "text/plain"}}})
				}
				v, err := p.Ask(m)
				if err != nil || v.Action != 0 || v.Score != 0 || len(v.Detections) != 0 {
					t.Errorf("%.40q: %+v %v", text, v, err)
				}
			}
		})
	}
}
