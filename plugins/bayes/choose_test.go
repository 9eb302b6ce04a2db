package bayes

import (
	"bytes"
	"math"
	"os"
	"slices"
	"sort"
	"testing"
)

// TestChoose is how the constant steep was chosen: by five-fold cross-validation on the training part alone, three times with other folds
// and another order of lessons, the lowest strength at which at most 0.1% of the ham is taken for spam. It takes minutes and proves
// nothing, so it runs when BAYES_CHOOSE is set.
func TestChoose(t *testing.T) {
	if os.Getenv("BAYES_CHOOSE") == "" {
		t.Skip("set BAYES_CHOOSE=1 to choose the threshold anew")
	}
	const folds = 5
	samples := corpus(t, bare)
	var results []judged
	for repeat := range 3 {
		digit := 1 + 8*repeat
		sort.SliceStable(samples, func(i, j int) bool { return bytes.Compare(samples[i].hash[digit:], samples[j].hash[digit:]) < 0 })
		samples := slices.Clone(samples)
		tokens := tokenizeAll(&store{k0: 1, k1: 2}, samples)
		for fold := range folds {
			s := newStore(t)
			in := func(x *sample) bool { return int(x.hash[digit])%folds == fold }
			train(t, s, samples, tokens, func(x *sample) bool { return !x.heldBack() && !in(x) })
			results = append(results, judge(t, s, samples, tokens, func(x *sample) bool { return !x.heldBack() && in(x) })...)
		}
	}
	var hams []float64
	for _, r := range results {
		if !r.sample.spam {
			hams = append(hams, r.score)
		}
	}
	sort.Sort(sort.Reverse(sort.Float64Slice(hams)))
	at := hams[len(hams)/1000] // the first that is one too many
	share, wrong := recall(results, math.Nextafter(at, math.Inf(1)), true)
	t.Logf("of %d messages, %d of them ham, above %.3f: recall %.2f%%, %d false positives; steep %.4f", len(results), len(hams), at, 100*share, wrong, math.Log(99)/at)
	_, easy := recall(results, math.Nextafter(at, math.Inf(1)), false)
	t.Logf("of these %d are easy ham", easy)
	t.Logf("the strongest of the ham: %.3f", hams[:20])
	t.Logf("false positives: recall; %s", roc(results, true))
}
