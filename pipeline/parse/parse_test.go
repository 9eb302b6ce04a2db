package parse

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

func parse(text string) *sdk.Parsed {
	message := strings.ReplaceAll(text, "\n", "\r\n")
	return Parse(strings.NewReader(message), int64(len(message)))
}

// TestParts: types, names, places and texts of parts.
func TestParts(t *testing.T) {
	message := strings.ReplaceAll(head+`Content-Type: multipart/mixed; boundary=o

--o
Content-Type: multipart/alternative; boundary=i

--i
Content-Type: Text/Plain; charset="ISO-8859-1"
Content-Transfer-Encoding: quoted-printable

J=F6rg
--i
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

PHA+asO2cmc=
--i--
--o
Content-Type: application/zip; name*=utf-8''a%C3%BC.zip
Content-Disposition: Attachment; filename*0*=utf-8''a%C3; filename*1*=%BC.zip
Content-Transfer-Encoding: Base64

UEsDBA==
--o
Content-Type: message/rfc822

Subject: inner

text
--o
Content-Type: message/rfc822

Content-Type: multipart/mixed; boundary=m

--m

deep
--m--
--o--
`, "\n", "\r\n")
	p := Parse(strings.NewReader(message), int64(len(message)))
	want := []sdk.Part{
		{Parent: -1, Type: "multipart/mixed"},
		{Parent: 0, Section: "1", Type: "multipart/alternative"},
		{Parent: 1, Section: "1.1", Type: "text/plain", Charset: "iso-8859-1", Encoding: "quoted-printable", Text: "Jörg"},
		{Parent: 1, Section: "1.2", Type: "text/html", Charset: "utf-8", Encoding: "base64", Text: "<p>jörg"},
		{Parent: 0, Section: "2", Type: "application/zip", Encoding: "base64", Disposition: "attachment", Name: "aü.zip"},
		{Parent: 0, Section: "3", Type: "message/rfc822"},
		{Parent: 5, Section: "3.1", Type: "text/plain", Text: "text"},
		{Parent: 0, Section: "4", Type: "message/rfc822"},
		{Parent: 7, Section: "4.TEXT", Type: "multipart/mixed"},
		{Parent: 8, Section: "4.1", Type: "text/plain", Text: "deep"},
	}
	for i, part := range p.Parts {
		body := message[part.Offset : part.Offset+part.Length]
		if part.Type == "application/zip" && body != "UEsDBA==" || part.Section == "3.1" && body != "text" {
			t.Errorf("%s is %q", part.Section, body)
		}
		part.Offset, part.Length = 0, 0
		if i < len(want) && !reflect.DeepEqual(part, want[i]) {
			t.Errorf("%+v, expected\n%+v", part, want[i])
		}
	}
	if len(p.Parts) != len(want) || p.Truncated {
		t.Errorf("%d parts, truncated: %v", len(p.Parts), p.Truncated)
	}
	// A message that is one part is the message itself.
	for text, section := range map[string]string{"\nx\n": "", "Content-Type: message/rfc822\n\n\nx\n": "1.1"} {
		p := parse(text)
		if last := p.Parts[len(p.Parts)-1]; last.Section != section || last.Text != "x\r\n" {
			t.Errorf("%q: %+v", text, last)
		}
	}
}

