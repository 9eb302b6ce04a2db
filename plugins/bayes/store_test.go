package bayes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestExpire: a table that is too large loses what nobody learned for longest, then the rarest, and keeps its count.
func TestExpire(t *testing.T) {
	s := newStore(t)
	s.db.NoSync = true
	limits := defaults().limits()
	limits.tokens = 10000
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	learn := func(text string, day int) {
		t.Helper()
		if _, err := s.learn(siteName, "", spam, tokenize(s.k0, s.k1, []byte("\n"+text)), limits, begin.AddDate(0, 0, day)); err != nil {
			t.Fatal(err)
		}
	}
	most := uint64(0)
	for day := range 40 {
		var text strings.Builder
		for i := range 300 {
			fmt.Fprintf(&text, "d%dx%dq. ", day, i)
		}
		learn("always here "+text.String(), day)
		if err := s.db.View(func(tx *bolt.Tx) error {
			d := view(tx, siteName)
			n := uint64(d.tokens.Stats().KeyN)
			if n != d.counts.Tokens || n > limits.tokens {
				t.Errorf("day %d: %d tokens, counted %d", day, n, d.counts.Tokens)
			}
			most = max(most, n)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	find := func(word string) bool {
		found := false
		tok := tokenizer{k0: s.k0, k1: s.k1}
		_ = s.db.View(func(tx *bolt.Tx) error {
			found = view(tx, siteName).tokens.Get(tokenKey(tok.hash("", word))) != nil
			return nil
		})
		return found
	}
	if !find("always") || !find("d39x1q") || find("d0x1q") || most < limits.tokens/2 {
		t.Errorf("always %v, the newest %v, the oldest %v, at most %d", find("always"), find("d39x1q"), find("d0x1q"), most)
	}
}

// TestLessonsAreBounded: the records of messages too.
func TestLessonsAreBounded(t *testing.T) {
	s := newStore(t)
	s.db.NoSync = true
	limits := defaults().limits()
	limits.lessons = 50
	for i := range 120 {
		if _, err := s.learn(siteName, "", spam, tokenize(s.k0, s.k1, []byte(letter(spam, i))), limits, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.db.View(func(tx *bolt.Tx) error {
		d := view(tx, siteName)
		if n, m := d.lessons.Stats().KeyN, d.order.Stats().KeyN; n != 50 || m != 50 || d.counts.Spam != 120 {
			t.Errorf("%d records, %d in order, %+v", n, m, d.counts)
		}
		return nil
	})
}

// TestOpen: another program's file, a newer format, a file in use.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put([]byte("version"), []byte{2}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("a newer format: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bayes.db"), []byte(strings.Repeat("this is no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(t.Context(), dir); err == nil {
		t.Error("a text file was opened")
	}
}

const killedDir = "BAYES_TEST_KILLED_DIR"

// TestKilled: lessons that were answered survive kill -9 at any moment, and the table matches them.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		learnForever(t, dir)
		return
	}
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(150+round*70) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		told := uint64(0)
		if text, err := os.ReadFile(filepath.Join(dir, "told")); err == nil {
			told = uint64(len(strings.Fields(string(text))))
		}
		s, err := openStore(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.db.View(func(tx *bolt.Tx) error {
			d := view(tx, siteName)
			if d == nil {
				if told > 0 {
					t.Errorf("round %d: %d told, none kept", round, told)
				}
				return nil
			}
			if d.counts.Spam < told || d.counts.Spam > told+uint64(round)+1 || uint64(d.tokens.Stats().KeyN) != d.counts.Tokens {
				t.Errorf("round %d: %d told, %+v, %d tokens", round, told, d.counts, d.tokens.Stats().KeyN)
			}
			return nil
		})
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if round == 4 && told == 0 {
			t.Error("nothing was learned in five rounds")
		}
	}
}

func learnForever(t *testing.T, dir string) {
	s, err := openStore(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	told, err := os.OpenFile(filepath.Join(dir, "told"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		text := letter(spam, os.Getpid()*1000+i)
		if _, err := s.learn(siteName, "", spam, tokenize(s.k0, s.k1, []byte(text)), defaults().limits(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := told.WriteString(strconv.Itoa(i) + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}
