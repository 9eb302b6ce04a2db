package storage

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchFunc: the function is called for each change that is durable, for its account only, and not after Close.
func TestWatchFunc(t *testing.T) {
	s := openMemory(t, nil)
	var accounts [2]AccountID
	for i, name := range []string{"a@example.test", "b@example.test"} {
		a, err := s.CreateAccount(t.Context(), name, "secret", AccountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		accounts[i] = a.ID
	}
	time.Sleep(4 * tailInterval) // their making is told of
	var mine, other atomic.Int64
	w := s.WatchFunc(accounts[0], func() { mine.Add(1) })
	defer s.WatchFunc(accounts[1], func() { other.Add(1) }).Close()
	change := func(name string) {
		if _, err := s.Update(t.Context(), accounts[0], func(tx *Tx) error {
			_, err := tx.CreateMailbox(name, 0)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	change("one")
	for end := time.Now().Add(5 * time.Second); mine.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not told")
		}
	}
	w.Close()
	before := mine.Load()
	change("two")
	time.Sleep(4 * tailInterval)
	if mine.Load() != before || other.Load() != 0 {
		t.Errorf("told %d times after Close, %d times of somebody else's change", mine.Load()-before, other.Load())
	}
}