func TestURLs(t *testing.T) {
	for _, c := range []struct{ sub, text, want string }{
		{"plain", "see http://a.example/x?y=1&z=2, or (https://b.example/c(d))! HTTP://C.example.", "http://a.example/x?y=1&z=2 https://b.example/c(d) http://C.example"},
		{"plain", "<http://a.example/> \"http://b.example\" http://a.example/ ftp://c.example/d", "http://a.example/ http://b.example ftp://c.example/d"},
		{"plain", "www.a.example/b and WWW.b.example; notwww.c.example, a@www.d.example www.", "http://www.a.example/b http://WWW.b.example"},
		{"plain", "hxxp://a[.]example/b hxxps://b(dot)example http:\\\\c.example\\d www[.]d.example", "http://a.example/b https://b.example http://c.example/d http://www.d.example"},
		{"plain", "http://[2001:db8::1]/a http:// x:// mailto:a@b http://ü.example/", "http://[2001:db8::1]/a http://ü.example/"},
		{"plain", "http://user:p@a.example:8080/#f", "http://user:p@a.example:8080/#f"},
		{"plain", "xhttp://a.example https://b.example/http://c.example", "https://b.example/http://c.example"},
		{"html", `<A HREF="http://a.example/?x=1&amp;y=2">b</a><img src='//b.example/p'><form action=https://c.example/d>`, "http://a.example/?x=1&y=2 //b.example/p https://c.example/d"},
		{"html", "<a href=\" ht\ttp:\\\\a.exa\nmple/b\">", "http://a.example/b"},
		{"html", `<a href="https:a.example"><a href="http:///b.example"><a href="&#104;ttp://c.example">`, "https://a.example http://b.example http://c.example"},
		{"html", `<p>go to http://a.example/&quot;x or www.b.example</p><!-- http://c.example -->`, "http://a.example/ http://www.b.example http://c.example"},
		{"html", `<a href="#x"><a href="cid:1"><a href="/rel"><a href="mailto:a@b"><a href="javascript:alert(1)"><img src="file:\\host\x">`, "javascript:alert(1) file://host/x"},
		{"html", `<meta http-equiv=refresh content="0; URL='http://a.example/'"><div style="background:url(http://b.example/c)">`, "http://a.example/ http://b.example/c"},
		{"html", `<a href="http://a.example`, ""},
		{"html", `<style>a{b:url(http://a.example/x)}</style>`, "http://a.example/x"},
	} {
		p := parse("Content-Type: text/" + c.sub + "; charset=utf-8\n\n" + c.text)
		if got := strings.Join(p.URLs, " "); got != c.want {
			t.Errorf("%s\n has %s\n expected %s", c.text, got, c.want)
		}
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("x\x00h\x00t\x00t\x00p\x00:\x00/\x00/\x00a\x00.\x00b")[1:])
	if p := parse("Content-Type: text/plain; charset=utf-16be\nContent-Transfer-Encoding: base64\n\n" + encoded); strings.Join(p.URLs, "") != "http://a.b" {
		t.Errorf("%q", p.URLs)
	}
}

// checkBounds holds a parse to what PROTOCOL.md promises.
func checkBounds(t testing.TB, p *sdk.Parsed, size int64) {
	t.Helper()
	text, known := 0, make(map[string]bool)
	for _, k := range Kinds() {
		known[k.Name] = true
	}
	for i, part := range p.Parts {
		text += len(part.Text)
		if part.Parent >= i || (part.Parent < 0) != (i == 0) || part.Offset < 0 || part.Length < 0 || part.Offset+part.Length > size ||
			len(part.Name) > maxName+2 || len(part.Type) > maxWord+10 || !utf8.ValidString(part.Text+part.Name+part.Type+part.Charset) {
			t.Fatalf("part %d of %d: %+v", i, len(p.Parts), part)
		}
	}
	for _, u := range p.URLs {
		if len(u) > maxURL || !utf8.ValidString(u) {
			t.Fatalf("a URL of %d octets", len(u))
		}
	}
	for _, a := range p.Ambiguities {
		if !known[a.Kind] || a.Part < -1 || a.Part >= len(p.Parts) || !utf8.ValidString(a.Text) {
			t.Fatalf("%+v", a)
		}
	}
	if n := proto.Size(wire.ToParsed(1, p)); len(p.Parts) == 0 || len(p.Parts) > 1010 || text > maxText || len(p.URLs) > maxURLs || len(p.Ambiguities) > maxAmbiguities || n > 3<<20 {
		t.Fatalf("%d parts, %d octets of text, %d URLs, %d ambiguities, %d octets on the wire", len(p.Parts), text, len(p.URLs), len(p.Ambiguities), n)
	}
}

