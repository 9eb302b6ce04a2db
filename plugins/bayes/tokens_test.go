package bayes

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSipHash: the vectors of the paper's reference code, key 00 01 .. 0f, texts of ascending octets.
func TestSipHash(t *testing.T) {
	var key [16]byte
	for i := range key {
		key[i] = byte(i)
	}
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	text := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		if got := siphash(k0, k1, text[:n]); got != want {
			t.Errorf("%d octets: %x, want %x", n, got, want)
		}
	}
}

// has reports whether a message has a token.
func has(text, prefix, word string) bool {
	t := tokenizer{k0: 1, k1: 2}
	want := t.hash(prefix, word)
	for _, token := range tokenize(1, 2, []byte(text)) {
		if token.hash == want {
			return true
		}
	}
	return false
}

func TestTokens(t *testing.T) {
	const head = "From: Bob <bob@mail.shop.example>\nSubject: =?utf-8?q?caf=C3=A9?= time\n"
	for name, c := range map[string]struct {
		text, prefix, word string
		want               bool
	}{
		"word":                    {head + "\nBuy Viagra\n", "", "viagra", true},
		"another":                 {head + "\nBuy Viagra\n", "", "valium", false},
		"subject":                 {head + "\n", "subject", "café", true},
		"sender":                  {head + "\n", "from address", "bob@mail.shop.example", true},
		"sender's domain":         {head + "\n", "from host", "shop.example", true},
		"CRLF":                    {strings.ReplaceAll(head+"\nviagra\n", "\n", "\r\n"), "", "viagra", true},
		"folded":                  {"Subject: one\n two\n\n", "subject", "two", true},
		"base64":                  {head + "Content-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("buy viagra now")) + "\n", "", "viagra", true},
		"broken base64":           {head + "Content-Transfer-Encoding: base64\n\ndml*hZ\n3Jh\n", "", "viagra", true},
		"quoted":                  {head + "Content-Transfer-Encoding: quoted-printable\n\nvi=61g=\nra\n", "", "viagra", true},
		"part":                    {head + "Content-Type: multipart/mixed; boundary=\"b\"\n\nx\n--b\n\nviagra\n--b--\n", "", "viagra", true},
		"part without end":        {head + "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nviagra", "", "viagra", true},
		"boundary never":          {head + "Content-Type: multipart/mixed; boundary=b\n\nviagra", "", "viagra", true},
		"message in message":      {head + "Content-Type: message/rfc822\n\nSubject: x\n\nviagra", "", "viagra", true},
		"attached program":        {head + "Content-Type: application/x; name=\"a.EXE\"\n\nviagra", "extension", "exe", true},
		"its octets":              {head + "Content-Type: application/x; name=\"a.EXE\"\n\nviagra", "", "viagra", false},
		"comment inside a word":   {head + "Content-Type: text/html\n\nvi<!-- x -->ag<b></b>ra", "", "viagra", true},
		"blocks part words":       {head + "Content-Type: text/html\n\nvia<p>gra", "", "viagra", false},
		"entity":                  {head + "Content-Type: text/html\n\nv&#105;agra", "", "viagra", true},
		"script":                  {head + "Content-Type: text/html\n\n<script>viagra</script>", "", "viagra", false},
		"link":                    {head + "Content-Type: text/html\n\n<a href=\"http://a.b.pills.example/x\">x</a>", "host", "pills.example", true},
		"link with > in quotes":   {head + "Content-Type: text/html\n\n<a title=\">\" href='http://pills.example/x'>x</a>", "host", "pills.example", true},
		"link in text":            {head + "\nsee http://www.pills.example/order now", "host", "pills.example", true},
		"link to a number":        {head + "\nsee http://192.0.2.7/order now", "link", "to an address", true},
		"windows-1251":            {head + "Content-Type: text/plain; charset=windows-1251\n\n\xcf\xf0\xe8\xe2\xe5\xf2", "", "привет", true},
		"Chinese":                 {head + "Content-Type: text/plain; charset=utf-8\n\n免费发票", " runes", "发票", true},
		"long word":               {head + "\n" + strings.Repeat("a", 100), "", "long a10", true},
		"field of another filter": {head + "X-Spam-Flag: YES\n\n", "field", "x-spam-flag", false},
		"way":                     {head + "Received: from pills.example\n\n", "field", "received", false},
		"field":                   {head + "X-Mailer: Bulk 3\n\n", "x-mailer", "bulk", true},
		"no header":               {"no header at all", "", "header", true},
	} {
		if got := has(c.text, c.prefix, c.word); got != c.want {
			t.Errorf("%s: token %q %q: %v", name, c.prefix, c.word, got)
		}
	}
}

// TestTokenizeBounds: what a hostile message costs.
func TestTokenizeBounds(t *testing.T) {
	deep := strings.Builder{}
	for i := range 5000 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	for name, text := range map[string]string{
		"50 MB":            "Subject: x\n\n" + strings.Repeat("word and another ", 50<<20/17),
		"different words":  "\n" + words(100000),
		"one line":         strings.Repeat("a", 1<<20),
		"header only":      strings.Repeat("A: b\n", 100000),
		"fields":           "From: " + strings.Repeat("<a@b.example>,", 50000) + "\n\n",
		"deep":             deep.String(),
		"parts":            "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 50000),
		"open tags":        "Content-Type: text/html\n\n" + strings.Repeat("<a href=\"", 50000),
		"less than":        "Content-Type: text/html\n\n" + strings.Repeat("<", 300000),
		"comments":         "Content-Type: text/html\n\n" + strings.Repeat("<!--", 80000),
		"scripts":          "Content-Type: text/html\n\n" + strings.Repeat("<script></", 30000),
		"quotes in a tag":  "Content-Type: text/html\n\n<a" + strings.Repeat("=\"", 150000),
		"encoded words":    "Subject: " + strings.Repeat("=?utf-8?q?a?= ", 20000) + "\n\n",
		"links":            "\n" + strings.Repeat("http://a.b.c.d.example/e/f/g?h ", 10000),
		"parameters":       "Content-Type: text/plain" + strings.Repeat("; a=\"b", 50000) + "\n\n",
		"NUL":              strings.Repeat("\x00", 1<<20),
		"invalid UTF-8":    "Content-Type: text/plain; charset=utf-8\n\n" + strings.Repeat("\xff\xfe ", 100000),
		"one line of HTML": "Content-Type: text/html\n\n<" + strings.Repeat("a", 300000),
	} {
		begin := time.Now()
		got := tokenize(1, 2, []byte(text))
		if took := time.Since(begin); took > 2*time.Second || len(got) > maxTokens {
			t.Errorf("%s: %d tokens in %v", name, len(got), took)
		} else if took > 50*time.Millisecond {
			t.Logf("%s: %d tokens in %v", name, len(got), took)
		}
	}
}

func words(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "w%dx ", i)
	}
	return b.String()
}

// FuzzTokenize: no octets make the tokenizer fail, exceed its bounds, or answer differently when asked again.
func FuzzTokenize(f *testing.F) {
	f.Fuzz(func(t *testing.T, content []byte) {
		a, b := tokenize(1, 2, content), tokenize(1, 2, content)
		if len(a) > maxTokens || len(a) != len(b) {
			t.Fatalf("%d and %d tokens", len(a), len(b))
		}
		if !bytes.Equal(messageKey(a), messageKey(b)) {
			t.Fatal("the same message has two keys")
		}
		seen := map[uint64]bool{}
		for _, x := range a {
			if seen[x.hash] || x.kind >= kinds {
				t.Fatalf("%+v", x)
			}
			seen[x.hash] = true
		}
	})
}
