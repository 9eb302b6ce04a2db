package mime

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

func parse(msg string) *Summary {
	return Parse(strings.NewReader(msg), int64(len(msg)), Limits{})
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// TestGolden parses each testdata/*.eml and compares what was found with the
// .golden beside it: structure with numbers, defects, envelope, and the
// beginning of every body. The files are written with LF and parsed with CRLF;
// \0, \x80 and the like stand for the octets that an editor would spoil.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.eml")
	if len(files) < 10 {
		t.Fatalf("only %d mails in testdata", len(files))
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			msg := readMail(t, name)
			sum := parse(msg)
			checkShape(t, msg, sum)
			checkCodec(t, sum)
			got := dump(msg, sum)
			golden := strings.TrimSuffix(name, ".eml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func readMail(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`\0`, "\x00", `\xff`, "\xff", `\xe4`, "\xe4").Replace(crlf(string(raw)))
}

var defectNames = []string{"LimitParts", "LimitDepth", "LimitHeader", "LimitKept", "DuplicateField", "DuplicateParameter",
	"NoBoundary", "SameBoundary", "MissingClose", "BadHeaderLine", "EncodedContainer", "BadContentType"}

func dump(msg string, s *Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "defects:")
	for i, n := range defectNames {
		if s.Defects&(1<<i) != 0 {
			fmt.Fprintf(&b, " %s", n)
		}
	}
	fmt.Fprintf(&b, "\npreview: %q\nreferences: %q\n", s.Preview, s.References)
	dumpEnvelope(&b, "", &s.Envelope)
	dumpPart(&b, msg, "", s.Root, true)
	return b.String()
}

func dumpEnvelope(b *strings.Builder, indent string, e *Envelope) {
	fmt.Fprintf(b, "%sdate %q subject %q in-reply-to %q message-id %q present %b\n", indent, e.Date, e.Subject, e.InReplyTo, e.MessageID, e.Present)
	for _, l := range []struct {
		n string
		l []Address
	}{{"from", e.From}, {"sender", e.Sender}, {"reply-to", e.ReplyTo}, {"to", e.To}, {"cc", e.Cc}, {"bcc", e.Bcc}} {
		for _, a := range l.l {
			fmt.Fprintf(b, "%s%s %q %q %q %q\n", indent, l.n, a.Name, a.Route, a.Mailbox, a.Host)
		}
	}
}

func dumpPart(b *strings.Builder, msg, path string, p *Part, root bool) {
	indent := strings.Repeat("  ", strings.Count(path, ".")+1)
	fmt.Fprintf(b, "%s[%s] %s/%s %q enc=%q id=%q desc=%q disp=%q %q lang=%q loc=%q md5=%q lines=%d size=%d\n", indent, path, p.Type, p.Subtype, p.Params,
		p.Encoding, p.ID, p.Description, p.Disposition, p.DispositionParams, p.Language, p.Location, p.MD5, p.Lines, p.Size())
	if p.Embedded != nil {
		dumpEnvelope(b, indent+"  ", p.Embedded)
	} else if !p.Multipart() {
		body := msg[p.BodyStart:p.BodyEnd]
		fmt.Fprintf(b, "%s  %q\n", indent, body[:min(len(body), 100)])
	}
	for i, c := range p.Children {
		switch {
		case p.Embedded != nil && c.Multipart():
			dumpPart(b, msg, path+".M", c, true)
		case path == "":
			dumpPart(b, msg, fmt.Sprint(i+1), c, false)
		default:
			dumpPart(b, msg, fmt.Sprintf("%s.%d", path, i+1), c, false)
		}
	}
}

// checkShape holds what every Summary promises: ranges inside the message and
// inside the enclosing part, children in order and apart, header and body
// touching; multiparts with children.
func checkShape(t testing.TB, msg string, s *Summary) {
	t.Helper()
	if s.Size != int64(len(msg)) || s.Root.HeaderStart != 0 || s.Root.BodyEnd > s.Size {
		t.Fatalf("root %+v of size %d, message %d", s.Root, s.Size, len(msg))
	}
	if len([]rune(s.Preview)) > previewRunes {
		t.Fatalf("preview too long: %q", s.Preview)
	}
	var walk func(p *Part, from, to int64)
	walk = func(p *Part, from, to int64) {
		if p.HeaderStart < from || p.BodyStart < p.HeaderStart || p.BodyEnd < p.BodyStart || p.BodyEnd > to {
			t.Fatalf("part %d..%d..%d not in %d..%d", p.HeaderStart, p.BodyStart, p.BodyEnd, from, to)
		}
		if p.Type == "" || p.Subtype == "" || p.Lines < 0 || p.Lines > p.Size() {
			t.Fatalf("part %+v", p)
		}
		if p.Multipart() == (len(p.Children) == 0) && p.Embedded == nil {
			t.Fatalf("multipart %v with %d children", p.Multipart(), len(p.Children))
		}
		if n := strings.Count(msg[p.BodyStart:p.BodyEnd], "\n"); int64(n) != p.Lines && (p.Type == "text" || p.Embedded != nil) {
			t.Fatalf("lines %d, want %d in %s/%s %q", p.Lines, n, p.Type, p.Subtype, msg[p.BodyStart:p.BodyEnd])
		}
		at := p.BodyStart
		for _, c := range p.Children {
			walk(c, at, p.BodyEnd)
			at = c.BodyEnd
		}
	}
	walk(s.Root, 0, s.Size)
}

func checkCodec(t testing.TB, s *Summary) {
	t.Helper()
	b, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1<<20 {
		t.Fatalf("stored summary takes %d octets", len(b))
	}
	back, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := back.AppendBinary(nil)
	if !bytes.Equal(b, again) {
		t.Fatalf("decode of encode differs:\n%q\n%q", b, again)
	}
}

// TestHostileShapes holds time and memory against mails made to hurt (DRILLS E3.2).
func TestHostileShapes(t *testing.T) {
	nest := func(depth int) string {
		var b strings.Builder
		for i := range depth {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		return b.String()
	}
	for name, msg := range map[string]string{
		"empty":            "",
		"only newline":     "\r\n",
		"no newline":       "Subject: x",
		"CR only":          strings.Repeat("Subject: x\r", 1000),
		"depth 10000":      nest(10000),
		"rfc822 chain":     strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10000),
		"100000 parts":     "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 100000) + "--b--\r\n",
		"parts no body":    "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n", 200000),
		"dashes":           nest(49) + strings.Repeat("--\r\n", 500000),
		"dashes no lf":     nest(49) + strings.Repeat("--b", 500000),
		"digest of digest": strings.Repeat("Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n", 2000),
		"one long line":    "Subject: " + strings.Repeat("x", 4<<20),
		"fields":           strings.Repeat("A: b\r\n", 500000),
		"folds":            "Subject: x\r\n" + strings.Repeat(" y\r\n", 200000),
		"commas":           "To: " + strings.Repeat(",", 900000) + "\r\n\r\n",
		"addresses":        "To: " + strings.Repeat("a@b,", 80000) + "\r\n\r\n",
		"open literals":    "To: " + strings.Repeat("a@[", 100000) + "\r\n\r\n",
		"open angles":      "To: " + strings.Repeat("<@a,", 90000) + "\r\n\r\n",
		"open quotes":      "To: " + strings.Repeat("\"a\\", 90000) + "\r\n\r\n",
		"comments":         "To: " + strings.Repeat("(", 300000) + "\r\n\r\n",
		"comment pairs":    "To: " + strings.Repeat("()", 150000) + "\r\n\r\n",
		"dots":             "To: a@" + strings.Repeat(" . ", 100000) + "\r\n\r\n",
		"colons":           "To: " + strings.Repeat("a:", 100000) + "\r\n\r\n",
		"words":            "From: " + strings.Repeat("a\tb", 100000) + "\r\n\r\n",
		"parameters":       "Content-Type: text/plain" + strings.Repeat(";a=b", 90000) + "\r\n\r\n",
		"open parameter":   "Content-Type: text/plain;" + strings.Repeat("a=\"", 90000) + "\r\n\r\n",
		"references":       "References: " + strings.Repeat("<a>", 120000) + "\r\n\r\n",
		"references open":  "References: " + strings.Repeat("<", 300000) + "\r\n\r\n",
		"html":             "Content-Type: text/html\r\n\r\n" + strings.Repeat("<style>", 5000),
		"nul":              strings.Repeat("\x00", 100000),
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			s := parse(msg)
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("took %v", d)
			}
			checkShape(t, msg, s)
			checkCodec(t, s)
		})
	}
}