// TestLimits: each limit is held, said, and reached in little time.
func TestLimits(t *testing.T) {
	multipart := "Content-Type: multipart/mixed; boundary=b\n\n"
	nested := &strings.Builder{}
	for i := range 10000 {
		fmt.Fprintf(nested, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	urls := &strings.Builder{}
	for i := range 3000 {
		fmt.Fprintf(urls, "http://a.example/%s%d\n", strings.Repeat("x", 1500), i)
	}
	for name, c := range map[string]struct {
		text  string
		check func(p *sdk.Parsed) bool
	}{
		"parts":        {multipart + strings.Repeat("--b\n\nx\n", 100000), func(p *sdk.Parsed) bool { return len(p.Parts) == 1000 }},
		"depth":        {nested.String(), func(p *sdk.Parsed) bool { return len(p.Parts) > 40 }},
		"messages":     {strings.Repeat("Content-Type: message/rfc822\n\n", 10000), func(p *sdk.Parsed) bool { return len(p.Parts) > 40 }},
		"text":         {"\n" + strings.Repeat("0123456789\n", 400000) + "http://late.example/\n", func(p *sdk.Parsed) bool { return p.Parts[0].Text == "" }},
		"text parts":   {multipart + strings.Repeat("--b\n\n"+strings.Repeat("0123456789\n", 30000)+"\n", 20), func(p *sdk.Parsed) bool { return p.Parts[1].Text != "" && p.Parts[10].Text == "" }},
		"growing text": {"Content-Type: text/plain; charset=windows-1252\n\n" + strings.Repeat("\x80", 800000), func(p *sdk.Parsed) bool { return p.Parts[0].Text == "" }},
		"urls":         {"\n" + urls.String(), func(p *sdk.Parsed) bool { return len(p.URLs) > 600 }},
		"short urls":   {"\n" + strings.ReplaceAll(urls.String(), strings.Repeat("x", 1500), ""), func(p *sdk.Parsed) bool { return len(p.URLs) == maxURLs }},
		"long url":     {"\nhttp://a.example/" + strings.Repeat("x", 100000), func(p *sdk.Parsed) bool { return len(p.URLs) == 0 }},
		"name": {"Content-Disposition: attachment; filename=\"" + strings.Repeat("ü", 5000) + ".exe\"\n\nx", func(p *sdk.Parsed) bool {
			return strings.HasSuffix(p.Parts[0].Name, "ü.exe") && len(p.Parts[0].Name) <= maxName+2
		}},
		"names":       {multipart + strings.Repeat("--b\nContent-Disposition: attachment; filename=\""+strings.Repeat("a", 900)+"\"\n\nx\n", 990), func(p *sdk.Parsed) bool { return p.Parts[900].Name == "" }},
		"header":      {strings.Repeat("X: "+strings.Repeat("a", 990)+"\n", 5000) + "\nx\n", func(p *sdk.Parsed) bool { return p.Parts[0].Text == "x\r\n" }},
		"ambiguities": {multipart + strings.Repeat("--b\nContent-Transfer-Encoding: BASE64\n\n*\n", 500) + "--b--\n", func(p *sdk.Parsed) bool { return len(p.Ambiguities) == maxAmbiguities }},
	} {
		message := strings.ReplaceAll(c.text, "\n", "\r\n")
		begin := time.Now()
		p := Parse(strings.NewReader(message), int64(len(message)))
		took := time.Since(begin)
		checkBounds(t, p, int64(len(message)))
		if !p.Truncated || !c.check(p) {
			t.Errorf("%s: truncated %v, %d parts, %d URLs, %d ambiguities", name, p.Truncated, len(p.Parts), len(p.URLs), len(p.Ambiguities))
		}
		if took > 10*time.Second {
			t.Errorf("%s: %s", name, took)
		}
	}
}

// TestTime: shapes that cost a quadratic program minutes.
func TestTime(t *testing.T) {
	names := &strings.Builder{}
	for i := range 99 {
		fmt.Fprintf(names, "; a%d*0=b", i)
	}
	for name, text := range map[string]string{
		"slashes":      "\n" + strings.Repeat("://", 1<<20/3),
		"schemes":      "\n" + strings.Repeat("http://", 1<<20/7),
		"www":          "\n" + strings.Repeat(" www.a", 1<<20/6),
		"brackets":     "\nhttp://" + strings.Repeat("(", 1<<19) + strings.Repeat(")", 1<<19),
		"closings":     "\n" + strings.Repeat("http://a"+strings.Repeat(")", 7900)+" ", 130),
		"tags":         "Content-Type: text/html\n\n" + strings.Repeat("<a href=", 1<<17),
		"entities":     "Content-Type: text/html\n\n" + strings.Repeat("&amp;", 1<<17),
		"words":        "From: " + strings.Repeat("=?", 1<<18) + "\n\nx",
		"half words":   "From: " + strings.Repeat("=?a?q?", 1<<17) + "\n\nx",
		"parameters":   "Content-Type: text/plain" + strings.Repeat("; name*0=a", 1<<16) + "\n\nx",
		"many pieces":  "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\nContent-Type: text/plain"+strings.Repeat("; a*1=b", 99)+"\n\nx\n", 900),
		"many names":   "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\nContent-Type: text/plain"+names.String()+"\n\nx\n", 900),
		"comments":     "Content-Type: text/plain " + strings.Repeat("(", 1<<18) + "\n\nx",
		"uuencode":     "\n" + strings.Repeat("begin 644 a\n", 1<<16),
		"fields":       strings.Repeat("a:\n", 1<<18) + "\nx",
		"large base64": "Content-Transfer-Encoding: base64\nContent-Type: a/b\n\n" + strings.Repeat("eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n", 1<<19),
	} {
		message := strings.ReplaceAll(text, "\n", "\r\n")
		begin := time.Now()
		p := Parse(strings.NewReader(message), int64(len(message)))
		if took := time.Since(begin); took > 10*time.Second { // a quadratic one takes minutes; the machine may be busy
			t.Errorf("%s: %s for %d octets", name, took, len(message))
		}
		checkBounds(t, p, int64(len(message)))
	}
}

