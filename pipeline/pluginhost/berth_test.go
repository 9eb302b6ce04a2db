package pluginhost

import "testing"

// TestBerth: the lane that has rested longest goes first, who waits gets one in turn, and one that comes for somebody who has gone is not lost.
func TestBerth(t *testing.T) {
	b := &berth{size: 2}
	first, second := &lane{home: b}, &lane{home: b}
	b.put(first)
	b.put(second)
	if l, turn := b.take(); l != first || turn != nil || b.taken() != 1 {
		t.Fatal("the lane that has rested longest does not go first")
	}
	b.putFirst(first)
	if b.try() != first || b.try() != second || b.try() != nil {
		t.Fatal("try gave what is not there")
	}
	b.warm = true
	b.put(first)
	b.put(second)
	if b.try() != second || b.try() != first {
		t.Fatal("the lane that came last does not go first, warm")
	}
	_, one := b.take()
	_, two := b.take()
	_, three := b.take()
	b.forget(two)
	b.put(first)
	if b.taken() != 2 {
		t.Error("a lane that was handed over counts as free")
	}
	select {
	case l := <-one:
		if l != first {
			t.Error("another lane")
		}
	default:
		t.Fatal("the first in the queue got nothing")
	}
	b.put(second) // to the third, who goes at this moment
	b.forget(three)
	if b.taken() != 1 || b.try() != second || len(b.waiting) != 0 {
		t.Error("a lane was lost with who did not wait for it")
	}
}