func TestLimits(t *testing.T) {
	many := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 20) + "--b--\r\nepilogue\r\n"
	s := Parse(strings.NewReader(many), int64(len(many)), Limits{Parts: 5})
	if n := len(s.Root.Children); n != 4 || s.Defects&LimitParts == 0 {
		t.Fatalf("%d children, defects %b", n, s.Defects)
	}
	if last := s.Root.Children[3]; last.Type != "application" || !strings.HasSuffix(many[:last.BodyEnd], "x") || last.Size() < 100 {
		t.Fatalf("last part %+v", last)
	}
	s = Parse(strings.NewReader(many), int64(len(many)), Limits{HeaderOctets: 10})
	if s.Defects&LimitHeader == 0 || s.Root.Type != "text" {
		t.Fatalf("header limit: %+v", s)
	}
	long := "Subject: " + strings.Repeat("s", 100) + "\r\nTo: a@b\r\n\r\n"
	s = Parse(strings.NewReader(long), int64(len(long)), Limits{Kept: 50})
	if s.Envelope.Subject != "" || len(s.Envelope.To) != 1 || s.Defects&LimitKept == 0 {
		t.Fatalf("kept limit: %+v", s.Envelope)
	}
}

// A message that does not fit the window of the scanner parses the same.
func TestWindow(t *testing.T) {
	body := strings.Repeat(strings.Repeat("y", 3000)+"\r\n", 40)
	msg := "Subject: w\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\npre\r\n--bb\r\n\r\n" + body +
		"--bb\r\nContent-Type: text/html\r\n\r\n" + strings.Repeat("z", 100000) + "\r\n--bb--\r\n"
	s := parse(msg)
	checkShape(t, msg, s)
	if len(s.Root.Children) != 2 || msg[s.Root.Children[0].BodyStart:s.Root.Children[0].BodyEnd] != strings.TrimSuffix(body, "\r\n") ||
		s.Root.Children[1].Size() != 100000 {
		t.Fatalf("%+v", s.Root)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		`a@b`:                                  `["" "a" "b"]`,
		`A B <a@b>`:                            `["A B" "a" "b"]`,
		`"A \"x\" B" <a@b>`:                    `["A \"x\" B" "a" "b"]`,
		`"A"  B "C" <a@b>`:                     `["A B C" "a" "b"]`,
		`a@b (Old Name)`:                       `["Old Name" "a" "b"]`,
		`(c) a@b`:                              `["c" "a" "b"]`,
		`<@x,@y:a@b>`:                          `["" "a" "b" @x,@y]`,
		`G: a@b, C <c@d>;`:                     `["" "G" ""] ["" "a" "b"] ["C" "c" "d"] ["" "" ""]`,
		`undisclosed-recipients:;`:             `["" "undisclosed-recipients" ""] ["" "" ""]`,
		`G: a@b`:                               `["" "G" ""] ["" "a" "b"] ["" "" ""]`,
		`a`:                                    `["" "a" "MISSING_DOMAIN"]`,
		`<>`:                                   `["" "MISSING_MAILBOX" "MISSING_DOMAIN"]`,
		`a@[1.2.3.4]`:                          `["" "a" "[1.2.3.4]"]`,
		`john . doe @ example . com`:           `["" "john.doe" "example.com"]`,
		`"john doe"@x`:                         `["" "john doe" "x"]`,
		`=?utf-8?q?J=C3=B6rg?= <j@x>`:          `["=?utf-8?q?J=C3=B6rg?=" "j" "x"]`,
		"A\r\n B <a@b>":                        `["A B" "a" "b"]`,
		`A <a@b, c@d`:                          `["A" "a" "b"] ["" "c" "d"]`,
		`a@b; c@d`:                             `["" "a" "b"] ["" "c" "d"]`,
		`, ,a@b,`:                              `["" "a" "b"]`,
		"J\xf6rg <j@x>":                        `["J\xf6rg" "j" "x"]`,
		`Mary Smith <mary@x.test>, jdoe@y.org`: `["Mary Smith" "mary" "x.test"] ["" "jdoe" "y.org"]`,
		`a@b@c`:                                `["" "a" "b"] ["" "MISSING_MAILBOX" "c"]`,
		``:                                     ``,
	} {
		var got []string
		for _, a := range Addresses(in, 100) {
			s := fmt.Sprintf("%q", []string{a.Name, a.Mailbox, a.Host})
			if a.Route != "" {
				s = strings.TrimSuffix(s, "]") + " " + a.Route + "]"
			}
			got = append(got, s)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%q:\n got %s\nwant %s", in, g, want)
		}
	}
}