// panics fails in the way that a bug of ours would.
type panics struct{}

func (panics) ReadAt([]byte, int64) (int, error) { panic("a bug") }

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the disk is gone") }

func TestPanic(t *testing.T) {
	p := Parse(panics{}, 100)
	if len(p.Parts) != 1 || p.Parts[0].Length != 100 || len(p.Ambiguities) != 1 || p.Ambiguities[0].Kind != notParsed || !p.Truncated {
		t.Errorf("%+v", p)
	}
	checkBounds(t, p, 100)
	checkBounds(t, Parse(broken{}, 100), 100)
	checkBounds(t, Parse(strings.NewReader(""), -1), 0)
	checkBounds(t, Parse(strings.NewReader("a: b\r\n\r\nc"), 1<<40), 1<<40)
}

func mails() (list [][]byte) {
	for _, c := range odd {
		list = append(list, []byte(strings.ReplaceAll(c.message, "\n", "\r\n")))
	}
	return list
}

// FuzzParse: whatever arrives, the bounds hold and nothing panics.
func FuzzParse(f *testing.F) {
	for _, m := range mails() {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		p := Parse(bytes.NewReader(message), int64(len(message)))
		checkBounds(t, p, int64(len(message)))
		if slices.ContainsFunc(p.Ambiguities, func(a sdk.Ambiguity) bool { return a.Kind == notParsed }) {
			t.Fatal(p.Ambiguities[0].Text)
		}
	})
}

// FuzzURLs: finding URLs does not panic, and finds nothing that is not there to be held.
func FuzzURLs(f *testing.F) {
	f.Add("http://a.example/ www.b.example hxxp://c[.]d", "<a href=\"http://a.example/\">")
	f.Add("://", "<meta content='0;url=x'>")
	f.Fuzz(func(t *testing.T, plain, html string) {
		var u urls
		out := &sdk.Parsed{}
		u.plain(out, plain)
		u.html(out, html)
		for _, found := range out.URLs {
			if found == "" || len(found) > maxURL {
				t.Fatalf("%q", found)
			}
		}
	})
}

func benchmark(b *testing.B, message string) {
	message = strings.ReplaceAll(message, "\n", "\r\n")
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		Parse(strings.NewReader(message), int64(len(message)))
	}
}

func BenchmarkPlain4K(b *testing.B) {
	benchmark(b, "Received: from a by b; Mon, 1 Jan 2026 00:00:00 +0000\n"+head+"Content-Type: text/plain; charset=utf-8\n\n"+
		strings.Repeat("A line of text as people write them, and one below it with no link at all.\n", 46)+
		"https://example.org/a https://example.org/b\nhttp://www.example.net/c\n")
}

func BenchmarkHTML4K(b *testing.B) {
	benchmark(b, head+"Content-Type: text/html; charset=utf-8\n\n"+
		strings.Repeat("<p>A line of <b>text</b> with <a href=\"https://example.org/a\">a link</a></p>\n", 48))
}

func BenchmarkAttachment10M(b *testing.B) {
	benchmark(b, head+"Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\n"+
		strings.Repeat(strings.Repeat("eHh4", 19)+"\n", 10<<20/78))
}
