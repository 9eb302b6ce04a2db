package rspamd

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sluicemail/sluice/sdk"
)

// both is a configuration that takes all that an answer offers.
func both() *settings {
	return &settings{Scale: 1, UseActions: true, Actions: defaultActions(), Fields: true, RewriteSubject: true}
}

func TestFields(t *testing.T) {
	const body = `{"action":"rewrite subject","score":7,"subject":"*** SPAM\r\n *** hello","milter":{
		"remove_headers":{"X-Spam":0,"X-Bar":[1,-1],"DKIM-Signature":0,"X-Odd":1.5,"Authentication-Results":0,"X-None":"1"},
		"add_headers":{"X-Spam":"Yes","X-Result":{"value":"a\r\n\tb\u0000\nc","order":1},"X-Many":["1",{"value":"2"},3],
			"DKIM-Signature":{"value":"v=1"},"ARC-Seal":"i=1","X-Sluice-Score":"0","Received":"from x","Bad Name":"x","Bad:Name":"x","":"x",
			"X-Long":"` + "xxxxxxxxx" + `"},
		"change_from":"evil@example.org","reject":"x"}}`
	a, err := parseAnswer([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range both().verdict(a).Changes {
		got = append(got, fmt.Sprintf("%s %s %d %q", c.Kind, c.Name, c.Index, c.Value))
	}
	want := []string{
		`remove field X-Bar 1 ""`, `remove field X-Bar -1 ""`, `remove field X-Spam 0 ""`,
		`add field X-Long 0 "xxxxxxxxx"`, `add field X-Many 0 "1"`, `add field X-Many 0 "2"`, `add field X-Result 0 "a bc"`, `add field X-Spam 0 "Yes"`,
		`remove field Subject 0 ""`, `add field Subject 0 "*** SPAM *** hello"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	plain := both()
	plain.Fields, plain.RewriteSubject = false, false
	if c := plain.verdict(a).Changes; len(c) != 0 {
		t.Errorf("changes that nobody wanted: %+v", c)
	}
}

// TestShapes: tables without members may be lists, and what matters little may be odd.
func TestShapes(t *testing.T) {
	for _, body := range []string{
		`{"action":"no action","score":1,"symbols":[],"messages":[],"milter":[]}`,
		`{"action":"no action","score":1,"symbols":null,"messages":"x","milter":7,"subject":7}`,
		`{"action":"no action","score":1,"symbols":{"":{"score":1}},"milter":{"add_headers":[],"remove_headers":""}}`,
	} {
		a, err := parseAnswer([]byte(body))
		if err != nil || len(a.symbols) != 0 {
			t.Errorf("%s: %+v %v", body, a, err)
			continue
		}
		if v := both().verdict(a); v.Score != 1 || len(v.Reasons) != 1 || len(v.Changes) != 0 {
			t.Errorf("%s: %+v", body, v)
		}
	}
}

func TestSymbols(t *testing.T) {
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf(`"S%03d":{"score":%d,"description":7,"options":[7,"a"]}`, i, i%2))
	}
	a, err := parseAnswer([]byte(`{"action":"no action","score":150,"symbols":{` + strings.Join(many, ",") + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	s := both()
	if r := s.verdict(a).Reasons; len(r) != 151 || r[150].Score != 1 || r[1].Text != "[, a]" {
		t.Errorf("%d reasons, %+v", len(r), r)
	}
	s.AllSymbols = true
	if r := s.verdict(a).Reasons; len(r) != 202 || r[201].Text != "and 100 more symbols" {
		t.Errorf("%d reasons, %+v", len(r), r[len(r)-1])
	}
	// An early decision is explained by symbols without a score.
	a, err = parseAnswer([]byte(`{"is_skipped":true,"action":"reject","score":15,"symbols":{"GTUBE":{"score":0}}}`))
	if r := both().verdict(a).Reasons; err != nil || len(r) != 2 || r[1].Symbol != "GTUBE" {
		t.Errorf("%+v %v", r, err)
	}
}

// FuzzAnswer: whatever rspamd says, what becomes of it is an error or a verdict that the server takes.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(clean1))
	f.Add([]byte(`{"is_skipped":true,"score":15.0,"required_score":15.0,"action":"reject","symbols":{"GTUBE":{"score":0.0}},"messages":{"smtp_message":"Gtube pattern"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := parseAnswer(body)
		if err != nil {
			if msg := err.Error(); len(msg) > 2000 {
				t.Errorf("an error of %d octets", len(msg))
			}
			return
		}
		checkVerdict(t, both().verdict(a))
	})
}

// checkVerdict holds a verdict to what sdk/PROTOCOL.md demands of one (section 11).
func checkVerdict(t *testing.T, v sdk.Verdict) {
	t.Helper()
	control := func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) }
	if math.IsNaN(v.Score) || math.IsInf(v.Score, 0) || len(v.Reasons) > 500 || len(v.Changes) > 200 {
		t.Errorf("%v, %d reasons, %d changes", v.Score, len(v.Reasons), len(v.Changes))
	}
	for _, r := range v.Reasons {
		if r.Symbol == "" || len(r.Symbol) > 200 || len(r.Text) > 2000 || control(r.Symbol) || control(r.Text) || math.IsNaN(r.Score) || math.IsInf(r.Score, 0) {
			t.Errorf("reason %+v", r)
		}
	}
	for _, c := range v.Changes {
		if c.Name == "" || strings.ContainsAny(c.Name, " :\r\n") || strings.ContainsAny(c.Value, "\r\n\x00") || len(c.Value) > 60000 || !utf8.ValidString(c.Value) {
			t.Errorf("change %+v", c)
		}
	}
	for k, text := range v.Tags {
		if k == "" || len(text) > 2000 || control(text) {
			t.Errorf("tag %q %q", k, text)
		}
	}
	if v.Reply != nil && (control(v.Reply.Text) || len(v.Reply.Text) > 400 || v.Reply.Text == "") {
		t.Errorf("reply %+v", v.Reply)
	}
}
