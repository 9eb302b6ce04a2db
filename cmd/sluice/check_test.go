package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

const pluginsConfig = `hostname = "mx.example.test"
data_dir = "data"
[domain."example.test"]
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
[pipeline.inbound.anti-spam]
plugins = ["greylist", "gtube"]
[pipeline.inbound.anti-virus]
plugins = ["eicar"]
[plugin.greylist]
builtin = "greylist"
[plugin.greylist.config]
delay = "5m"
[plugin.gtube]
builtin = "gtube"
mode = "off"
`

// TestCheckStarts: plugins look at their settings, which data_dir does not notice.
func TestCheckStarts(t *testing.T) {
	name := writeConfig(t, pluginsConfig)
	code, stdout, stderr := sluice(t, "", "--config", name, "--json", "check")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitDone || stderr != "" || len(r.Plugins) != 3 {
		t.Fatalf("%d %v %s %s", code, err, stdout, stderr)
	}
	var got []string
	for _, p := range r.Plugins {
		got = append(got, p.Name+": "+p.Checked+" "+p.Version)
	}
	if text := strings.Join(got, ", "); text != "eicar: settings checked 1, greylist: settings checked 1, gtube: off " {
		t.Errorf("%s", text)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(name), "data")); !os.IsNotExist(err) {
		t.Errorf("the check made data_dir: %v", err)
	}
}

// TestCheckPluginProblems: every problem at once, those of the system, of plugins that were started and of the stages that name them.
func TestCheckPluginProblems(t *testing.T) {
	text := strings.Replace(pluginsConfig, `delay = "5m"`, "dealy = 1\nexempt_senders = [\"nobody\"]", 1)
	text = strings.Replace(text, `plugins = ["eicar"]`, `plugins = ["eicar", "greylist"]`, 1)
	name := writeConfig(t, text+"[plugin.gone]\ncommand = [\"./absent.sh\"]\n")
	code, stdout, stderr := sluice(t, "", "--config", name, "--json", "check")
	var got []string
	for line := range strings.Lines(stdout) {
		var p config.Problem
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if !p.Warning {
			got = append(got, strings.TrimPrefix(p.String(), name))
		}
	}
	want := []string{
		":10: pipeline.inbound.anti-virus.plugins: greylist would never be asked in anti-virus, which asks about content: it takes part in recipient",
		":14: plugin.greylist.config.dealy: unknown key",
		`:15: plugin.greylist.config.exempt_senders: entry 1: "nobody", expected an address or "@domain"`,
		":20: plugin.gone.command: ",
	}
	if code != exitFailed || stderr != "" || len(got) != len(want) {
		t.Fatalf("%d %s %s", code, stdout, stderr)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("%q, expected %q", got[i], want[i])
		}
	}
	if code, stdout, stderr := sluice(t, "", "--config", name, "check", "--no-plugins"); code != exitDone || !strings.Contains(stdout, "not started") {
		t.Errorf("--no-plugins: %d %s %s", code, stdout, stderr)
	}
}
