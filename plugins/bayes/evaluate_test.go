package bayes

import (
	"fmt"
	"os"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func newStore(t testing.TB) *store {
	t.Helper()
	s, err := openStore(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

func train(t testing.TB, s *store, samples []sample, tokens [][]token, which func(*sample) bool) {
	t.Helper()
	s.db.NoSync = true
	for i := range samples {
		if !which(&samples[i]) {
			continue
		}
		o := ham
		if samples[i].spam {
			o = spam
		}
		if _, err := s.learn(siteName, "", o, tokens[i], defaults().limits(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

func judge(t testing.TB, s *store, samples []sample, tokens [][]token, which func(*sample) bool) (results []judged) {
	t.Helper()
	err := s.db.View(func(tx *bolt.Tx) error {
		d := view(tx, siteName)
		for i := range samples {
			if which(&samples[i]) {
				results = append(results, judged{&samples[i], d.evidence(tokens[i]).strength})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func TestCV(t *testing.T) {
	if os.Getenv("CV") == "" {
		t.Skip()
	}
	samples := corpus(t, bare)
	tokens := tokenizeAll(&store{k0: 1, k1: 2}, samples)
	const folds = 5
	var all []judged
	for fold := range folds {
		s := newStore(t)
		in := func(x *sample) bool { return !x.heldBack() && int(x.hash[1])%folds == fold }
		not := func(x *sample) bool { return !x.heldBack() && int(x.hash[1])%folds != fold }
		begin := time.Now()
		if os.Getenv("CV") == "order" {
			train(t, s, samples, tokens, func(x *sample) bool { return not(x) && x.spam })
			train(t, s, samples, tokens, func(x *sample) bool { return not(x) && !x.spam })
		} else {
			train(t, s, samples, tokens, not)
		}
		took := time.Since(begin)
		all = append(all, judge(t, s, samples, tokens, in)...)
		s.db.View(func(tx *bolt.Tx) error {
			fmt.Println(took, view(tx, siteName).counts, tx.Size()>>10)
			return nil
		})
	}
	fmt.Println("roc", len(all), roc(all, true))
	for z := 2.5; z < 7; z += 0.25 {
		r, f := recall(all, z, true)
		_, f2 := recall(all, z, false)
		fmt.Printf("z %.2f recall %.2f fp %d (easy %d)\n", z, 100*r, f, f2)
	}
}
