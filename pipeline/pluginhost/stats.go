package pluginhost

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// stats counts what a plugin did. It lives as long as the plugin's table.
type stats struct {
	asked    atomic.Uint64
	inFlight atomic.Int64
	failures [len(kinds)]atomic.Uint64
	times    [256]atomic.Uint64 // answers by time, four buckets to each power of two of nanoseconds
}

func (s *stats) done(took time.Duration, kind Kind) {
	if kind == "" {
		s.times[bucket(took)].Add(1)
		return
	}
	for i, k := range kinds {
		if k == kind {
			s.failures[i].Add(1)
		}
	}
}

func bucket(d time.Duration) int {
	n := uint64(max(d, 4))
	power := bits.Len64(n) - 1
	return power*4 + int(n>>(power-2))&3
}

// quantile returns the upper end of the bucket that holds the q-th part of the answers.
func (s *stats) quantile(q float64) time.Duration {
	var counts [len(s.times)]uint64
	var all uint64
	for i := range s.times {
		counts[i] = s.times[i].Load()
		all += counts[i]
	}
	var seen uint64
	for i, n := range counts {
		if seen += n; n > 0 && float64(seen) >= q*float64(all) {
			return time.Duration(uint64(i%4+5) << (i/4 - 2))
		}
	}
	return 0
}

func (s *stats) failuresByKind() map[Kind]uint64 {
	out := make(map[Kind]uint64, len(kinds))
	for i, k := range kinds {
		if n := s.failures[i].Load(); n > 0 {
			out[k] = n
		}
	}
	return out
}
