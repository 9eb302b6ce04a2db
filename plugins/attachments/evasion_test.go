package attachments

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// raw asks about a message as the server would, with its own parse.
func raw(t testing.TB, p *plugin, lines ...string) sdk.Verdict {
	t.Helper()
	octets := []byte(strings.Join(lines, "\r\n") + "\r\n")
	return askAbout(t, p, octets, firstReading(octets))
}

// firstReading is a shared parse that knows one reading: the first of a repeated field, no names, and the boundary
// "b".
func firstReading(octets []byte) *sdk.Parsed {
	text := string(octets)
	body := func(from, to int) sdk.Part {
		header, _, _ := strings.Cut(text[from:to], "\r\n\r\n")
		part := sdk.Part{Type: "text/plain", Offset: int64(min(from+len(header)+4, to))}
		part.Length = int64(to) - part.Offset
		for _, line := range strings.Split(header, "\r\n") {
			key, value, _ := strings.Cut(line, ": ")
			value, _, _ = strings.Cut(value, ";")
			switch {
			case key == "Content-Type" && part.Type == "text/plain":
				part.Type = value
			case key == "Content-Transfer-Encoding" && part.Encoding == "":
				part.Encoding = value
			}
		}
		return part
	}
	root := body(0, len(text))
	root.Parent = -1
	parsed := &sdk.Parsed{Parts: []sdk.Part{root}}
	inside := text[root.Offset:]
	if end := strings.Index(inside, "\r\n--b--"); end >= 0 && strings.HasPrefix(root.Type, "multipart/") && root.Encoding == "" {
		at := int(root.Offset)
		for i, piece := range strings.Split(inside[:end], "--b\r\n") {
			if i > 0 {
				parsed.Parts = append(parsed.Parts, body(at, at+len(piece)))
			}
			at += len(piece) + len("--b\r\n")
		}
	}
	return parsed
}

func encoded(octets []byte) string { return base64.StdEncoding.EncodeToString(octets) }

// uuencoded writes a file in the old way.
func uuencoded(name string, octets []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "begin 644 %s\r\n", name)
	for len(octets) > 0 {
		n := min(45, len(octets))
		line := append(bytes.Clone(octets[:n]), 0, 0, 0)
		b.WriteByte(byte(' ' + n))
		for at := 0; at < n; at += 3 {
			v := uint32(line[at])<<16 | uint32(line[at+1])<<8 | uint32(line[at+2])
			for shift := 18; shift >= 0; shift -= 6 {
				b.WriteByte(byte(' ' + v>>shift&63))
			}
		}
		b.WriteString("\r\n")
		octets = octets[n:]
	}
	return b.String() + "`\r\nend"
}

func packedGzip(t testing.TB, name string, octets []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Name = name
	return packed(t, w, nil, &b, octets)
}

func tnef(name string, octets []byte) []byte {
	b := []byte("\x78\x9f\x3e\x22\x01\x00")
	attribute := func(id uint32, data []byte) {
		b = append(b, 2)
		b = binary.LittleEndian.AppendUint32(b, id)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
		b = append(append(b, data...), 0, 0)
	}
	attribute(attachTitle, []byte("A~1.TXT\x00"))
	attribute(attachData, octets)
	long := binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0, 0x1f, 0, 0x07, 0x37, 1, 0, 0, 0}, uint32(2*len(name)+2))
	attribute(attachment, append(append(long, wide(name)...), 0, 0))
	return b
}

