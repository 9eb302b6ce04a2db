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
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sluicemail/sluice/sdk"
)

func configured(t testing.TB, config map[string]any) *plugin {
	t.Helper()
	p := New().(*plugin)
	if err := p.Configure(context.Background(), sdk.Settings{Config: config}); err != nil {
		t.Fatal(err)
	}
	return p
}

// file is one attachment.
type file struct {
	name     string
	octets   []byte
	encoding string // "" is base64
}

// ask makes a message of the files, and asks about it.
func ask(t testing.TB, p *plugin, files ...file) sdk.Verdict {
	t.Helper()
	var text bytes.Buffer
	parsed := &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "multipart/mixed"}}}
	for _, f := range files {
		start := text.Len()
		encoding := f.encoding
		switch encoding {
		case "":
			encoding = "base64"
			line := base64.StdEncoding.EncodeToString(f.octets)
			for ; len(line) > 76; line = line[76:] {
				text.WriteString(line[:76] + "\r\n")
			}
			text.WriteString(line + "\r\n")
		default:
			text.Write(f.octets)
		}
		parsed.Parts = append(parsed.Parts, sdk.Part{
			Type: "application/octet-stream", Encoding: encoding, Name: f.name, Offset: int64(start), Length: int64(text.Len() - start),
		})
	}
	return askAbout(t, p, text.Bytes(), parsed)
}

