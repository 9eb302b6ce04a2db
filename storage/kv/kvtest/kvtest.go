// Package kvtest holds what tests of storage need of an engine: the contract that
// every engine passes (Run), an engine in memory (NewMemory), and wrappers that
// make any engine slow or let its n-th call fail (Slow, Fail).
//
// The contract is that of package kv. Whoever writes another engine calls Run from
// a test of its own, with a function that makes an empty place for a store.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/storage/kv"
)

// Place is where one store lives, empty at first.
type Place struct {
	// Open opens the store; the tests close it before they open it again.
	Open func() (kv.Engine, error)

	// Checkpoint is a directory that does not exist, for Engine.Checkpoint, and
	// OpenCheckpoint opens what was written there. Without OpenCheckpoint
	// checkpoints are not tested.
	Checkpoint     string
	OpenCheckpoint func() (kv.Engine, error)

	// Volatile engines lose everything when closed.
	Volatile bool
}

// Run checks an engine against the contract of package kv.
func Run(t *testing.T, place func(t *testing.T) Place) {
	tests := []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{"Changes", testChanges},
		{"Order", testOrder},
		{"Memory", testMemory},
		{"Scan", testScan},
		{"ScanEnds", testScanEnds},
		{"Snapshot", testSnapshot},
		{"Positions", testPositions},
		{"Atomic", testAtomic},
		{"Reopen", testReopen},
		{"Checkpoint", testCheckpoint},
		{"Context", testContext},
		{"Closed", testClosed},
		{"Limits", testLimits},
		{"Model", testModel},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, place(t)) })
	}
}

func mustOpen(t *testing.T, open func() (kv.Engine, error)) kv.Engine {
	t.Helper()
	e, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Error(err)
		}
	})
	return e
}

// batch makes changes of words: "+key=value", "-key", "-lower..upper".
func batch(words string) *kv.Batch {
	var b kv.Batch
	for w := range strings.FieldsSeq(words) {
		switch lower, upper, isRange := strings.Cut(w[1:], ".."); {
		case w[0] == '+':
			k, v, _ := strings.Cut(w[1:], "=")
			b.Set([]byte(k), []byte(v))
		case isRange:
			b.DeleteRange([]byte(lower), []byte(upper))
		default:
			b.Delete([]byte(w[1:]))
		}
	}
	return &b
}

func apply(t *testing.T, e kv.Engine, words string) kv.Pos {
	t.Helper()
	p, err := e.Apply(context.Background(), batch(words))
	if err != nil {
		t.Fatalf("Apply(%s): %v", words, err)
	}
	return p
}

// dump is what a reader shows between two keys, as "key=value key=value".
func dump(t *testing.T, r kv.Reader, lower, upper string, reverse bool) string {
	t.Helper()
	var out []string
	err := r.Scan(context.Background(), []byte(lower), []byte(upper), reverse, func(k, v []byte) (bool, error) {
		out = append(out, fmt.Sprintf("%s=%s", k, v))
		return true, nil
	})
	if err != nil {
		t.Fatalf("Scan(%q, %q, %v): %v", lower, upper, reverse, err)
	}
	return strings.Join(out, " ")
}

func wantAll(t *testing.T, r kv.Reader, want string) {
	t.Helper()
	if got := dump(t, r, "", "", false); got != want {
		t.Errorf("the store holds %q, want %q", got, want)
	}
}

func testChanges(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	if _, err := e.Get(ctx, []byte("a")); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("Get in an empty store: %v", err)
	}
	wantAll(t, e, "")
	apply(t, e, "+a=1 +b=2 +empty=")
	for key, want := range map[string]string{"a": "1", "b": "2", "empty": ""} {
		if v, err := e.Get(ctx, []byte(key)); err != nil || v == nil || string(v) != want {
			t.Errorf("Get(%s) = %q (nil: %v), %v; want %q", key, v, v == nil, err, want)
		}
	}
	apply(t, e, "+a=3 -b -missing")
	wantAll(t, e, "a=3 empty=")
	apply(t, e, "-a -empty")
	wantAll(t, e, "")
}