func TestFields(t *testing.T) {
	h := "Subject: a\r\n b\r\nbad line\r\nX-Y :z\r\nTo:\r\n\r\nBody: no"
	fields := Fields([]byte(h))
	var got []string
	at := 0
	for _, f := range fields {
		if f.Start != at {
			t.Fatalf("gap before %+v", f)
		}
		at = f.End
		got = append(got, fmt.Sprintf("%s=%q", f.Name, h[f.ValueStart:f.End]))
	}
	want := `Subject=" a\r\n b\r\n" ="bad line\r\n" X-Y="z\r\n" To="\r\n"`
	if g := strings.Join(got, " "); g != want {
		t.Errorf("got  %s\nwant %s", g, want)
	}
	if at+2 != HeaderEnd([]byte(h)) {
		t.Errorf("header ends at %d, fields at %d", HeaderEnd([]byte(h)), at)
	}
}

func TestMessageIDs(t *testing.T) {
	in := "<a@b> junk <c d> <<e@f>\r\n <g@h>"
	if got := fmt.Sprint(MessageIDs(in, 100)); got != "[a@b e@f g@h]" {
		t.Error(got)
	}
	if got := fmt.Sprint(MessageIDs("<1><2><3><4>", 3)); got != "[1 3 4]" {
		t.Error(got)
	}
}

func TestDecodeWords(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                             "plain",
		"=?iso-8859-1?q?J=F6rg?= x":         "Jörg x",
		"=?shift_jis?b?k/qWew==?=":          "日本",
		"=?nonsense?q?a?=":                  "=?nonsense?q?a?=",
		"=?utf-8?b?0LA=?= =?utf-8?b?0LE=?=": "аб",
	} {
		if got := DecodeWords(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