// TestMessageEvasions: a program that reads the message in another way than the shared parse finds no more in it than
// this plugin.
func TestMessageEvasions(t *testing.T) {
	top := []string{"From: a@example.org", "MIME-Version: 1.0"}
	mixed := append(top, "Content-Type: multipart/mixed; boundary=b", "")
	inner := strings.Join(append(mixed, "--b", "Content-Type: application/octet-stream; name=x", "Content-Transfer-Encoding: base64", "", encoded(program), "--b--", ""), "\r\n")
	part := func(header string, body ...string) []string {
		return append(append(append(mixed, "--b", header, ""), body...), "--b--")
	}
	qp := "=4D=5A=90=00=03=00" + strings.Repeat("=00", 100)
	for name, lines := range map[string][]string{
		"name against filename": part("Content-Type: text/plain; name=a.exe\r\nContent-Disposition: attachment; filename=a.txt", "x"),
		"two names":             part("Content-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt; filename=a.exe", "x"),
		"in pieces":             part("Content-Disposition: attachment;\r\n filename*0=\"a.e\";\r\n filename*1=\"xe\"", "x"),
		"pieces out of order":   part("Content-Disposition: attachment;\r\n filename*2=\"xe\";\r\n filename*0=\"a\"; filename*1=.e", "x"),
		"pieces, extended":      part("Content-Disposition: attachment; filename*1*=%65xe; filename*0*=utf-8''a%2E", "x"),
		"an odd charset":        part("Content-Disposition: attachment; filename=\"=?windows-1251?q?=CF=2Eexe?=\"", "x"),
		"no charset that is":    part("Content-Disposition: attachment; filename=\"=?none?b?YS5leGU=?=\"", "x"),
		"words in two":          part("Content-Disposition: attachment; filename=\"=?utf-8?q?a=2Ee?=\r\n =?utf-8?q?xe?=\"", "x"),
		"a comment behind":      part("Content-Disposition: attachment; filename=a.exe (the text)", "x"),
		"something behind":      part("Content-Disposition: attachment; filename=\"a.exe\" .txt", "x"),
		"rar behind a picture":  part("Content-Type: image/gif; name=a.rar\r\nContent-Transfer-Encoding: base64", encoded(append([]byte("GIF89a"), rarred("b.exe", []byte("x"), 0)...))),
		"extended":              part("Content-Disposition: attachment; filename*=utf-8''a%2Eexe; filename=a.txt", "x"),
		"words":                 part("Content-Disposition: attachment; filename=\"=?utf-8?q?a=2Eexe?=\"", "x"),
		"a quote in between":    part("Content-Disposition: attachment; filename=\"a.txt\".exe", "x"),
		"a slash behind":        part("Content-Disposition: attachment; filename=\"a.exe/\"", "x"),
		"NUL":                   part("Content-Disposition: attachment; filename*=utf-8''a.exe%00.txt", "x"),
		"two encodings":         part("Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64", encoded(program)),
		"a comment":             part("Content-Transfer-Encoding: (x) base64 y", encoded(program)),
		"padding in front":      part("Content-Transfer-Encoding: base64", "QQ==", encoded(program)[:0]+encoded(append([]byte("PK\x03\x04"), program...)), "--b", "Content-Transfer-Encoding: base64", "", "TVqQAAMAAAAEAA==", encoded(make([]byte, 100))),
		"padding inside":        part("Content-Transfer-Encoding: base64", encoded(zipped(t, file{name: "a.exe"})), "QUJD"),
		"bad quoted-printable":  part("Content-Transfer-Encoding: quoted-printable", qp[:12]+"=ZZ"+qp[12:]),
		"a message in base64":   part("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", encoded([]byte(inner))),
		"a multipart in base64": append(top, "Content-Type: multipart/mixed; boundary=b", "Content-Transfer-Encoding: base64", "", encoded([]byte(inner[strings.Index(inner, "--b"):]))),
		"a message as a file":   part("Content-Type: application/octet-stream; name=x.eml\r\nContent-Transfer-Encoding: base64", encoded([]byte(inner))),
		"without its name":      part("Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64", encoded([]byte(inner))),
		"twice in base64": part("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", encoded([]byte(strings.Join(part(
			"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", encoded([]byte(inner))), "\r\n")))),
		"no boundary":   append(top, "Content-Type: multipart/mixed", "", inner[strings.Index(inner, "--b"):]),
		"in front":      append(append(mixed, "--c", "Content-Transfer-Encoding: base64", "", encoded(program), ""), "--b", "", "x", "--b--"),
		"behind":        append(part("Content-Type: text/plain", "x"), "--b", "Content-Transfer-Encoding: base64", "", encoded(program)),
		"uuencode":      part("Content-Type: text/plain", uuencoded("a.txt", program)),
		"yEnc by name":  part("Content-Type: text/plain", "=ybegin line=128 size=3 name=a.exe", "abc", "=yend size=3"),
		"winmail.dat":   part("Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64", encoded(tnef("a.txt", program))),
		"its long name": part("Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64", encoded(tnef("long name.exe", []byte("x")))),
	} {
		if v := raw(t, configured(t, nil), lines...); v.Action != sdk.Reject {
			t.Errorf("%s: %v %+v", name, v.Action, v.Reasons)
		}
	}
}