// Later changes in a batch win over earlier ones, of any kind.
func testOrder(t *testing.T, p Place) {
	e := mustOpen(t, p.Open)
	for _, c := range []struct{ words, want string }{
		{"+a=1 +a=2", "a=2"},
		{"+a=1 -a", ""},
		{"-a +a=1", "a=1"},
		{"+b=1 -a..c", ""},
		{"-a..c +b=1", "b=1"},
		{"+b=1 +c=1 -a..c +a=1", "a=1 c=1"},
		{"+a=1 +b=2 +c=3 -b..b", "a=1 b=2 c=3"},
		{"+a=1 -a..b +b=1 -b..z +c=3", "c=3"},
	} {
		apply(t, e, "-\x00..\xff")
		apply(t, e, c.words)
		if got := dump(t, e, "", "", false); got != c.want {
			t.Errorf("%s: the store holds %q, want %q", c.words, got, c.want)
		}
	}
}

// What the caller gave may be changed after Apply, what it got any time.
func testMemory(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	k, v := []byte("key"), []byte("value")
	var b kv.Batch
	b.Set(k, v)
	if _, err := e.Apply(ctx, &b); err != nil {
		t.Fatal(err)
	}
	copy(k, "xxx")
	copy(v, "xxxxx")
	got, err := e.Get(ctx, []byte("key"))
	if err != nil || string(got) != "value" {
		t.Fatalf("Get = %q, %v", got, err)
	}
	copy(got, "yyyyy")
	wantAll(t, e, "key=value")
	b.Reset()
	b.Set([]byte("again"), nil)
	if _, err := e.Apply(ctx, &b); err != nil {
		t.Fatal(err)
	}
	wantAll(t, e, "again= key=value")
}

func testScan(t *testing.T, p Place) {
	e := mustOpen(t, p.Open)
	apply(t, e, "+a=1 +b=2 +b\x00=3 +ba=4 +c=5 +\xff=6")
	for _, c := range []struct{ lower, upper, want string }{
		{"", "", "a=1 b=2 b\x00=3 ba=4 c=5 \xff=6"},
		{"b", "", "b=2 b\x00=3 ba=4 c=5 \xff=6"},
		{"", "b", "a=1"},
		{"b", "c", "b=2 b\x00=3 ba=4"},
		{"b\x00", "ba", "b\x00=3"},
		{"aa", "az", ""},
		{"b", "b", ""},
		{"c", "b", ""},
		{"d", "", "\xff=6"},
		{"\xff\xff", "", ""},
	} {
		if got := dump(t, e, c.lower, c.upper, false); got != c.want {
			t.Errorf("Scan(%q, %q) = %q, want %q", c.lower, c.upper, got, c.want)
		}
		words := strings.Fields(c.want)
		for i, j := 0, len(words)-1; i < j; i, j = i+1, j-1 {
			words[i], words[j] = words[j], words[i]
		}
		if got, want := dump(t, e, c.lower, c.upper, true), strings.Join(words, " "); got != want {
			t.Errorf("Scan(%q, %q) backwards = %q, want %q", c.lower, c.upper, got, want)
		}
	}
}

func testScanEnds(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	apply(t, e, "+a=1 +b=2 +c=3")
	n := 0
	err := e.Scan(ctx, nil, nil, false, func(_, _ []byte) (bool, error) { n++; return n < 2, nil })
	if n != 2 || err != nil {
		t.Errorf("stopped after %d keys with %v", n, err)
	}
	own := errors.New("own")
	if err := e.Scan(ctx, nil, nil, true, func(_, _ []byte) (bool, error) { return true, own }); !errors.Is(err, own) {
		t.Errorf("the visit's error became %v", err)
	}
	// A visit may read and write the same engine; the scan does not see it.
	n = 0
	err = e.Scan(ctx, nil, nil, false, func(k, v []byte) (bool, error) {
		n++
		if got, err := e.Get(ctx, k); err != nil || !bytes.Equal(got, v) {
			t.Errorf("Get(%q) in a visit = %q, %v", k, got, err)
		}
		_, err := e.Apply(ctx, batch(fmt.Sprintf("+z%d=new", n)))
		return n < 100, err
	})
	if n != 3 || err != nil {
		t.Errorf("visited %d keys with %v, want 3", n, err)
	}
}

func testSnapshot(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	apply(t, e, "+a=1 +b=2")
	s, err := e.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, e, "+a=x -b +c=3")
	wantAll(t, s, "a=1 b=2")
	if v, err := s.Get(ctx, []byte("b")); string(v) != "2" || err != nil {
		t.Errorf("Get in the snapshot = %q, %v", v, err)
	}
	if _, err := s.Get(ctx, []byte("c")); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("Get of a later key in the snapshot: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, []byte("a")); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Get in a closed snapshot: %v", err)
	}
	wantAll(t, e, "a=x c=3")
}
