package memo_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/memo"
)

func TestMemo(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *pebble.Engine {
		engine, err := pebble.Open(pebble.Options{Dir: "data", FS: fs, MinFree: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return engine
	}
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	engine := open()
	m := memo.New(engine, "tls", 100, clock)
	set := func(key, value string, life time.Duration) {
		t.Helper()
		if err := m.Set(t.Context(), key, []byte(value), now.Add(life)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(key, value string) {
		t.Helper()
		got, err := m.Get(t.Context(), key)
		if err != nil || string(got) != value || value == "" && got != nil {
			t.Errorf("%s = %q, %v, want %q", key, got, err, value)
		}
	}
	set("a", "one", time.Hour)
	set("a", "two", time.Hour)
	set("b", "short", time.Minute)
	want("a", "two")
	want("b", "short")
	want("c", "")
	now = now.Add(time.Minute)
	want("b", "") // at its end it is over
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	engine = open()
	defer engine.Close()
	m = memo.New(engine, "tls", 100, clock)
	if err := m.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("a", "two")
	if got, err := memo.New(engine, "tl", 10, clock).Get(t.Context(), "s/a"); got != nil || err != nil {
		t.Error("one room sees another's")
	}
	for i := range 1000 { // strangers' names never take more than the limit, and what lives longest stays
		set(fmt.Sprintf("stranger%d", i), "x", time.Minute)
	}
	want("a", "two")
	if err := m.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range 1000 {
		if got, err := m.Get(t.Context(), fmt.Sprintf("stranger%d", i)); got != nil && err == nil {
			n++
		}
	}
	if n == 0 || n > 100 {
		t.Errorf("%d facts are kept, the limit is 100", n)
	}
	if err := m.Set(t.Context(), "large", make([]byte, memo.MaxValue+1), now.Add(time.Hour)); err == nil {
		t.Error("a value beyond the limit was taken")
	}
}