// TestHonestMessages: looking everywhere finds nothing in what is well.
func TestHonestMessages(t *testing.T) {
	big := strings.Repeat("AAAA", 2<<20)
	for name, lines := range map[string][]string{
		"a text that tells of a file": {"Subject: x", "", "--b", "Content-Disposition: attachment; filename=a.exe", "", "was refused", "--b--"},
		"a signature and PGP":         {"Subject: x", "", "-----BEGIN PGP MESSAGE-----", "", "abc", "-----END PGP MESSAGE-----", "-- ", "me"},
		"a name in Persian":           {"Subject: x", "Content-Disposition: attachment; filename*=utf-8''%D9%85%DB%8C%E2%80%8C%D8%AE.pdf", "", "x"},
		"a large file, then a small one": {"Subject: x", "Content-Type: multipart/mixed; boundary=b", "", "--b", "Content-Type: image/jpeg", "Content-Transfer-Encoding: base64", "", big,
			"--b", "Content-Type: image/png; name=logo.png", "Content-Transfer-Encoding: base64", "", "iVBORw==", "--b--"},
	} {
		if v := raw(t, configured(t, nil), lines...); v.Action != sdk.Accept || len(v.Reasons) > 0 {
			t.Errorf("%s: %v %+v", name, v.Action, v.Reasons)
		}
	}
}

