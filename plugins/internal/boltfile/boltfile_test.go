package boltfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// filled is a file with entries on many pages, in two buckets, one inside the other, and the number of octets that are in use.
func filled(t *testing.T) (octets []byte, used int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("b"))
		if err != nil {
			return err
		}
		inner, err := b.CreateBucket([]byte("inner"))
		for i := 0; i < 4000 && err == nil; i++ {
			if err = b.Put(fmt.Appendf(nil, "k%d", i), bytes.Repeat([]byte{byte(i)}, 50)); err == nil {
				err = inner.Put(fmt.Appendf(nil, "i%d", i), []byte{})
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = db.View(func(tx *bolt.Tx) error { used = int(tx.Size()); return nil })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if octets, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return octets, used
}

// TestDamage: whatever is in the file, it is opened and can be read, or there is an error that says what to do; the process
// lives on. (A panic locks the file until the process ends, so each try has a file of its own.)
func TestDamage(t *testing.T) {
	whole, used := filled(t)
	random := rand.New(rand.NewPCG(3, 4))
	garbage := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	over := func(at, n int) []byte {
		b := bytes.Clone(whole)
		copy(b[at:], garbage(n))
		return b
	}
	type damage struct {
		name    string
		content []byte
		must    bool // be found
	}
	tries := []damage{
		{"whole", whole, false}, {"text", []byte("this is no database\n"), true}, {"garbage", garbage(len(whole)), true},
		{"both meta pages", over(0, 8192), true}, {"the half", whole[:len(whole)/2], true},
		{"first page", whole[:4096], true}, {"all but the last octet", whole[:used-1], true},
	}
	for page := 2; page < len(whole)/4096; page += 7 {
		tries = append(tries, damage{fmt.Sprint("page ", page), over(page*4096, 4096), false}, // it may be a free one
			damage{fmt.Sprint("inside page ", page), over(page*4096+16, 400), false})
	}
	found := 0
	for _, try := range tries {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, try.content, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, time.Second)
		if err == nil {
			if try.must {
				t.Errorf("%s: it was not found", try.name)
			}
			_ = db.Close()
			continue
		}
		found++
		if text := err.Error(); try.name == "whole" || !strings.Contains(text, path+": the file is damaged (") || !strings.Contains(text, "remove it") || strings.Contains(text, "\n") {
			t.Errorf("%s: %v", try.name, err)
		}
	}
	if found < len(tries)/3 {
		t.Errorf("only %d of %d were found", found, len(tries))
	}
}

// TestBirth: what a crash or a full disk leaves of a new file is no reason not to start.
func TestBirth(t *testing.T) {
	for name, content := range map[string]map[string]string{
		"nothing": {}, "empty": {"x.db": ""}, "zeros": {"x.db": strings.Repeat("\x00", 16384)}, "draft": {"x.db.new": "half"}, "draft of zeros": {"x.db.new": strings.Repeat("\x00", 16384)},
	} {
		dir := t.TempDir()
		for file, text := range content {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db, err := Open(filepath.Join(dir, "x.db"), time.Second)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = db.Close()
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: %v %v", name, left, err)
		}
	}
}

// TestHeld: a file that somebody else has, or that is none, is no damage.
func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	whole, _ := filled(t)
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), "another process has held it for 100ms") {
		t.Error(err)
	}
	if err := os.Mkdir(path+".dir", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path+".dir", 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), "is a directory") || strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	if _, err := Open("/proc/none/x.db", time.Second); err == nil || !strings.Contains(err.Error(), "/proc/none") {
		t.Error(err)
	}
}
