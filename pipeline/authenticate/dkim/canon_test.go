package dkim

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
)

// slowBody is RFC 6376 section 3.4.3 and 3.4.4 word by word.
func slowBody(body string, relaxed bool) string {
	lines := strings.Split(body, "\r\n")
	if relaxed {
		for i, line := range lines {
			line = regexp.MustCompile(`[ \t]+`).ReplaceAllString(line, " ")
			lines[i] = strings.TrimRight(line, " ")
		}
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		if relaxed {
			return ""
		}
		return "\r\n"
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

// slowField is section 3.4.2 word by word.
func slowField(raw string) string {
	name, value, _ := strings.Cut(strings.TrimSuffix(raw, "\r\n"), ":")
	var lower []byte
	for _, c := range []byte(strings.TrimRight(name, " \t")) { // octets, not letters
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	value = strings.ReplaceAll(value, "\r\n", "")
	value = regexp.MustCompile(`[ \t]+`).ReplaceAllString(value, " ")
	return string(lower) + ":" + strings.Trim(value, " ") + "\r\n"
}

// pieces writes a body in pieces of one size.
func pieces(body string, size int) *Body {
	b := &Body{}
	b.Want(true)
	b.Want(false)
	for len(body) > 0 {
		n := min(size, len(body))
		b.Write([]byte(body[:n]))
		body = body[n:]
	}
	b.Close()
	return b
}

func checkBody(t *testing.T, body string) {
	t.Helper()
	for _, relaxed := range []bool{false, true} {
		want := slowBody(body, relaxed)
		for _, size := range []int{1, 2, 3, 7, 4096, 1 << 20} {
			sum, n, ok := pieces(body, size).Sum(relaxed)
			if !ok || sum != sha256.Sum256([]byte(want)) || n != int64(len(want)) {
				t.Fatalf("%q, relaxed %v, pieces of %d: %d octets, want %d: %q", body, relaxed, size, n, len(want), want)
			}
		}
	}
}

func TestBody(t *testing.T) {
	for _, body := range []string{
		"", "\r\n", "\r\n\r\n", "x", "x\r\n", "x\r\n\r\n\r\n", " \r\n", " ", "\t \r\n \r\n", " C \r\nD \t E\r\n\r\n\r\n", // section 3.4.5
		"x\ry", "x\r", "\r", "\r\r\n", "\r\r\r\n\r", "x\ny\n", "\n", "x \r", "x \ry ", " x", "\r\n x", "a\r\n\r\n\r\nb", "a \r\n\t\r\n b\t",
		strings.Repeat("x", 4096) + " ", strings.Repeat("x", 4095) + " y", strings.Repeat(" ", 9000) + "y", strings.Repeat("\r\n", 5000) + "z", strings.Repeat("word ", 3000),
	} {
		checkBody(t, body)
	}
	var none Body
	if _, _, ok := none.Sum(true); ok || none.Wants() {
		t.Error("a form that nobody wanted")
	}
}

func FuzzBody(f *testing.F) {
	for _, s := range []string{" C \r\nD \t E\r\n\r\n\r\n", "\r\r\n \r", "x\r\n\r\n \ty", ""} {
		f.Add(s)
	}
	f.Fuzz(checkBody)
}

func FuzzField(f *testing.F) {
	for _, s := range []string{"A: X\r\n", "B : Y\t\r\n\tZ  \r\n", "C:\r\n", ": x", "Subject:  a\r\n \r\n b \r\n"} { // section 3.4.5
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if !strings.Contains(raw, ":") {
			return
		}
		if got, want := string(AppendField(nil, []byte(raw), true)), slowField(raw); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
		if got, want := string(AppendField(nil, []byte(raw), false)), strings.TrimSuffix(raw, "\r\n")+"\r\n"; got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	})
}

// slowPick takes fields for h= as section 5.4.2 has it.
func slowPick(fields []pipeline.Field, names string) (out string) {
	used := make([]bool, len(fields))
	for _, name := range strings.Split(names, ":") {
		for i := len(fields) - 1; i >= 0; i-- {
			if !used[i] && fields[i].Name != "" && strings.EqualFold(fields[i].Name, name) {
				used[i] = true
				out += slowField(string(fields[i].Raw))
				break
			}
		}
	}
	return out
}

func FuzzPick(f *testing.F) {
	f.Add("From\nTo\nto\nSubject\n\nTO", "to:from:to:to:to:x:subject:To")
	f.Fuzz(func(t *testing.T, lines, names string) {
		var fields []pipeline.Field
		for i, name := range strings.Split(lines, "\n") {
			if i == 300 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
				return
			}
			fields = append(fields, pipeline.Field{Name: name, Raw: []byte(name + ": " + strings.Repeat("x", i) + "\r\n")})
		}
		for _, r := range names {
			if r > '~' { // which is equal to something else by letters, not by octets
				return
			}
		}
		h := NewHeader(fields)
		for range 2 { // one signature leaves nothing behind for the next
			digest := sha256.New()
			h.write(digest, names, true)
			if want := sha256.Sum256([]byte(slowPick(fields, names))); !bytes.Equal(digest.Sum(nil), want[:]) {
				t.Fatalf("%q from %q", names, lines)
			}
		}
	})
}

// TestManyNames: fields are found by an index, so that names and fields cost their sum and not their product.
func TestManyNames(t *testing.T) {
	var fields []pipeline.Field
	for range 200_000 {
		fields = append(fields, pipeline.Field{Name: "X", Raw: []byte("X: y\r\n")})
	}
	h := NewHeader(fields)
	digest := sha256.New()
	h.write(digest, strings.Repeat("x:", 300_000), false)
	want := sha256.Sum256([]byte(strings.Repeat("X: y\r\n", 200_000)))
	if !bytes.Equal(digest.Sum(nil), want[:]) {
		t.Error("the fields are not all there")
	}
}

func BenchmarkBody(b *testing.B) {
	text := strings.Repeat("A line of a body, as long as lines in bodies usually are.\r\n", 70)
	blocks := strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 54)
	for _, test := range []struct {
		name, body string
		relaxed    bool
	}{{"text-relaxed", text, true}, {"text-simple", text, false}, {"base64-relaxed", blocks, true}} {
		b.Run(test.name, func(b *testing.B) {
			data := []byte(test.body)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var body Body
				body.Want(test.relaxed)
				body.Write(data)
				body.Close()
			}
		})
	}
}