// withUnicodePath is a zip with a file that has another name in its extra field.
func withUnicodePath(t testing.TB, name, other string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	extra := binary.LittleEndian.AppendUint16([]byte{1, 2, 1, 0, 'x', 0x75, 0x70}, uint16(5+len(other)))
	f, err := w.CreateHeader(&zip.FileHeader{Name: name, Extra: append(append(extra, 1, 0, 0, 0, 0), other...)})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("x"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestArchiveEvasions: what some archiver unpacks is looked at, whatever the first look says.
func TestArchiveEvasions(t *testing.T) {
	clean, evil := zipped(t, file{name: "a.txt", octets: []byte("x")}), zipped(t, file{name: "b.dat", octets: program})
	var sparse bytes.Buffer
	w := tar.NewWriter(&sparse)
	if err := w.WriteHeader(&tar.Header{Name: "b.dat", Size: int64(len(program)), Mode: 0o600, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(program)
	_ = w.Close()
	old := sparse.Bytes()
	retype := func(kind byte, magic string) []byte {
		b := bytes.Clone(old)
		b[156] = kind
		copy(b[257:265], magic+"\x00\x00\x00\x00\x00\x00\x00\x00")
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	odd := bytes.Clone(clean)
	for _, at := range []int{8, bytes.Index(odd, []byte("PK\x01\x02")) + 10} {
		odd[at] = 9 // Deflate64
	}
	swap := func(zip []byte, local, central string) []byte { // names of the length of a.txt
		b := bytes.Clone(zip)
		copy(b[30:], local)
		copy(b[bytes.Index(b, []byte("PK\x01\x02"))+46:], central)
		return b
	}
	locked := bytes.Clone(clean)
	locked[6] |= 1
	iso := make([]byte, 0x9000)
	copy(iso[0x8001:], "CD001")
	script := packedGzip(t, "b.js", []byte("x"))
	for name, c := range map[string]struct {
		f    file
		want sdk.Action
	}{
		"zip behind a picture":        {file{name: "a.jpg", octets: append([]byte("\xff\xd8\xff\xe0 picture"), evil...)}, sdk.Reject},
		"two zips, the first":         {file{name: "a.zip", octets: append(bytes.Clone(evil), clean...)}, sdk.Reject},
		"two zips, the last":          {file{name: "a.zip", octets: append(bytes.Clone(clean), evil...)}, sdk.Reject},
		"zip without its directory":   {file{name: "a.zip", octets: evil[:bytes.Index(evil, []byte("PK\x01\x02"))]}, sdk.Reject},
		"a directory with octets":     {file{name: "a.zip", octets: clean}, sdk.Accept},
		"zip in an unknown method":    {file{name: "a.zip", octets: odd}, sdk.Quarantine},
		"tar, another type":           {file{name: "a.tar", octets: retype('7', "ustar")}, sdk.Reject},
		"tar, an unknown type":        {file{name: "a.tar", octets: retype('Z', "ustar")}, sdk.Reject},
		"tar without magic":           {file{name: "a.bin", octets: retype('0', "")}, sdk.Reject},
		"gzip with a name":            {file{name: "a.gz", octets: script}, sdk.Reject},
		"gzip in capitals":            {file{name: "A.JS.GZ", octets: gzipped(t, []byte("x"))}, sdk.Reject},
		"gzip of two members":         {file{name: "a.gz", octets: append(gzipped(t, nil), gzipped(t, program)...)}, sdk.Reject},
		"zip, the name in front":      {file{name: "a.zip", octets: swap(clean, "a.exe", "a.txt")}, sdk.Reject},
		"zip, the name behind":        {file{name: "a.zip", octets: swap(clean, "a.txt", "a.exe")}, sdk.Reject},
		"zip, a third name":           {file{name: "a.zip", octets: withUnicodePath(t, "a.txt", "b.exe")}, sdk.Reject},
		"zip, the same name again":    {file{name: "a.zip", octets: withUnicodePath(t, "a.txt", "a.txt")}, sdk.Accept},
		"zip, encrypted in front":     {file{name: "a.zip", octets: locked}, sdk.Quarantine},
		"an encrypted document":       {file{name: "a.xlsx", octets: append([]byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), append(make([]byte, 600), wide("EncryptedPackage")...)...)}, sdk.Quarantine},
		"a disk image":                {file{name: "a.bin", octets: iso}, sdk.Quarantine},
		"a UDF image":                 {file{name: "a.bin", octets: bytes.Replace(iso, []byte("CD001"), []byte("BEA01"), 1)}, sdk.Quarantine},
		"wim":                         {file{name: "a.bin", octets: []byte("MSWIM\x00\x00\x00\xd0\x00\x00\x00")}, sdk.Quarantine},
		"compress":                    {file{name: "a.bin", octets: []byte("\x1f\x9d\x90abc")}, sdk.Quarantine},
		"lzma":                        {file{name: "a.bin", octets: []byte("\x5d\x00\x00\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00abc")}, sdk.Quarantine},
		"lzma of a known size":        {file{name: "a.bin", octets: []byte("\x5d\x00\x00\x10\x00\x10\x27\x00\x00\x00\x00\x00\x00\x00abc")}, sdk.Quarantine},
		"cpio":                        {file{name: "a.bin", octets: []byte("070701" + strings.Repeat("0", 104) + "a.exe\x00")}, sdk.Quarantine},
		"vhdx":                        {file{name: "a.bin", octets: []byte("vhdxfileM\x00")}, sdk.Quarantine},
		"a list of numbers":           {file{name: "a.bin", octets: []byte(strings.Repeat("0707070707\r\n", 20))}, sdk.Accept},
		"a bracket":                   {file{name: "a.bin", octets: []byte("\x5d\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b")}, sdk.Accept},
		"a cabinet":                   {file{name: "a.cab", octets: []byte("MSCF\x00\x00\x00\x00")}, sdk.Quarantine},
		"stored zip in zip is honest": {file{name: "a.zip", octets: zipped(t, file{name: "b.zip", octets: clean})}, sdk.Accept},
	} {
		if v := ask(t, configured(t, nil), c.f); v.Action != c.want {
			t.Errorf("%s: %v, want %v: %+v", name, v.Action, c.want, v.Reasons)
		}
	}
}

// TestManyFindingsHideNone: fifty small findings are told, and the one that counts still counts.
func TestManyFindingsHideNone(t *testing.T) {
	var files []file
	for i := range 80 {
		files = append(files, file{name: fmt.Sprint(i, ".zip"), octets: []byte("PK\x03\x04broken")})
	}
	v := ask(t, configured(t, nil), append(files, file{name: "a.exe", octets: program})...)
	if v.Action != sdk.Reject || len(v.Reasons) > maxFindings+1 {
		t.Errorf("%v with %d reasons", v.Action, len(v.Reasons))
	}
}

// TestAllowedIsNotUnseen: what allow_names lets through is still looked into.
func TestAllowedIsNotUnseen(t *testing.T) {
	p := configured(t, map[string]any{"allow_names": []any{"good-*"}})
	for name, c := range map[string]struct {
		f    file
		want sdk.Action
	}{
		"a program":              {file{name: "good-a.exe", octets: program}, sdk.Accept},
		"a program in a zip":     {file{name: "good-a.zip", octets: zipped(t, file{name: "b.exe", octets: program})}, sdk.Reject},
		"a name that plays path": {file{name: "a.zip", octets: zipped(t, file{name: "b.exe > good-x", octets: program})}, sdk.Reject},
		"turned around":          {file{name: "good-\u202ea.exe", octets: []byte("x")}, sdk.Quarantine},
	} {
		if v := ask(t, p, c.f); v.Action != c.want {
			t.Errorf("%s: %v, want %v: %+v", name, v.Action, c.want, v.Reasons)
		}
	}
}

// TestFullDisk: what could not be kept was not looked at, and that is no opinion.
func TestFullDisk(t *testing.T) {
	t.Setenv("TMPDIR", "/proc/none")
	p := configured(t, nil)
	octets := gzipped(t, make([]byte, 1<<20))
	parsed := &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "application/gzip", Length: int64(len(octets))}}}
	_, err := p.Ask(context.Background(), &sdk.Message{
		Phase: sdk.PhaseContent, Size: int64(len(octets)), Content: bytes.NewReader(octets),
		Parsed: func() (*sdk.Parsed, error) { return parsed, nil },
	})
	if err == nil {
		t.Error("an opinion without a place to look")
	}
}

// Test7zClaims: an archive of 60 octets does not make room for four thousand million files.
func Test7zClaims(t *testing.T) {
	header := []byte{0x01, 0x05, 0xf0, 0xff, 0xff, 0xff, 0xff, 0x0e, 0x01, 0x80, 0, 0}
	b := append([]byte("7z\xbc\xaf\x27\x1c\x00\x04"), make([]byte, 24)...)
	binary.LittleEndian.PutUint64(b[20:], uint64(len(header)))
	if _, err := header7z(&kept{octets: append(b, header...), size: int64(len(b) + len(header))}); err == nil {
		t.Error("the header was believed")
	}
}

// FuzzMessage: no message crashes it, whatever the shared parse says of it.
func FuzzMessage(f *testing.F) {
	p := configured(f, map[string]any{"limits": map[string]any{"octets": "1MB", "time": "1s", "files": int64(100)}})
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822; name*0*=x''a; name*1=.exe\r\nContent-Transfer-Encoding: base64\r\n\r\nQQ==QUJD\r\n--b--\r\nbegin 644 a\r\n#...\r\n=ybegin name=x\r\n=}\r\n"))
	f.Add(append([]byte("Content-Type: application/ms-tnef\r\n\r\n"), tnef("a.exe", program)...))
	f.Fuzz(func(t *testing.T, octets []byte) {
		v := askAbout(t, p, octets, firstReading(octets))
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

// TestManyLines: work on a header is linear in its size, however it is folded, and so is that on a text full of
// what could be delimiters or files.
func TestManyLines(t *testing.T) {
	for name, text := range map[string]string{
		"folded":     "Content-Type: text/plain;\r\n" + strings.Repeat(" \r\n", 90000) + "\r\nx",
		"delimiters": "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--x\r\n\r\n", 300000),
		"uuencode":   "\r\n" + strings.Repeat("begin 644 a\r\n", 300000),
		"names":      "Content-Type: x; " + strings.Repeat("name*1=\"a\";", 20000) + "\r\n\r\n",
		"quotes":     "Content-Type: x; " + strings.Repeat("\"", 200000) + "\r\n\r\n",
	} {
		begin := time.Now()
		raw(t, configured(t, map[string]any{"limits": map[string]any{"time": "1m"}}), text)
		if spent := time.Since(begin); spent > 5*time.Second {
			t.Errorf("%s took %s", name, spent)
		}
	}
}
