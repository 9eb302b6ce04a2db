package queue

import (
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
)

func entryOf(n byte) *live { return &live{Entry: Entry{ID: storage.ID{n}}} }

// TestCommitBesideAFullWindow: an entry that finds no place and is applied after the pass over the disk has gone by is not
// forgotten.
func TestCommitBesideAFullWindow(t *testing.T) {
	var s schedule
	s.init(1)
	now := time.Unix(600, 0)
	first, second := entryOf(1), entryOf(2)
	if !s.claim(first, now) || s.claim(second, now) {
		t.Fatal("the window does not hold")
	}
	s.beginPass()
	s.endPass() // saw nothing: second is not on disk yet
	if _, over := s.depth(); !over {
		t.Error("the entry that is being committed is forgotten")
	}
	s.beginPass()
	s.outsideDone()
	s.endPass()
	if _, over := s.depth(); !over {
		t.Error("the entry that came during a pass is forgotten")
	}
	s.beginPass()
	s.endPass()
	if _, over := s.depth(); over {
		t.Error("the queue never rests")
	}
}

// TestNothingIsDueBeforeTheMark: a due key below the low-water mark would never be read again after a restart. Clocks are
// set back, and a commit may take its time between two minutes.
func TestNothingIsDueBeforeTheMark(t *testing.T) {
	var s schedule
	s.init(10)
	s.setLoaded(10)
	if low := s.pass(10); low != 10 {
		t.Fatalf("the mark stands at %d", low)
	}
	e := entryOf(1)
	s.claim(e, time.Unix(5*60, 0))
	if e.floor != 10 || s.dueMinute(time.Unix(5*60, 0)) != 10 {
		t.Errorf("due in minute %d", e.floor)
	}
	s.setLoaded(20)
	if low := s.pass(20); low != 10 {
		t.Errorf("the mark passed an entry: %d", low)
	}
	s.release(e)
	if low := s.pass(30); low != 10 {
		t.Errorf("the mark passed minutes that were not read: %d", low)
	}
	if low := s.pass(20); low != 20 {
		t.Errorf("the mark stands still at %d", low)
	}
}

// TestClockThatIsSetBack: what is due in a minute that was read already stays in memory.
func TestClockThatIsSetBack(t *testing.T) {
	var s schedule
	s.init(10)
	s.setLoaded(100)
	e := entryOf(1)
	now := time.Unix(50*60, 0)
	s.claim(e, now)
	s.keep(e, now.Add(20*time.Minute), now)
	if in, _ := s.depth(); in != 1 {
		t.Error("forgotten, and its minute is not read again")
	}
}

// TestReadingThatFailedIsTriedAgain: a queue that rests with entries on disk would rest for ever.
func TestReadingThatFailedIsTriedAgain(t *testing.T) {
	var s schedule
	s.init(10)
	s.over = true
	s.wake(time.Unix(600, 0))
	select {
	case <-s.refill:
	default:
		t.Error("nobody reads what is on disk")
	}
}
