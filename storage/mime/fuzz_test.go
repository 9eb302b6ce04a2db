package mime

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
)

func addMails(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.eml")
	for _, name := range files {
		f.Add([]byte(readMail(f, name)))
	}
}

// FuzzParse: whatever arrives, the Summary has the promised shape, survives its
// stored form, and every section can be read.
func FuzzParse(f *testing.F) {
	addMails(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		msg := string(data)
		s := Parse(strings.NewReader(msg), int64(len(msg)), Limits{Parts: 50, Depth: 10, HeaderOctets: 4096})
		checkShape(t, msg, s)
		checkCodec(t, s)
		checkSections(t, msg, "F: r\r\n", s)
	})
}

// FuzzDecode: hostile stored bytes are an error or a Summary of the right shape.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.eml")
	for _, name := range files {
		b, err := parse(readMail(f, name)).AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		var walk func(p *Part)
		walk = func(p *Part) {
			if p.HeaderStart < 0 || p.BodyStart < p.HeaderStart || p.BodyEnd < p.BodyStart || p.BodyEnd > s.Size {
				t.Fatalf("%+v", p)
			}
			if p.Multipart() && len(p.Children) == 0 || p.Embedded != nil && len(p.Children) != 1 {
				t.Fatalf("%+v", p)
			}
			for _, c := range p.Children {
				walk(c)
			}
		}
		walk(s.Root)
	})
}

// FuzzAddresses: no panic, and nothing that IMAP would misread.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{`A B <a@b>`, `G: a@b, "x" <c@d>;`, `<@x,@y:a@b>`, `a@[1]`, `(c) a . b @ c . d`, `"\`, `a@b@c;;:`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		open := false
		for _, a := range Addresses(s, 100000) {
			if a.Host == "" {
				if open == (a.Mailbox != "") {
					t.Fatalf("%q: group out of order", s)
				}
				open = a.Mailbox != ""
			}
		}
		if open {
			t.Fatalf("%q: group left open", s)
		}
	})
}

// FuzzDecoder: no panic, and the output does not depend on how the input is cut.
func FuzzDecoder(f *testing.F) {
	f.Add("a=41=\r\n b \t\r\n=", true)
	f.Add("aGVsbG8=\r\n!aa", false)
	f.Fuzz(func(t *testing.T, s string, qp bool) {
		enc := "base64"
		if qp {
			enc = "quoted-printable"
		}
		read := func(r io.Reader) string {
			d, err := Decoder(enc, r)
			if err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(d)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		if a, b := read(strings.NewReader(s)), read(iotest(s)); a != b {
			t.Fatalf("%q: %q and %q", s, a, b)
		}
	})
}