func askAbout(t testing.TB, p *plugin, octets []byte, parsed *sdk.Parsed) sdk.Verdict {
	t.Helper()
	v, err := p.Ask(context.Background(), &sdk.Message{
		Phase: sdk.PhaseContent, Size: int64(len(octets)), Content: bytes.NewReader(octets),
		Parsed: func() (*sdk.Parsed, error) { return parsed, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func zipped(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		e, err := w.Create(f.name)
		if err == nil {
			_, err = e.Write(f.octets)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarred(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.octets)), Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.octets); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packed(t testing.TB, w io.WriteCloser, err error, b *bytes.Buffer, octets []byte) []byte {
	t.Helper()
	if err == nil {
		_, err = w.Write(octets)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, octets []byte) []byte {
	var b bytes.Buffer
	return packed(t, gzip.NewWriter(&b), nil, &b, octets)
}

// rarred stores one file in a RAR 4 archive: marker, archive header, file header, octets. Each header begins with
// the lower half of its CRC.
func rarred(name string, octets []byte, flags uint16) []byte {
	block := func(kind byte, flags uint16, fields []byte) []byte {
		b := append([]byte{kind}, binary.LittleEndian.AppendUint16(nil, flags)...)
		b = binary.LittleEndian.AppendUint16(b, uint16(7+len(fields)))
		b = append(b, fields...)
		return append(binary.LittleEndian.AppendUint16(nil, uint16(crc32.ChecksumIEEE(b))), b...)
	}
	out := append([]byte("Rar!\x1a\x07\x00"), block(0x73, 0, make([]byte, 6))...)
	f := binary.LittleEndian.AppendUint32(nil, uint32(len(octets)))
	f = binary.LittleEndian.AppendUint32(f, uint32(len(octets)))
	f = append(f, 2) // Windows
	f = binary.LittleEndian.AppendUint32(f, crc32.ChecksumIEEE(octets))
	f = binary.LittleEndian.AppendUint32(f, 0x5a21a000)
	f = append(f, 29, 0x30) // version, stored
	f = binary.LittleEndian.AppendUint16(f, uint16(len(name)))
	f = binary.LittleEndian.AppendUint32(f, 0x20)
	f = append(f, name...)
	if flags&4 != 0 {
		f = append(f, 1, 2, 3, 4, 5, 6, 7, 8) // salt
	}
	return append(append(out, block(0x74, 0x8000|flags, f)...), octets...)
}

var (
	program = append([]byte("MZ\x90\x00\x03\x00\x00\x00\x04\x00"), make([]byte, 200)...)
	lnk     = []byte("L\x00\x00\x00\x01\x14\x02\x00rest")
)

func symbols(v sdk.Verdict) string {
	var list []string
	for _, r := range v.Reasons {
		if s := strings.TrimPrefix(r.Symbol, "ATTACHMENT_"); len(list) == 0 || list[len(list)-1] != s {
			list = append(list, s)
		}
	}
	return strings.Join(list, " ")
}

func TestFindings(t *testing.T) {
	var xzBuffer, zstdBuffer bytes.Buffer
	xzWriter, xzErr := xz.NewWriter(&xzBuffer)
	zstdWriter, zstdErr := zstd.NewWriter(&zstdBuffer)
	locked := zipped(t, file{name: "secret.txt", octets: []byte("x")})
	for _, head := range []string{"PK\x03\x04", "PK\x01\x02"} {
		at := bytes.Index(locked, []byte(head)) + map[string]int{"PK\x03\x04": 6, "PK\x01\x02": 8}[head]
		locked[at] |= 1
	}
	ole := append([]byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), make([]byte, 70000)...)
	ole = append(ole, wide("_VBA_PROJECT")...)
	for name, c := range map[string]struct {
		f      file
		want   string
		action sdk.Action
	}{
		"a text":             {file{name: "notes.txt", octets: []byte("hello")}, "", sdk.Accept},
		"a picture":          {file{name: "a.jpg", octets: []byte("\xff\xd8\xff\xe0 picture")}, "", sdk.Accept},
		"a text from Mozart": {file{name: "a.txt", octets: []byte("MZ is a pair of letters, and this text goes on for a while after it")}, "", sdk.Accept},
		"a program":          {file{name: "setup.exe", octets: program}, "BLOCKED", sdk.Reject},
		"by name alone":      {file{name: "a.js", octets: []byte("alert(1)")}, "BLOCKED", sdk.Reject},
		"in capitals":        {file{name: "A.JS ", octets: []byte("x")}, "BLOCKED", sdk.Reject},
		"dots at the end":    {file{name: "a.exe. .", octets: []byte("x")}, "BLOCKED", sdk.Reject},
		"a stream's name":    {file{name: "a.exe::$DATA", octets: []byte("x")}, "BLOCKED", sdk.Reject},
		"a path":             {file{name: `..\..\a.exe`, octets: []byte("x")}, "BLOCKED", sdk.Reject},
		"as a picture":       {file{name: "photo.jpg", octets: program}, "BLOCKED", sdk.Reject},
		"without a name":     {file{octets: program}, "BLOCKED", sdk.Reject},
		"a shortcut":         {file{name: "Invoice", octets: lnk}, "BLOCKED", sdk.Reject},
		"turned around":      {file{name: "ann\u202efdp.exe", octets: []byte("x")}, "BLOCKED DECEPTIVE", sdk.Reject},
		"turned, harmless":   {file{name: "ann\u202etxt.pdf", octets: []byte("x")}, "DECEPTIVE", sdk.Quarantine},
		"many spaces":        {file{name: "invoice.pdf          .zzz", octets: []byte("x")}, "DECEPTIVE", sdk.Quarantine},
		"quoted-printable":   {file{name: "x", octets: []byte("=4D=5A=90=00=03=00" + strings.Repeat("=00", 100)), encoding: "quoted-printable"}, "BLOCKED", sdk.Reject},
		"base64 with junk":   {file{name: "x", octets: []byte("!!" + base64.StdEncoding.EncodeToString(program[:90]) + "==trailing"), encoding: "base64"}, "BLOCKED", sdk.Reject},
		"zip":                {file{name: "a.zip", octets: zipped(t, file{name: "b.txt", octets: []byte("x")})}, "", sdk.Accept},
		"zip with a program": {file{name: "a.zip", octets: zipped(t, file{name: "dir/b.dat", octets: program})}, "BLOCKED", sdk.Reject},
		"zip climbing out":   {file{name: "a.zip", octets: zipped(t, file{name: "../../etc/cron.d/x;rm -rf", octets: []byte("x")})}, "", sdk.Accept},
		"zip behind a stub":  {file{name: "a.bin", octets: zipped(t, file{name: "b.vbs", octets: []byte("x")})}, "BLOCKED", sdk.Reject},
		"tar":                {file{name: "a.tar", octets: tarred(t, file{name: "b.scr", octets: []byte("x")})}, "BLOCKED", sdk.Reject},
		"tar.gz":             {file{name: "a.tgz", octets: gzipped(t, tarred(t, file{name: "b.bin", octets: program}))}, "BLOCKED", sdk.Reject},
		"xz":                 {file{name: "a.xz", octets: packed(t, xzWriter, xzErr, &xzBuffer, program)}, "BLOCKED", sdk.Reject},
		"zstd":               {file{name: "a.zst", octets: packed(t, zstdWriter, zstdErr, &zstdBuffer, program)}, "BLOCKED", sdk.Reject},
		"rar":                {file{name: "a.rar", octets: rarred("b.dat", program, 0)}, "BLOCKED", sdk.Reject},
		"rar, clean":         {file{name: "a.rar", octets: rarred("b.txt", []byte("hello"), 0)}, "", sdk.Accept},
		"rar, encrypted":     {file{name: "a.rar", octets: rarred("b.txt", make([]byte, 16), 4)}, "ENCRYPTED", sdk.Quarantine},
		"zip, encrypted":     {file{name: "a.zip", octets: locked}, "ENCRYPTED", sdk.Quarantine},
		"zip in zip in gzip": {file{name: "a.gz", octets: gzipped(t, zipped(t, file{name: "i.zip", octets: zipped(t, file{name: "b.hta", octets: []byte("x")})}))}, "BLOCKED", sdk.Reject},
		"zip, damaged":       {file{name: "a.zip", octets: zipped(t, file{name: "b.txt", octets: []byte("x")})[:30]}, "DAMAGED", sdk.Accept},
		"xlsm":               {file{name: "a.xlsx", octets: zipped(t, file{name: "xl/vbaProject.bin", octets: []byte("x")})}, "MACROS", sdk.Quarantine},
		"xls":                {file{name: "a.xls", octets: ole}, "MACROS", sdk.Quarantine},
	} {
		v := ask(t, configured(t, nil), c.f)
		if symbols(v) != c.want || v.Action != c.action {
			t.Errorf("%s: %q %v, want %q %v: %+v", name, symbols(v), v.Action, c.want, c.action, v.Reasons)
		}
		if (v.Action == sdk.Reject) != (v.Reply != nil) {
			t.Errorf("%s: %v with reply %+v", name, v.Action, v.Reply)
		}
	}
}

// Test7z reads what the real program writes.
func Test7z(t *testing.T) {
	program7z, err := exec.LookPath("7z")
	if err != nil {
		if os.Getenv("INTEROP") == "require" {
			t.Fatal("7z is missing: apt-get install p7zip-full")
		}
		t.Skip("7z is missing: apt-get install p7zip-full")
	}
	dir := t.TempDir()
	for name, octets := range map[string][]byte{"b.dat": program, "c.txt": bytes.Repeat([]byte("hello "), 1000), "d.exe": []byte("x")} {
		if err := os.WriteFile(filepath.Join(dir, name), octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"clean":                {[]string{"c.txt"}, ""},
		"a program by content": {[]string{"b.dat", "c.txt"}, "BLOCKED"},
		"by name":              {[]string{"d.exe"}, "BLOCKED"},
		"PPMd":                 {[]string{"-m0=PPMd", "b.dat"}, "BLOCKED"},
		"plain header":         {[]string{"-mhc=off", "b.dat"}, "BLOCKED"},
		"encrypted":            {[]string{"-psecret", "c.txt"}, "ENCRYPTED"},
		"names encrypted too":  {[]string{"-psecret", "-mhe=on", "c.txt"}, "ENCRYPTED"},
		"encrypted, bad name":  {[]string{"-psecret", "d.exe"}, "BLOCKED ENCRYPTED"},
	} {
		out := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".7z")
		cmd := exec.Command(program7z, append([]string{"a", "-bd", "-y", out}, c.args...)...)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		octets, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if v := ask(t, configured(t, nil), file{name: "a.7z", octets: octets}); symbols(v) != c.want {
			t.Errorf("%s: %q, want %q: %+v", name, symbols(v), c.want, v.Reasons)
		}
		for _, front := range []string{"GIF89a", "begin", strings.Repeat("\x01", 1<<20-3)} {
			if v := ask(t, configured(t, nil), file{name: "a.txt", octets: append([]byte(front), octets...)}); symbols(v) != c.want {
				t.Errorf("%s behind %.6q: %q, want %q: %+v", name, front, symbols(v), c.want, v.Reasons)
			}
		}
		if v := ask(t, configured(t, nil), file{name: "a.7z.001", octets: octets[:len(octets)-1]}); symbols(v) != "UNREADABLE" || v.Action != sdk.Quarantine {
			t.Errorf("%s, a part of it: %v %+v", name, v.Action, v.Reasons)
		}
		binary.LittleEndian.PutUint64(octets[20:], maxHeader7z+1)
		if v := ask(t, configured(t, nil), file{name: "a.7z", octets: octets}); symbols(v) != "UNREADABLE" {
			t.Errorf("%s with a large header: %+v", name, v.Reasons)
		}
	}
}

// TestWindows: an archive does not decide how much memory its decoder takes.
func TestWindows(t *testing.T) {
	for name, c := range map[string]struct {
		header []byte
		ok     bool
	}{
		"LZMA of 64 MB":    {[]byte{1, 0x23, 3, 1, 1, 5, 0x5d, 0, 0, 0, 4}, true},
		"LZMA of 2 GB":     {[]byte{1, 0x23, 3, 1, 1, 5, 0x5d, 0, 0, 0, 0x80}, false},
		"PPMd of 2 GB":     {[]byte{0x23, 3, 4, 1, 5, 6, 0, 0, 0, 0x80}, false},
		"LZMA2 of 64 MB":   {[]byte{0x21, 0x21, 1, 28}, true},
		"LZMA2 of 128 MB":  {[]byte{0x21, 0x21, 1, 30}, false},
		"LZMA2 of 4 GB":    {[]byte{0x21, 0x21, 1, 40}, false},
		"a coder cut off":  {[]byte{0x23, 3, 1, 1, 5, 0x5d}, true},
		"nothing of these": {[]byte("hello"), true},
	} {
		if err := checkWindows(c.header); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := []byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x28\x00\x00\x00\x00\x00\x00\x00")
	if v := ask(t, configured(t, nil), file{name: "a.xz", octets: huge}); symbols(v) != "UNREADABLE" || !strings.Contains(v.Reasons[0].Text, "window") {
		t.Errorf("%+v", v)
	}
}

// TestBombs: what is over a limit ends soon, in bounded memory and disk, with a finding.
func TestBombs(t *testing.T) {
	small := map[string]any{"limits": map[string]any{"octets": "2MB", "files": int64(50), "depth": int64(3), "time": "1m"}}
	zeros := make([]byte, 8<<20)
	nested := []byte("x")
	for range 20 {
		nested = zipped(t, file{name: "inner.zip", octets: nested})
	}
	var many []file
	for i := range 65000 {
		many = append(many, file{name: fmt.Sprint(i)})
	}
	for name, c := range map[string]struct {
		config map[string]any
		octets []byte
	}{
		"ratio":      {map[string]any{"limits": map[string]any{"time": "1m"}}, gzipped(t, gzipped(t, bytes.Repeat(zeros, 3)))},
		"octets":     {small, zipped(t, file{name: "zeros", octets: zeros})},
		"nested":     {small, nested},
		"many files": {small, zipped(t, many...)},
	} {
		begin := time.Now()
		v := ask(t, configured(t, c.config), file{name: "bomb", octets: c.octets})
		if symbols(v) != "LIMIT" || v.Action != sdk.Quarantine {
			t.Errorf("%s: %q %v %+v", name, symbols(v), v.Action, v.Reasons)
		}
		if strings.Contains(fmt.Sprint(v.Reasons), "not looked at within") { // the clock is the last resort
			t.Errorf("%s took %s: %+v", name, time.Since(begin), v.Reasons)
		}
		if len(v.Reasons) > maxFindings {
			t.Errorf("%s: %d reasons", name, len(v.Reasons))
		}
	}
}

// TestTheRestIsLookedAt: one damaged or enormous attachment does not hide another.
func TestTheRestIsLookedAt(t *testing.T) {
	v := ask(t, configured(t, nil), file{name: "a.zip", octets: []byte("PK\x03\x04broken")}, file{name: "b.rar", octets: []byte("Rar!\x1a\x07\x00junk")}, file{name: "c.exe", octets: program})
	if v.Action != sdk.Reject {
		t.Errorf("%+v", v)
	}
}

func TestParse(t *testing.T) {
	p := configured(t, map[string]any{"ambiguous": "junk", "score": 1.5})
	v := askAbout(t, p, []byte("text"), &sdk.Parsed{Ambiguities: []sdk.Ambiguity{{Kind: "same-boundary", Text: "x"}, {Kind: "no-boundary", Text: "y"}}})
	if v.Action != sdk.Junk || v.Score != 1.5 || len(v.Reasons) != 2 {
		t.Errorf("%+v", v)
	}
	text := "hi\r\nbegin 644 virus.exe\r\n#...\r\nend\r\n"
	v = askAbout(t, p, []byte(text), &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "text/plain", Text: text, Length: int64(len(text))}}})
	if v.Action != sdk.Reject {
		t.Errorf("%+v", v)
	}
	v = askAbout(t, p, []byte("text"), &sdk.Parsed{Truncated: true, Parts: []sdk.Part{{Type: "text/plain", Offset: 1 << 40, Length: 1 << 40}}})
	if v.Action != sdk.Quarantine {
		t.Errorf("%+v", v)
	}
}

func TestSettings(t *testing.T) {
	p := configured(t, map[string]any{"blocked": "quarantine", "block_names": []any{"*.pdf"}, "allow_names": []any{"good-*.pdf"}, "block_types": []any{}})
	for name, want := range map[string]sdk.Action{"a.pdf": sdk.Quarantine, "good-a.pdf": sdk.Accept, "a.exe": sdk.Accept} {
		if v := ask(t, p, file{name: name, octets: program}); v.Action != want {
			t.Errorf("%s: %v, want %v", name, v.Action, want)
		}
	}
	for key, value := range map[string]any{
		"block_types[1]": []any{"virus"}, "block_names[1]": []any{"[a"}, "allow_names[1]": []any{"*.PDF"}, "blocked": "explode",
		"limits.depth": int64(0), "limits.ratio": int64(1), "limits.time": "1ms", "limits.octets": "1KB", "limits.files": int64(0),
	} {
		name, sub, nested := strings.Cut(strings.TrimSuffix(key, "[1]"), ".")
		config := map[string]any{name: value}
		if nested {
			config = map[string]any{name: map[string]any{sub: value}}
		}
		err := New().Configure(context.Background(), sdk.Settings{Config: config})
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}
