package spamassassin

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

const (
	maxText  = 500 // octets of a text that is shown to people
	maxTests = 200
)

// answer is spamd's opinion.
type answer struct {
	spam            bool
	score, required float64
	tests           []test
	more            int // tests beyond maxTests
}

type test struct {
	name  string
	score float64
	text  string
}

// spamField is "True ; 15.0 / 5.0"; scores may have no decimals.
var spamField = regexp.MustCompile(`^(True|Yes|False|No)\s*;\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)$`)

// opinion reads an answer to REPORT. Without the field Spam it is none; without a table, as in
// a report whose template was changed, it has no tests.
func (r *reply) opinion() (*answer, error) {
	m := spamField.FindStringSubmatch(r.spam)
	if m == nil {
		return nil, fmt.Errorf("spamd's answer has the field Spam: %q, expected such as \"True ; 15.0 / 5.0\"", plain.Line(r.spam, 60))
	}
	a := &answer{spam: m[1] == "True" || m[1] == "Yes"}
	a.score, _ = strconv.ParseFloat(m[2], 64)
	a.required, _ = strconv.ParseFloat(m[3], 64)
	a.tests, a.more = parseReport(string(r.body))
	return a, nil
}

var (
	// rule is the line below the table's head: "---- ---------------------- ------".
	rule = regexp.MustCompile(`^ ?-{3,} -{3,} -{3,}\s*$`)
	// row is a line of the table: points, name and description.
	row = regexp.MustCompile(`^\s{0,8}(-?[0-9]{1,6}(?:\.[0-9]{1,4})?)\s{1,8}\*?\s*([A-Za-z_][A-Za-z0-9_]{0,99})(?:\s+(.*))?$`)
)

// parseReport reads the table of SpamAssassin's default report_template. It begins after the
// last rule, because the text before it quotes the message.
func parseReport(report string) (tests []test, more int) {
	lines := strings.Split(strings.ReplaceAll(report, "\r\n", "\n"), "\n")
	start := len(lines)
	for i, line := range lines {
		if rule.MatchString(line) {
			start = i + 1
		}
	}
	for _, line := range lines[start:] {
		if strings.TrimSpace(line) == "" {
			break
		}
		m := row.FindStringSubmatch(line)
		switch {
		case m != nil && len(tests) == maxTests:
			more++
		case m != nil:
			score, _ := strconv.ParseFloat(m[1], 64)
			tests = append(tests, test{m[2], score, plain.Line(m[3], maxText)})
		case strings.HasPrefix(line, "          ") && len(tests) > 0 && more == 0: // the description goes on
			last := &tests[len(tests)-1]
			last.text = plain.Line(last.text+" "+strings.TrimSpace(line), maxText)
		}
	}
	slices.SortStableFunc(tests, func(x, y test) int { return cmp.Compare(math.Abs(y.score), math.Abs(x.score)) })
	return tests, more
}

// verdict turns an answer into ours.
func (s *settings) verdict(a *answer) sdk.Verdict {
	word := map[bool]string{true: "yes", false: "no"}[a.spam]
	v := sdk.Verdict{
		Score: a.score * s.Scale,
		Reasons: []sdk.Reason{{
			Symbol: "SPAMASSASSIN", Text: fmt.Sprintf("spam: %s, score %.1f of %.1f", word, a.score, a.required),
		}},
		Tags: map[string]string{Tag: word},
	}
	if a.spam {
		v.Action = s.OnSpam
	}
	for _, t := range a.tests {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: t.name, Score: t.score * s.Scale, Text: t.text})
	}
	if a.more > 0 {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "SPAMASSASSIN_MORE", Text: fmt.Sprintf("and %d more tests", a.more)})
	}
	if s.Fields {
		v.Changes = fields(a)
	}
	return v
}

// fields are those that SpamAssassin's own markup begins with, in place of what the message had.
func fields(a *answer) []sdk.Change {
	var names []string
	for _, t := range a.tests {
		names = append(names, t.name)
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	word := map[bool]string{true: "Yes", false: "No"}[a.spam]
	// A blank after each comma, so that the field can be folded.
	value := fmt.Sprintf("%s, score=%.1f required=%.1f tests=%s", word, a.score, a.required, strings.Join(names, ", "))
	out := []sdk.Change{
		{Kind: sdk.RemoveField, Name: "X-Spam-Status"}, {Kind: sdk.RemoveField, Name: "X-Spam-Flag"},
		{Kind: sdk.AddField, Name: "X-Spam-Status", Value: value},
	}
	if a.spam {
		out = append(out, sdk.Change{Kind: sdk.AddField, Name: "X-Spam-Flag", Value: "YES"})
	}
	return out
}
