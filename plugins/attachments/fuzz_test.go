package attachments

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// FuzzLook: no octets crash it, and its work is bounded.
func FuzzLook(f *testing.F) {
	f.Add("a.zip", zipped(f, file{name: "b.exe", octets: program}))
	f.Add("a.tar.gz", gzipped(f, tarred(f, file{name: "b", octets: program})))
	f.Add("a.rar", rarred("b", program, 0))
	f.Add("a.7z", []byte("7z\xbc\xaf\x27\x1c\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x17\x06\x00\x01\x09\x05\x00\x23\x03\x01\x01\x05\x5d\x00\x00\x01\x00\x0c\x10"))
	f.Add("a.xz", []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16"))
	f.Add("a.doc", []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"))
	p := configured(f, map[string]any{"limits": map[string]any{"octets": "1MB", "time": "1s", "files": int64(100)}})
	f.Fuzz(func(t *testing.T, name string, octets []byte) {
		v := ask(t, p, file{name: name, octets: octets})
		if len(v.Reasons) > maxFindings+10 {
			t.Errorf("%d reasons", len(v.Reasons))
		}
		for _, r := range v.Reasons {
			if strings.ContainsAny(r.Text, "\r\n\x00\x1b") {
				t.Errorf("%q is not fit for a log", r.Text)
			}
		}
	})
}

func BenchmarkPlain(b *testing.B) {
	p := configured(b, nil)
	octets := bytes.Repeat([]byte("a line of text\r\n"), 256)
	parsed := &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "text/plain", Length: int64(len(octets)), Text: string(octets)}}}
	b.SetBytes(int64(len(octets)))
	for range b.N {
		askAbout(b, p, octets, parsed)
	}
}
