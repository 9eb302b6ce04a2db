package bayes

import (
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// letter4k is a letter of 4 KiB with words as frequent as words are.
func letter4k(r *rand.Rand) []byte {
	z := rand.NewZipf(r, 1.2, 4, 50000)
	var b strings.Builder
	fmt.Fprintf(&b, "From: Somebody <s%d@host%d.example>\r\nSubject: letter %d\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", r.Intn(1000), r.Intn(1000), r.Intn(1000))
	for b.Len() < 4096 {
		fmt.Fprintf(&b, "w%s ", strings.Map(func(c rune) rune { return c - '0' + 'a' }, fmt.Sprint(z.Uint64())))
		if r.Intn(12) == 0 {
			b.WriteString("\r\n")
		}
	}
	return []byte(b.String())
}

// schooled returns a store with n letters of each kind.
func schooled(b *testing.B, n int) (*store, *rand.Rand) {
	s := newStore(b)
	s.db.NoSync = true
	r := rand.New(rand.NewSource(1))
	for i := range 2 * n {
		if _, err := s.learn(siteName, "", ham+opinion(i%2), tokenize(s.k0, s.k1, letter4k(r)), defaults().limits(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	s.db.NoSync = false
	return s, r
}

// BenchmarkJudge: a letter of 4 KiB, from octets to evidence.
func BenchmarkJudge(b *testing.B) {
	s, r := schooled(b, 100)
	content := letter4k(r)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		tokens := tokenize(s.k0, s.k1, content)
		if err := s.db.View(func(tx *bolt.Tx) error {
			view(tx, siteName).evidence(tokens)
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenize(b *testing.B) {
	content := letter4k(rand.New(rand.NewSource(1)))
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		tokenize(1, 2, content)
	}
}

// BenchmarkLearn: a letter of 4 KiB, until it is on disk.
func BenchmarkLearn(b *testing.B) {
	s, r := schooled(b, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.learn(siteName, "", ham+opinion(i%2), tokenize(s.k0, s.k1, letter4k(r)), defaults().limits(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargest: the most that a message can cost: 256 KiB of different words.
func BenchmarkLargest(b *testing.B) {
	content := []byte("Subject: x\r\n\r\n" + words(40000))
	b.ReportAllocs()
	for b.Loop() {
		tokenize(1, 2, content)
	}
}

// BenchmarkCorpus reports the size of the database and of the heap after the corpus.
func BenchmarkCorpus(b *testing.B) {
	samples := corpus(b, bare)
	for b.Loop() {
		s := newStore(b)
		tokens := tokenizeAll(s, samples)
		train(b, s, samples, tokens, func(*sample) bool { return true })
		tokens = nil
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := s.db.View(func(tx *bolt.Tx) error {
			d := view(tx, siteName)
			b.ReportMetric(float64(tx.Size())/(1<<20), "MiB-file")
			b.ReportMetric(float64(d.counts.Tokens), "tokens")
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		_ = s.close()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(before.HeapAlloc-after.HeapAlloc)/(1<<20), "MiB-heap")
	}
}
