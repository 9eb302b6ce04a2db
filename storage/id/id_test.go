package id

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRise(t *testing.T) {
	var s Source
	now := time.UnixMilli(1_800_000_000_000)
	last := ID{}
	for i := range 10000 {
		at := now.Add(time.Duration(i%100-50) * time.Millisecond) // the clock goes back, too
		got := s.New(at)
		if strings.Compare(string(got[:]), string(last[:])) <= 0 || got.String() <= last.String() {
			t.Fatalf("%v after %v", got, last)
		}
		last = got
	}
	if d := last.Time().Sub(now); d < 0 || d > time.Second {
		t.Errorf("the time of %v is %v off", last, d)
	}
}

func TestOverflow(t *testing.T) {
	s := Source{millis: 5, low: 1<<32 - 2}
	a, b := s.New(time.UnixMilli(5)), s.New(time.UnixMilli(5))
	if b.String() <= a.String() || b.Time().UnixMilli() != 6 {
		t.Errorf("%v and %v", a, b)
	}
}

func TestParse(t *testing.T) {
	var s Source
	want := s.New(time.Now())
	for _, text := range []string{want.String(), strings.ToLower(want.String()), strings.ReplaceAll(want.String(), "0", "o")} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "0123456789ABCDE", "0123456789ABCDEFG", "0123456789ABCDEU", "0123456789ABCDE\n", "0123456789ABCD\r\n", "ééééééééé"} {
		if got, err := Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%q) = %v, %v", bad, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("06GZZSN7T7CVC602")
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := Parse(text); err == nil {
			if again, err := Parse(i.String()); err != nil || again != i {
				t.Errorf("%q gives %v and then %v, %v", text, i, again, err)
			}
		}
	})
}
