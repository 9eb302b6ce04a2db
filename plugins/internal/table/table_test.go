package table

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Table {
	t.Helper()
	tab, err := Open(dir, "things")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tab.Close() })
	return tab
}

func put(t *testing.T, tab *Table, key, value string) {
	t.Helper()
	if err := tab.Update(key, func([]byte) []byte { return []byte(value) }); err != nil {
		t.Fatal(err)
	}
}

// TestLikeAMap holds a table against a map through random changes, flushes and restarts.
func TestLikeAMap(t *testing.T) {
	dir, want := t.TempDir(), map[string]string{}
	tab := open(t, dir)
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 3000 {
		key := fmt.Sprint("k", random.IntN(50))
		switch random.IntN(20) {
		case 0:
			if err := tab.Sync(); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := tab.Close(); err != nil {
				t.Fatal(err)
			}
			tab = open(t, dir)
		case 2, 3, 4:
			delete(want, key)
			if err := tab.Update(key, func([]byte) []byte { return nil }); err != nil {
				t.Fatal(err)
			}
		default:
			want[key] = fmt.Sprint(step)
			put(t, tab, key, want[key])
		}
		if v, err := tab.Get(key); err != nil || string(v) != want[key] || (v == nil) != (want[key] == "") {
			t.Fatalf("step %d: %q %v, want %q", step, v, err, want[key])
		}
	}
	got := map[string]string{}
	if err := tab.Each(func(k string, v []byte) bool { got[k] = string(v); return true }); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

func TestSweep(t *testing.T) {
	tab := open(t, t.TempDir())
	for i := range 2500 {
		put(t, tab, fmt.Sprint(i), []string{"old", "new"}[i%2])
	}
	left, err := tab.Sweep(nil, func(v []byte) bool { return string(v) == "old" })
	if err != nil || left != 1250 {
		t.Errorf("%d left, %v", left, err)
	}
	if v, _ := tab.Get("0"); v != nil {
		t.Errorf("0 is still %q", v)
	}
	if v, _ := tab.Get("1"); string(v) != "new" {
		t.Errorf("1 is %q", v)
	}
}

// TestMemoryIsBounded: more changes than Pending go to disk without waiting for the clock.
func TestMemoryIsBounded(t *testing.T) {
	tab := open(t, t.TempDir())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for i := range Pending {
				_ = tab.Update(fmt.Sprint(w, "-", i), func([]byte) []byte { return []byte("x") })
			}
		}()
	}
	writers.Wait()
	tab.mu.Lock()
	n := len(tab.pending)
	tab.mu.Unlock()
	if n > Pending+4 {
		t.Errorf("%d changes in memory", n)
	}
}

func TestOpenComplains(t *testing.T) {
	if _, err := Open("", "things"); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Error(err)
	}
	if _, err := Open("/proc/none", "things"); err == nil {
		t.Error("opened a table where none can be")
	}
}

// TestSweepGoesToTheEnd: a flood's leavings go in one sweep, look-ups go on meanwhile, and Close does not wait.
func TestSweepGoesToTheEnd(t *testing.T) {
	tab := open(t, t.TempDir())
	const many = 130000
	for i := range many {
		put(t, tab, fmt.Sprintf("%d", i), []string{"old", "old", "old", "old", "old", "old", "old", "old", "old", "new"}[i%10])
	}
	old := func(v []byte) bool { return string(v) == "old" }
	stop := make(chan struct{})
	close(stop)
	if left, err := tab.Sweep(stop, old); err != ErrStopped || left != 0 {
		t.Errorf("stopped: %d left, %v", left, err)
	}
	if left, err := tab.Sweep(nil, old); err != nil || left != many/10 {
		t.Errorf("%d left, %v", left, err)
	}
	n := 0
	err := tab.Each(func(k string, v []byte) bool {
		n++
		got, err := tab.Get(k) // the table can be used meanwhile
		return err == nil && string(got) == "new" && string(v) == "new"
	})
	if err != nil || n != many/10 {
		t.Errorf("%d seen, %v", n, err)
	}
}

// TestUnborn: what a power failure left of a new file is no reason not to start; a file of something else is.
func TestUnborn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "things.db")
	for content, ok := range map[string]bool{"": true, strings.Repeat("\x00", 16384): true, strings.Repeat("x", 16384): false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		tab, err := Open(dir, "things")
		if (err == nil) != ok {
			t.Errorf("%.10q: %v", content, err)
		}
		if err == nil {
			_ = tab.Close()
		}
	}
}

// TestFullDisk: while there is no room changes stay in memory, which is told once; with room again they are written, and nothing is lost.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("it needs the right to mount a small disk: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	said, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdout
	os.Stdout = to
	defer func() { os.Stdout = before }()

	tab := open(t, dir)
	put(t, tab, "first", "1")
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not small")
	}
	const many = 5000
	for i := range many {
		put(t, tab, fmt.Sprint(i), "a value of some length")
	}
	lines := bufio.NewReader(said)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "things.db: changes stay in memory") || !strings.Contains(line, "no space left on device") {
		t.Errorf("%q %v", line, err)
	}
	if err := tab.Sync(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if v, err := tab.Get("4999"); err != nil || string(v) != "a value of some length" {
		t.Errorf("%q %v", v, err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "things.db: the changes are on disk again") {
		t.Errorf("%q %v", line, err)
	}
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	again, n := open(t, dir), 0
	if err := again.Each(func(string, []byte) bool { n++; return true }); err != nil || n != many+1 {
		t.Errorf("%d of %d are left: %v", n, many+1, err)
	}
	_ = again.Close()
}

// TestDiskFails: when nothing can be written, changes fail once memory is full, and soon.
func TestDiskFails(t *testing.T) {
	tab := open(t, t.TempDir())
	if err := tab.db.Close(); err != nil {
		t.Fatal(err)
	}
	tab.mu.Lock()
	for i := range Pending {
		tab.pending[fmt.Sprint(i)] = []byte("x")
	}
	tab.mu.Unlock()
	begin := time.Now()
	for range 1000 {
		if err := tab.Update("more", func([]byte) []byte { return []byte("y") }); err == nil {
			t.Fatal("a change that nothing could hold was taken")
		}
	}
	if spent := time.Since(begin); spent > time.Second {
		t.Errorf("1000 refusals took %s", spent)
	}
}
