package queue

import "time"

// pass moves the low-water marks to the first minute in which something that is not settled may have a due key, or
// to limit, before which every minute was read. Entries that are claimed from now on have no due key before them. The mark
// of what stays here is never below the other, whose minutes go as a whole.
func (s *schedule) pass(limit uint32) (low, lowLocal uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seized) > 0 || s.lost {
		return s.low, s.lowLocal
	}
	marks := [2]uint32{limit, limit}
	hold := func(h *hop, minute uint32) {
		class := 0
		if h == s.local {
			class = 1
		}
		marks[class] = min(marks[class], minute)
	}
	for _, e := range s.entries {
		if e.committing {
			marks[0], marks[1] = min(marks[0], e.floor), min(marks[1], e.floor)
		}
		for _, p := range e.parts {
			if p.state != away && p.state != over {
				hold(p.hop, p.floor)
			}
		}
	}
	for _, h := range s.hops {
		hold(h, h.from.minute)
	}
	if limit <= s.loaded {
		s.low, s.lowLocal = max(s.low, min(marks[0], marks[1])), max(s.lowLocal, marks[1])
	}
	return s.low, s.lowLocal
}

// read takes note that minutes up to this one are being read: what is put off until then stays in memory.
func (s *schedule) read(minute uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = max(s.loaded, minute)
}

func (s *schedule) setLow(low, local uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.low, s.lowLocal = low, max(low, local)
}

// dueMinute is where a due key for t has to stand.
func (s *schedule) dueMinute(hop string, t time.Time) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(minuteOf(t), s.mark(hop))
}
