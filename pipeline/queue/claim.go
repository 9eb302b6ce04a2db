package queue

import "github.com/sluicemail/sluice/storage/kv"

// claim announces an entry before its due keys are written, and says where they have to stand: the low-water marks
// wait for it. launch or release ends that.
func (s *schedule) claim(e *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.floor, e.committing = ^uint32(0), true
	for _, r := range e.recipients {
		r.at = max(minuteOf(r.Next), s.mark(r.hop))
		e.floor = min(e.floor, r.at)
	}
	s.entries[e.ID] = e
}

// launch hands a new entry, whose batch was applied, to the workers and connections. What finds no room stays
// on disk, and the loader knows where.
func (s *schedule) launch(e *live, pos kv.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.committing, e.pos = false, pos
	s.divide(e)
	s.weigh(e)
	for _, p := range e.parts {
		p.hop.renew(s.now())
		if s.roomFor(p) {
			s.enter(p)
		} else {
			s.leaveOut(p)
		}
	}
	s.forgetIdle(e)
	s.dispatch()
}

// release forgets an entry that was claimed and is not there.
func (s *schedule) release(e *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, e.ID)
}

// doubt is release for an entry that may be there: nobody else would ever look for it. The loader does, where
// its due keys would stand.
func (s *schedule) doubt(e *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, e.ID)
	e.committing = false
	s.divide(e)
	for _, p := range e.parts {
		s.leaveOut(p)
	}
}
