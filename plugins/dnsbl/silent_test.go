package dnsbl

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// TestSilentInTheMiddle: DNS ends after the first of a message's questions. What is not known is not called clean, unless the
// rest suffices; and one odd domain does not do the same to the others.
func TestSilentInTheMiddle(t *testing.T) {
	z := startZone(t, map[string][]string{
		"bad.example.bl.example": {"127.0.0.2"}, "mute.example.bl.example": {"SILENT"}, "odd.example.bl.example": {"SERVFAIL"},
		"mute.example.zen.example": {"SILENT"},
	})
	one := map[string]any{"bl.example": map[string]any{}}
	both := map[string]any{"bl.example": map[string]any{}, "zen.example": map[string]any{}}
	for name, c := range map[string]struct {
		lists map[string]any
		links []string
		score float64
		want  string // of the error
		note  string // in the reasons
	}{
		"clean":                {one, []string{"http://fine.example/"}, 0, "", ""},
		"silent":               {one, []string{"http://fine.example/", "http://mute.example/"}, 0, "no list answers: no answer", ""},
		"silent, but listed":   {one, []string{"http://bad.example/", "http://mute.example/"}, 1, "", ""},
		"odd":                  {one, []string{"http://fine.example/", "http://odd.example/"}, 0, "", "answers SERVFAIL"},
		"odd alone":            {one, []string{"http://odd.example/"}, 0, "answers SERVFAIL", ""},
		"silent and odd":       {one, []string{"http://odd.example/", "http://mute.example/"}, 0, "no list answers", ""},
		"two silent":           {both, []string{"http://fine.example/", "http://mute.example/"}, 0, "no list answers", ""},
		"two, one says enough": {both, []string{"http://bad.example/", "http://mute.example/"}, 1, "", "zen.example: no answer"},
	} {
		p := start(t, z, map[string]any{"domains": c.lists, "timeout": "300ms"})
		v, err := p.Ask(context.Background(), &sdk.Message{
			Phase: sdk.PhaseContent, Envelope: sdk.Envelope{Origin: sdk.Stranger}, Content: strings.NewReader("\r\n"),
			Parsed: func() (*sdk.Parsed, error) { return &sdk.Parsed{URLs: c.links}, nil },
		})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %+v %v", name, v, err)
			}
			continue
		}
		noted := c.note == ""
		for _, r := range v.Reasons {
			noted = noted || r.Symbol == "DNSBL_FAILED" && strings.Contains(r.Text, c.note)
		}
		if err != nil || v.Score != c.score || !noted {
			t.Errorf("%s: %+v %v", name, v, err)
		}
	}
}

// TestLostDatagram: a question that nobody heard is asked again.
func TestLostDatagram(t *testing.T) {
	z := startZone(t, map[string][]string{"1.2.0.192.bl.example": {"SILENT"}})
	p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{"test": false}}, "timeout": "3s"})
	p.dns.udp.Timeout = 300 * time.Millisecond
	time.AfterFunc(100*time.Millisecond, func() { z.set("1.2.0.192.bl.example", "127.0.0.2") })
	if v, err := p.Ask(context.Background(), connect("192.0.2.1")); err != nil || v.Score != 1 {
		t.Errorf("%+v %v", v, err)
	}
}

// TestUntested: a test without an answer changes nothing, and is to be repeated.
func TestUntested(t *testing.T) {
	z := startZone(t, map[string][]string{"1.0.0.127.bl.example": {"127.0.0.2"}})
	p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{}}, "timeout": "200ms"})
	<-p.tested
	z.set("1.0.0.127.bl.example", "SILENT")
	if p.tryList(p.lists[0]) || !p.lists[0].broken.Load() {
		t.Error("a list of the world is believed because nobody answered")
	}
	z.set("1.0.0.127.bl.example")
	if !p.tryList(p.lists[0]) || p.lists[0].broken.Load() {
		t.Error("a list that recovered is not believed")
	}
}

// TestNoName: a link that DNS cannot have is not listed, and no failure.
func TestNoName(t *testing.T) {
	z := startZone(t, map[string][]string{})
	p := start(t, z, map[string]any{"domains": map[string]any{"bl.example": map[string]any{}}})
	for _, name := range []string{strings.Repeat("a", 64) + ".bl.example.", strings.Repeat("a.", 125) + "bl.example."} {
		if answers, err := p.dns.listed(context.Background(), name); err != nil || len(answers) > 0 {
			t.Errorf("%s: %v %v", name, answers, err)
		}
	}
}
