package plain

import "testing"

func TestLine(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"a\r\n\tb\x00\u0085c", 100, "a   b  c"},
		{"  \n x \t", 100, "x"},
		{"\xffa\xc3", 100, "\uFFFDa\uFFFD"},
		{"äöü", 5, "äö"},
		{"äöü", 4, "äö"},
		{"äöü", 1, ""},
		{"abc", 3, "abc"},
		{"\xff\xff\xff", 3, "\uFFFD"},
		{"", 0, ""},
	} {
		if got := Line(c.text, c.limit); got != c.want {
			t.Errorf("Line(%q, %d) = %q, want %q", c.text, c.limit, got, c.want)
		}
	}
}

func TestValue(t *testing.T) {
	if got := Value(" a\r\nb: c\xff\x7fü\t"); got != "a??b: c??ü?" {
		t.Errorf("%q", got)
	}
	if got := ASCII("Go\taway, ü"); got != "Go?away, ?" {
		t.Errorf("%q", got)
	}
}
