package bayes

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestSpamAssassin: no worse than SpamAssassin's own Bayes, which learns and judges the same octets. In make test a fifth of the corpus is
// learned and a fifth of what was held back judged, which takes half a minute; BAYES_COMPARE=all takes all of it, some minutes.
func TestSpamAssassin(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	if err := exec.CommandContext(t.Context(), "perl", "-MMail::SpamAssassin", "-e", "1").Run(); err != nil {
		if os.Getenv("INTEROP") == "require" {
			t.Fatal("needs SpamAssassin: apt-get install spamassassin")
		}
		t.Skip("needs SpamAssassin: apt-get install spamassassin")
	}
	samples := corpus(t, bare)
	taken := func(x *sample) bool { return os.Getenv("BAYES_COMPARE") == "all" || x.hash[2]%5 == 0 }
	learned := func(x *sample) bool { return taken(x) && !x.heldBack() }
	judgedToo := func(x *sample) bool { return taken(x) && x.heldBack() }
	theirs := spamassassin(t, samples, learned, judgedToo)
	s := newStore(t)
	tokens := tokenizeAll(s, samples)
	train(t, s, samples, tokens, learned)
	ours := judge(t, s, samples, tokens, judgedToo)
	t.Logf("bayes:        false positives: recall; %s", roc(ours, true))
	t.Logf("SpamAssassin: false positives: recall; %s", roc(theirs, true))
	for _, p := range []float64{0.5, 0.95, 0.99} {
		a, x := recall(ours, strengthAt(p), true)
		b, y := recall(theirs, p, true)
		best := bestRecall(ours, y)
		t.Logf("at %.2f: bayes recall %.2f%%, %d false positives; SpamAssassin %.2f%%, %d; bayes with as many as that %.2f%%", p, 100*a, x, 100*b, y, 100*best)
		if best < b {
			t.Errorf("at %.2f: with %d false positives bayes has recall %.2f%%, SpamAssassin %.2f%%", p, y, 100*best, 100*b)
		}
	}
}

// spamassassin has SpamAssassin learn and judge.
func spamassassin(t *testing.T, samples []sample, learned, wanted func(*sample) bool) (results []judged) {
	t.Helper()
	dir := t.TempDir()
	var learn, judge bytes.Buffer
	for i := range samples {
		x := &samples[i]
		if !learned(x) && !wanted(x) {
			continue
		}
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, x.text, 0o600); err != nil {
			t.Fatal(err)
		}
		switch {
		case wanted(x):
			fmt.Fprintf(&judge, "judge %s\n", path)
			results = append(results, judged{sample: x})
		case x.spam:
			fmt.Fprintf(&learn, "learn spam %s\n", path)
		default:
			fmt.Fprintf(&learn, "learn ham %s\n", path)
		}
	}
	list := filepath.Join(dir, "list")
	if err := os.WriteFile(list, append(learn.Bytes(), judge.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "perl", "testdata/spamassassin.pl", dir, list)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	lines := strings.Fields(string(out))
	if err != nil || len(lines) != len(results) {
		t.Fatalf("SpamAssassin: %v, %d answers for %d messages: %.500s", err, len(lines), len(results), complaints.String())
	}
	for i, line := range lines {
		if results[i].score, err = strconv.ParseFloat(line, 64); err != nil {
			t.Fatal(err)
		}
	}
	return results
}
