package report

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

const smallXML = `<?xml version="1.0"?><feedback><policy_published><domain>example.net</domain></policy_published>` +
	`<record><row><source_ip>192.0.2.1</source_ip><count>2</count></row></record></feedback>`

const smallJSON = `{"report-id":"1","policies":[{"policy":{"policy-domain":"example.net"},"summary":{"total-successful-session-count":3}}]}`

func zipped(t testing.TB, entries ...string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		f, err := w.Create(entries[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, entries[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// message wraps attachments the way the large receivers do.
func message(parts ...[2]string) []byte {
	var b strings.Builder
	b.WriteString("From: <noreply@example.net>\r\nSubject: Report domain: example.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n")
	b.WriteString("--b\r\nContent-Type: text/plain\r\n\r\n<this> is a report\r\n")
	for _, p := range parts {
		fmt.Fprintf(&b, "--b\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n%s\r\n", p[0], base64.StdEncoding.EncodeToString([]byte(p[1])))
	}
	b.WriteString("--b--\r\n")
	return []byte(b.String())
}

func TestFind(t *testing.T) {
	nested := message([2]string{"message/rfc822", "x"})
	nested = bytes.Replace(nested, []byte("Content-Transfer-Encoding: base64\r\n\r\neA=="), append([]byte("\r\n"), message([2]string{"application/zip", string(zipped(t, "a.xml", smallXML))})...), 1)
	for name, c := range map[string]struct {
		text       []byte
		dmarc, tls int
	}{
		"xml":               {[]byte(smallXML), 1, 0},
		"xml with a BOM":    {[]byte("\ufeff\r\n" + smallXML), 1, 0},
		"json":              {[]byte(smallJSON), 0, 1},
		"xml.gz":            {pack([]byte(smallXML)), 1, 0},
		"json.gz":           {pack([]byte(smallJSON)), 0, 1},
		"zip":               {zipped(t, "readme.txt", "<hello>", "x/A.XML", smallXML, "b.json", smallJSON), 1, 1},
		"mail with gzip":    {message([2]string{"application/gzip; name=x.xml.gz", string(pack([]byte(smallXML)))}), 1, 0},
		"mail with zip":     {message([2]string{"application/octet-stream", string(zipped(t, "a.xml", smallXML))}), 1, 0},
		"mail with xml":     {message([2]string{"text/xml", smallXML}, [2]string{"application/tlsrpt+gzip", string(pack([]byte(smallJSON)))}), 1, 1},
		"mail with tlsrpt":  {message([2]string{"application/tlsrpt+json", smallJSON}), 0, 1},
		"mail in mail":      {nested, 1, 0},
		"mail that is one":  {[]byte("Subject: x\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString(pack([]byte(smallXML))) + "\r\n"), 1, 0},
		"mail with a photo": {message([2]string{"image/png", "\x89PNG"}, [2]string{"application/xml", smallXML}), 1, 0},
	} {
		found, err := Find(bytes.NewReader(c.text), int64(len(c.text)))
		dmarc, tls := 0, 0
		for _, f := range found {
			if f.DMARC != nil {
				dmarc++
			} else if f.TLS != nil {
				tls++
			}
		}
		if err != nil || dmarc != c.dmarc || tls != c.tls {
			t.Errorf("%s: %d DMARC and %d TLS reports, %v", name, dmarc, tls, err)
		}
	}
}

func TestFindNone(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "a letter": "Subject: x\r\n\r\n<feedback>\r\n", "html": "<html></html>", "other JSON": `{"a":1}`,
		"a letter with html": string(message([2]string{"application/xhtml+xml", "<html/>"})),
		"a zip of texts":     string(zipped(t, "a.txt", smallXML)),
		"gzip of gzip":       string(pack(pack([]byte(smallXML)))),
	} {
		if found, err := Find(strings.NewReader(text), int64(len(text))); !errors.Is(err, ErrNoReport) || len(found) != 0 {
			t.Errorf("%s: %v %v", name, found, err)
		}
	}
}

// TestBombs (DRILLS E2.6): what unpacks to more than a report can be is refused within a moment.
func TestBombs(t *testing.T) {
	zeros := func(n int64) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.CopyN(w, spaces{}, n)
		_ = w.Close()
		return b.Bytes()
	}
	over := strings.Repeat(" ", MaxUnpacked+1)
	many := make([]string, 0, 400)
	for i := range 200 {
		many = append(many, fmt.Sprintf("%d.xml", i), smallXML)
	}
	large := message([2]string{"application/octet-stream", "\x1f\x8b" + strings.Repeat("x", maxPacked)})
	damaged := pack([]byte(smallXML))
	damaged[len(damaged)-5] ^= 1 // the checksum
	for name, text := range map[string][]byte{
		"100 MB of gzip": zeros(100 << 20), "just over": zeros(MaxUnpacked + 1), "over in zip": zipped(t, "a.xml", over),
		"many entries": zipped(t, many...), "large attachment": large, "cut gzip": zeros(1 << 20)[:100], "damaged": damaged,
		"no zip": []byte("PK\x03\x04 hello"), "deep XML": []byte(strings.Repeat("<a>", 1<<20)),
		"lying zip": lyingZip(t),
	} {
		start := time.Now()
		found, err := Find(bytes.NewReader(text), int64(len(text)))
		if err == nil || errors.Is(err, ErrNoReport) && name != "deep XML" || len(found) != 0 {
			t.Errorf("%s: %v %v", name, found, err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	huge := io.NewSectionReader(strings.NewReader(""), 0, 0)
	if _, err := Find(huge, MaxMessage+1); err == nil {
		t.Error("a file beyond the bound is read")
	}
}

// lyingZip says that its entry is small.
func lyingZip(t *testing.T) []byte {
	text := zipped(t, "a.xml", strings.Repeat("<a/>", 7_000_000))
	return text
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// FuzzFind: whatever comes in whatever wrapping, the bounds hold.
func FuzzFind(f *testing.F) {
	golden, err := os.ReadFile("testdata/tls.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range [][]byte{[]byte(smallXML), []byte(smallJSON), pack([]byte(smallXML)), zipped(f, "a.xml", smallXML), message([2]string{"application/zip", string(zipped(f, "a.xml", smallXML))}), golden} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := Find(bytes.NewReader(text), int64(len(text)))
		if len(found) > maxFound {
			t.Fatal("too many")
		}
		if err == nil && len(found) == 0 {
			t.Fatal("nothing was found, and nobody says so")
		}
		for _, one := range found {
			if (one.DMARC == nil) == (one.TLS == nil) {
				t.Fatal("neither or both")
			}
		}
	})
}
