package scan

import (
	stdbase64 "encoding/base64"
	"errors"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"
)

const needle = "SLUICE-needle+with=signs/and.more"

func base64Lines(s string, width int) string {
	enc := stdbase64.StdEncoding.EncodeToString([]byte(s))
	var b strings.Builder
	for len(enc) > width {
		b.WriteString(enc[:width] + "\r\n")
		enc = enc[width:]
	}
	return b.String() + enc + "\r\n"
}

func quotedPrintable(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String() + "\r\n"
}

func everyEscaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString("=" + string("0123456789abcdef"[s[i]>>4]) + string("0123456789ABCDEF"[s[i]&15]))
		if i%20 == 19 {
			b.WriteString("= \t\r\n")
		}
	}
	return b.String()
}

const head = "Subject: Hello\r\nContent-Transfer-Encoding: base64\r\n\r\n"

func TestFind(t *testing.T) {
	part := "--bound_ARY=1\r\nContent-Type: x/y\r\nContent-Transfer-Encoding: base64\r\n\r\n"
	long := strings.Repeat("some text before it, ", 5000)
	for name, c := range map[string]struct {
		text string
		want bool
	}{
		"nothing":             {head + "no such thing\r\n", false},
		"raw":                 {head + "x" + needle + "y\r\n", true},
		"in the header":       {"Subject: " + needle + "\r\n\r\n", true},
		"split by a line":     {head + needle[:10] + "\r\n" + needle[10:] + "\r\n", false},
		"base64":              {head + base64Lines(needle, 76), true},
		"base64, far":         {head + base64Lines(long+needle, 76), true},
		"base64, phase 1":     {head + base64Lines("1"+needle, 76), true},
		"base64, phase 2":     {head + base64Lines("12"+needle+"345", 76), true},
		"base64, odd lines":   {head + base64Lines(long+needle, 61), true},
		"base64, bare lines":  {strings.ReplaceAll(head+base64Lines(needle, 5), "\r\n", "\n"), true},
		"base64 with noise":   {head + strings.ReplaceAll(base64Lines(long+needle, 40), "a", "!a*"), true},
		"base64 part":         {"A: b\r\n\r\npreamble\r\n" + part + base64Lines(needle, 76) + "--bound_ARY=1--\r\n", true},
		"base64, second part": {"A: b\r\n\r\n" + part + base64Lines("other", 76) + part + base64Lines(needle, 76), true},
		"no blank after end":  {head + base64Lines("a", 76) + base64Lines(needle, 76), true},
		"padding inside":      {head + "YQ==" + base64Lines(needle, 76), true},
		"quoted":              {head + quotedPrintable(needle), true},
		"quoted, broken":      {head + quotedPrintable(strings.Repeat("ü", 20)+needle), true},
		"quoted, all":         {head + everyEscaped(needle), true},
		"quoted, wrong":       {head + strings.ReplaceAll(needle, "=", "=3"), false},
		"twice encoded":       {head + base64Lines(base64Lines(needle, 76), 76), false},
	} {
		for _, way := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader,
		} {
			got, err := Find(way(strings.NewReader(c.text)), needle)
			if err != nil || got != c.want {
				t.Errorf("%s: %v %v, expected %v", name, got, err, c.want)
			}
		}
	}
}

func TestFindError(t *testing.T) {
	broken := errors.New("broken")
	_, err := Find(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)), needle)
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// FuzzFind: how the octets are cut makes no difference, and a string that is there plainly or in
// a body of its own is always found.
func FuzzFind(f *testing.F) {
	f.Add("Subject: x", "body\r\n--\r\n=3D", 3)
	f.Add(head, base64Lines("abc"+needle, 76), 1)
	f.Add("", quotedPrintable("ü"+needle), 7)
	f.Fuzz(func(t *testing.T, before, after string, cut int) {
		if cut < 1 {
			cut = 1
		}
		whole := NewFinder(needle)
		pieces := NewFinder(needle)
		text := before + after
		_, _ = whole.Write([]byte(text))
		for rest := text; len(rest) > 0; {
			n := min(cut, len(rest))
			_, _ = pieces.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		if whole.Found() != pieces.Found() {
			t.Fatalf("in one piece %v, in pieces of %d %v", whole.Found(), cut, pieces.Found())
		}
		for name, body := range map[string]string{
			"raw": needle, "base64": base64Lines(needle, 76), "quoted": everyEscaped(needle),
		} {
			if ok, _ := Find(strings.NewReader(before+"\r\n\r\n"+body+after), needle); !ok {
				t.Fatalf("%s not found after %q", name, before)
			}
		}
	})
}

func BenchmarkFind4K(b *testing.B) {
	text := head + strings.Repeat("A line of ordinary text that has = here and there.\r\n", 80)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		_, _ = Find(strings.NewReader(text), needle)
	}
}
