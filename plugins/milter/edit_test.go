package milter

import (
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strings"
	"testing"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

const mail = "Received: b\nReceived: a\nFrom: a@example.org\nSubject: one\nX-A: 1\nsubject: two\nX-A: 2\n\nhello\n"

// TestModifications: what each modification becomes.
func TestModifications(t *testing.T) {
	frames := func(list ...string) []string { return append(list, "c") }
	for name, c := range map[string]struct {
		frames []string
		want   string // of the verdict, or of the error with ! in front
	}{
		"add":                {frames("hX-New\x00v\x00"), `accept; add field "X-New" "v"`},
		"add two":            {frames("hX-1\x00a\x00", "hX-2\x00b\x00"), `accept; add field "X-2" "b"; add field "X-1" "a"`},
		"insert on top":      {frames("i"+at(0, "X-1\x00a\x00"), "i"+at(0, "X-2\x00b\x00")), `accept; add field "X-1" "a"; add field "X-2" "b"`},
		"insert below":       {frames("i"+at(0, "X-1\x00a\x00"), "i"+at(1, "X-2\x00b\x00")), `accept; add field "X-2" "b"; add field "X-1" "a"`},
		"insert and add":     {frames("hX-1\x00a\x00", "i"+at(3, "X-2\x00b\x00")), `accept; add field "X-1" "a"; add field "X-2" "b"`},
		"insert far below":   {frames("i"+at(1<<31, "X-1\x00a\x00"), "hX-2\x00b\x00"), `accept; add field "X-2" "b"; add field "X-1" "a"`},
		"change":             {frames("m" + at(1, "Subject\x00new\x00")), `accept; replace field "Subject" "new" 1`},
		"change the second":  {frames("m" + at(2, "SUBJECT\x00new\x00")), `accept; replace field "subject" "new" 2`},
		"change index 0":     {frames("m" + at(0, "Subject\x00new\x00")), `accept; replace field "Subject" "new" 1`},
		"change beyond":      {frames("m" + at(3, "Subject\x00new\x00")), `accept; add field "Subject" "new"`},
		"change what is not": {frames("m" + at(1, "X-B\x00new\x00")), `accept; add field "X-B" "new"`},
		"change what it added": {
			frames("hX-A\x00three\x00", "m"+at(3, "X-A\x003\x00")), `accept; add field "X-A" "3"`,
		},
		"change what it put in front": {
			frames("i"+at(0, "X-A\x00zero\x00"), "m"+at(2, "X-A\x00uno\x00")), `accept; replace field "X-A" "uno" 1; add field "X-A" "zero"`,
		},
		"twice":             {frames("m"+at(1, "X-A\x00a\x00"), "m"+at(1, "X-A\x00b\x00")), `accept; replace field "X-A" "b" 1`},
		"delete":            {frames("m" + at(1, "Subject\x00\x00")), `accept; remove field "Subject" 1`},
		"delete both":       {frames("m"+at(1, "X-A\x00\x00"), "m"+at(1, "X-A\x00\x00")), `accept; remove field "X-A" 2; remove field "X-A" 1`},
		"delete, change":    {frames("m"+at(1, "X-A\x00\x00"), "m"+at(1, "X-A\x00new\x00")), `accept; replace field "X-A" "new" 2; remove field "X-A" 1`},
		"delete none":       {frames("m" + at(3, "X-A\x00\x00")), `accept`},
		"delete its own":    {frames("hX-B\x00b\x00", "m"+at(1, "X-B\x00\x00")), `accept`},
		"empty value":       {frames("hX-B\x00\x00"), `accept; add field "X-B"`},
		"folded":            {frames("hX-B\x00a;\n\tb;\r\n  c\x00"), `accept; add field "X-B" "a; b; c"`},
		"an injection":      {frames("hX-B\x00a\r\nX-Evil: b\nBcc: c\rX: d\x00"), `accept; add field "X-B" "a X-Evil: b Bcc: c X: d"`},
		"an end of header":  {frames("m" + at(1, "Subject\x00a\r\n\r\nbody\x00")), `accept; replace field "Subject" "a body" 1`},
		"8 bit":             {frames("hX-B\x00\xc3\xa4\xff\x00"), `accept; add field "X-B" "ä�"`},
		"blanks":            {frames("hX-B\x00  a  b\t\x00"), `accept; add field "X-B" "a  b"`},
		"authentication":    {frames("hAuthentication-Results\x00mx; dkim=pass\x00", "m"+at(1, "Authentication-Results\x00\x00")), `accept`},
		"the server's own":  {frames("hReturn-Path\x00<x>\x00"), `accept; add field "Return-Path" "<x>"`}, // the core refuses it, and says so
		"no name":           {frames("h\x00v\x00"), `!is no name`},
		"a name with space": {frames("hX A\x00v\x00"), `!is no name`},
		"a name with colon": {frames("m" + at(1, "X:\x00v\x00")), `!is no name`},
		"a name with line":  {frames("hX\r\nY\x00v\x00"), `!is no name`},
		"no value":          {frames("hX-A\x00"), `!1 strings, expected 2`},
		"three strings":     {frames("hX-A\x00a\x00b\x00"), `!3 strings`},
		"no end":            {frames("hX-A\x00a"), `!without an end`},
		"no index":          {frames("m\x00\x00\x01"), `!no index`},
		"a huge value":      {frames("hX-A\x00" + strings.Repeat("a ", 31000) + "\x00"), `!more than 60000 octets`},

		"add recipient":        {frames("+<x@example.net>\x00", "+y@example.net\x00"), `accept; add recipient "x@example.net"; add recipient "y@example.net"`},
		"add with parameters":  {frames("2<x@example.net>\x00NOTIFY=NEVER\x00"), `accept; add recipient "x@example.net"`},
		"add one that is":      {frames("+<Alice@example.test>\x00"), `accept`},
		"add one twice":        {frames("+<x@example.net>\x00", "+<x@example.net>\x00"), `accept; add recipient "x@example.net"`},
		"add no address":       {frames("+<postmaster>\x00"), `!is no address`},
		"add a line":           {frames("+<a@b\r\nRCPT TO:<c@d>>\x00"), `!is no address`},
		"remove recipient":     {frames("-<carol@example.test>\x00"), `accept; remove recipient "carol@example.test"`},
		"remove by other case": {frames("-<CAROL@example.test>\x00", "-<carol@example.test>\x00"), `accept; remove recipient "carol@example.test"`},
		"remove a stranger":    {frames("-<x@example.net>\x00"), `accept`},
		"remove and add":       {frames("-<carol@example.test>\x00", "+<carol@example.test>\x00"), `accept`},
		"add and remove":       {frames("+<x@example.net>\x00", "-<x@example.net>\x00"), `accept`},
		"redirect":             {frames("-<carol@example.test>\x00", "+<x@example.net>\x00"), `accept; remove recipient "carol@example.test"; add recipient "x@example.net"`},
		"change sender":        {frames("e<b@example.net>\x00"), `accept; change sender "b@example.net"`},
		"null sender":          {frames("e<>\x00"), `accept; change sender`},
		"sender, parameters":   {frames("e<b@example.net>\x00SIZE=1\x00BODY=7BIT\x00"), `accept; change sender "b@example.net"`},
		"sender, no address":   {frames("eroot\x00"), `!is no address`},
		"quarantine":           {frames("qlooks odd\x00"), `quarantine`},
		"quarantine, reject":   {[]string{"qlooks odd\x00", "r"}, `reject`},
		"quarantine, changes":  {frames("qlooks odd\x00", "hX-B\x00b\x00"), `quarantine; add field "X-B" "b"`},
		"changes, reject":      {[]string{"hX-B\x00b\x00", "bnew", "y550 5.7.1 no\x00"}, `reject 550 5.7.1 no`},
		"changes, discard":     {[]string{"hX-B\x00b\x00", "d"}, `discard`},
		"changes, accept":      {[]string{"hX-B\x00b\x00", "a"}, `accept; add field "X-B" "b"`},
		"changes, garbage":     {[]string{"hX-B\x00b\x00", "bnew", "?"}, `!is none`},
		"new body":             {frames("bnew\r\n", "p", "bbo", "b", "bdy\n"), `accept; replace body "new\r\nbody\n" 10 <nil>`},
		"empty body":           {frames("b"), `accept; replace body "" 0 <nil>`},
		"a large body":         {frames(strings.Split(strings.Repeat("b"+strings.Repeat("x", 60000)+"|", 9)+"b.", "|")...), fmt.Sprintf("accept; replace body %q 540001 <nil>", strings.Repeat("x", 60))},
		"too large a body":     {frames(strings.Split(strings.Repeat("b"+strings.Repeat("x", 65000)+"|", 17)+"b.", "|")...), "!more than max_body"},
		"too many":             {frames(strings.Split(strings.TrimSuffix(strings.Repeat("hX\x00v\x00|", 201), "|"), "|")...), "!more than 200"},
		"everything": {
			frames("hX-B\x00b\x00", "m"+at(1, "Subject\x00s\x00"), "m"+at(1, "X-A\x00\x00"), "+<x@example.net>\x00", "-<carol@example.test>\x00", "e<b@example.net>\x00", "bx", "qodd\x00"),
			`quarantine; replace field "Subject" "s" 1; remove field "X-A" 1; add field "X-B" "b"; remove recipient "carol@example.test"; ` +
				`add recipient "x@example.net"; change sender "b@example.net"; replace body "x" 1 <nil>`,
		},
	} {
		f := startFake(t, &fake{reply: on('E', c.frames...)})
		v, err := ask(t, f, map[string]any{"max_body": "1MB"}, two(mail))
		got := show(v)
		if want, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), want) || got != "accept" {
				t.Errorf("%s: %s %v, want %q", name, got, err, want)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c.want)
		}
		if strings.Contains(got, "quarantine;") && !strings.Contains(fmt.Sprint(v.Reasons), "the milter quarantines it: ") {
			t.Errorf("%s: reasons %+v", name, v.Reasons)
		}
	}
}

// TestAnnounced: a milter gets nothing that it has not announced, one kind after the other.
func TestAnnounced(t *testing.T) {
	for _, text := range []string{
		"hX\x00v\x00", "i" + at(0, "X\x00v\x00"), "m" + at(1, "X\x00v\x00"), "+<x@example.net>\x00", "-<carol@example.test>\x00", "e<>\x00", "bx", "qx\x00",
	} {
		need := uint32(needs[text[0]])
		for _, actions := range []uint32{need, uint32(offeredActions) &^ need} {
			f := startFake(t, &fake{options: optneg(6, actions, 0), reply: on('E', text, "c")})
			v, err := ask(t, f, nil, two(mail))
			if (err == nil) != (actions == need) || err != nil && !strings.Contains(err.Error(), "not announced") {
				t.Errorf("%q with %#x: %s %v", text, actions, show(v), err)
			}
		}
	}
}

// TestRename: a field under another name, and nothing that a stranger wrote under it.
func TestRename(t *testing.T) {
	frames := []string{"i" + at(1, "Authentication-Results\x00mx; dkim=pass\x00"), "hX-Note\x00n\x00", "hX-Kept\x00k\x00", "c"}
	for name, c := range map[string]struct {
		rename map[string]any
		want   string
		reason string
	}{
		"default": {nil, `accept; add field "X-Kept" "k"; add field "X-Note" "n"`, "Authentication-Results: mx; dkim=pass"},
		"renamed": {
			map[string]any{"authentication-results": "X-Milter-Results", "X-Note": ""},
			`accept; remove field "X-Milter-Results"; add field "X-Kept" "k"; add field "X-Milter-Results" "mx; dkim=pass"`, "X-Note: n",
		},
		"left to the core": {
			map[string]any{}, `accept; add field "X-Kept" "k"; add field "X-Note" "n"; add field "Authentication-Results" "mx; dkim=pass"`, "",
		},
	} {
		config := map[string]any{}
		if c.rename != nil {
			config["rename"] = c.rename
		}
		f := startFake(t, &fake{reply: on('E', frames...)})
		v, err := ask(t, f, config, sdktest.Mail("From: a@example.org\nX-Milter-Results: forged\nx-milter-results : forged again\n\nhello\n"))
		if err != nil || show(v) != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, show(v), c.want)
		}
		if c.reason != "" && (len(v.Reasons) != 1 || v.Reasons[0].Text != c.reason) {
			t.Errorf("%s: %+v", name, v.Reasons)
		}
	}
}

// TestSignature: the administrator hears of signatures that cannot hold.
func TestSignature(t *testing.T) {
	for value, want := range map[string]int{
		"v=1; a=rsa-sha256; c=relaxed/simple;\n\td=example.test; b=abc": 0,
		"v=1; a=rsa-sha256; c = Relaxed; b=abc":                         0,
		"v=1; a=rsa-sha256; c=simple/relaxed; b=abc":                    1,
		"v=1; a=rsa-sha256; b=abc":                                      1,
	} {
		f := startFake(t, &fake{reply: on('E', "i"+at(1, "DKIM-Signature\x00"+value+"\x00"), "c")})
		v, err := ask(t, f, nil, sdktest.Mail(mail))
		if err != nil || len(v.Alerts) != want || len(v.Changes) != 1 {
			t.Errorf("%q: %+v %v", value, v, err)
		}
	}
}

// TestNothingLeft: a large new body leaves no file behind, whatever becomes of it.
func TestNothingLeft(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	large := strings.Repeat("b"+strings.Repeat("x", 60000)+"|", 9)
	for _, last := range []string{"c", "r", "?", "hX\x00"} {
		f := startFake(t, &fake{reply: on('E', append(strings.Split(strings.TrimSuffix(large, "|"), "|"), last)...)})
		v, err := ask(t, f, nil, sdktest.Mail(mail))
		if got := len(v.Changes); got != map[string]int{"c": 1}[last] {
			t.Errorf("%q: %d changes %v", last, got, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		for _, f := range left {
			if strings.HasPrefix(f.Name(), "milter-") {
				t.Errorf("%s is left", f.Name())
			}
		}
	}
}

// TestHeader: odd headers, as the milter sees them.
func TestHeader(t *testing.T) {
	for text, want := range map[string]string{
		"A: b\n\nbody":                 "LA|b|",
		"A: b":                         "LA|b|",
		"\nA: b\n":                     "",
		"":                             "",
		"A:b\n c\n\td\n\n":             "LA|b\n c\n\td|",
		" led by a blank\nA: b\n\n":    "LX-Not-A-Field| led by a blank|LA|b|",
		"From x Sat Nov 21\nA: b\n\n":  "LX-Not-A-Field|From x Sat Nov 21|LA|b|",
		"no field here\nA: b\n\n":      "LX-Not-A-Field|no field here|LA|b|",
		"A \t: b\n: empty\n\n":         "LA|b|LX-Not-A-Field|: empty|",
		"A: b\x00c\nD\x00: \xff\xfe\n": "LA|b c|LD|\xff\xfe|",
		"A:\n\n":                       "LA||",
		"A:  two\n\n":                  "LA| two|",
	} {
		f := startFake(t, &fake{})
		v, err := ask(t, f, nil, sdktest.Mail(text))
		var got strings.Builder
		for _, frame := range f.saw() {
			if frame[0] == 'L' {
				got.WriteString(frame)
			}
		}
		if err != nil || show(v) != "accept" || got.String() != want {
			t.Errorf("%q: %v\n%q\nwant\n%q", text, err, got.String(), want)
		}
	}
	f := startFake(t, &fake{})
	v, err := ask(t, f, nil, sdktest.Mail("To: "+strings.Repeat("somebody@example.test,\n ", 4000)+"x@example.test\n\n"))
	if err != nil || len(v.Reasons) != 1 || v.Reasons[0].Symbol != "MILTER_PARTIAL" {
		t.Errorf("a huge field: %+v %v", v.Reasons, err)
	}
	if v, err := ask(t, f, nil, sdktest.Mail(strings.Repeat("A: "+strings.Repeat("b", 990)+"\n", 2200))); err == nil || !strings.Contains(err.Error(), "its header") {
		t.Errorf("a huge header: %s %v", show(v), err)
	}
}

// other is a milter on go-milter's server, which speaks version 2.
type other struct {
	milter.NoOpMilter
	saw *strings.Builder
}

func (o other) Connect(host, family string, port uint16, addr net.IP, m *milter.Modifier) (milter.Response, error) {
	fmt.Fprintf(o.saw, "connect %s %s %d %s %s\n", host, family, port, addr, m.Macros["j"])
	return milter.RespContinue, nil
}

func (o other) MailFrom(from string, _ *milter.Modifier) (milter.Response, error) {
	fmt.Fprintf(o.saw, "mail %s\n", from)
	return milter.RespContinue, nil
}

func (o other) RcptTo(to string, _ *milter.Modifier) (milter.Response, error) {
	fmt.Fprintf(o.saw, "rcpt %s\n", to)
	if strings.Contains(to, "carol") {
		return milter.NewResponseStr('y', "550 5.7.1 not her"), nil
	}
	return milter.RespContinue, nil
}

func (o other) Headers(h textproto.MIMEHeader, _ *milter.Modifier) (milter.Response, error) {
	fmt.Fprintf(o.saw, "%d fields %s\n", len(h), h.Get("Subject"))
	return milter.RespContinue, nil
}

func (o other) BodyChunk(b []byte, _ *milter.Modifier) (milter.Response, error) {
	fmt.Fprintf(o.saw, "body %q\n", b)
	return milter.RespContinue, nil
}

func (o other) Body(m *milter.Modifier) (milter.Response, error) {
	for _, err := range []error{
		m.AddHeader("X-Added", "a\r\n\tb"), m.ChangeHeader(2, "Subject", "changed"), m.InsertHeader(0, "X-Inserted", "i"),
		m.AddRecipient("x@example.net"), m.DeleteRecipient("alice@example.test"), m.ReplaceBody([]byte("new\r\nbody\r\n")), m.Quarantine("odd"),
	} {
		if err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

// TestGoMilter: against somebody else's idea of the protocol.
func TestGoMilter(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var saw strings.Builder
	server := milter.Server{
		NewMilter: func() milter.Milter { return other{saw: &saw} },
		Actions: milter.OptAddHeader | milter.OptChangeHeader | milter.OptChangeBody | milter.OptAddRcpt | milter.OptRemoveRcpt |
			milter.OptQuarantine,
		Protocol: milter.OptNoHelo,
	}
	done := make(chan struct{})
	go func() { _ = server.Serve(l); close(done) }()
	defer func() { l.Close(); <-done }()
	v, err := ask(t, &fake{address: "tcp:" + l.Addr().String()}, nil, two(mail))
	const want = `quarantine; carol@example.test reject 550 5.7.1 not her; replace field "subject" "changed" 2; add field "X-Added" "a b"; add field "X-Inserted" "i"; ` +
		`remove recipient "alice@example.test"; add recipient "x@example.net"; replace body "new\nbody\n" 9 <nil>`
	if err != nil || show(v) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, show(v), want)
	}
	const heard = "rcpt alice@example.test\nrcpt carol@example.test\n4 fields one\nbody \"hello\\r\\n\"\n"
	if !strings.HasSuffix(saw.String(), heard) || !strings.HasPrefix(saw.String(), "connect ") {
		t.Errorf("it saw\n%s", saw.String())
	}
}

// wire is a milter that has said everything already.
type wire struct {
	*strings.Reader
	sent int
}

func (w *wire) Write(b []byte) (int, error) { w.sent += len(b); return len(b), nil }

// FuzzMilter: whatever a milter sends, there is an error, or a verdict that the server takes.
func FuzzMilter(f *testing.F) {
	begin := string(frame("O" + optneg(6, uint32(offeredActions), uint32(offeredSteps))))
	for _, list := range [][]string{
		{"c"}, {"a"}, {"r"}, {"y550-5.7.1 a\r\n550 5.7.1 b\x00"}, {"hX-A\x00b\n\tc\x00", "c"}, {"i" + at(0, "X-A\x00b\x00"), "m" + at(2, "Subject\x00\x00"), "c"},
		{"p", "bnew\r\n", "bbody", "a"}, {"+<x@example.net>\x00", "-<carol@example.test>\x00", "e<>\x00A=b\x00", "qodd\x00", "c"},
		{"i" + at(1, "Authentication-Results\x00x\x00"), "i" + at(0, "X-Note\x00x\x00"), "c"},
	} {
		text := begin
		for _, one := range list {
			text += string(frame(one))
		}
		f.Add(text)
	}
	f.Add(string(frame("O" + optneg(2, 0x3f, 0))))
	f.Fuzz(func(t *testing.T, text string) {
		settings := defaults()
		settings.Rename["x-note"] = "X-A"
		settings.MaxBody = 1 << 10
		s := newSession(&wire{Reader: strings.NewReader(text)}, &settings)
		if s.negotiate() != nil {
			return
		}
		m := two(mail)
		v, err := s.replay(m)
		if err != nil {
			return
		}
		s.quit()
		if len(v.Changes) > maxEdits || len(v.Reasons) > 2*maxNotes || v.Reply != nil && len(v.Reply.Text) > 400 {
			t.Errorf("%d changes, %d reasons", len(v.Changes), len(v.Reasons))
		}
		for _, c := range v.Changes {
			if strings.ContainsAny(c.Name+c.Value+c.Address, "\r\n\x00") || c.Kind <= sdk.RemoveField && !isFieldName(c.Name) {
				t.Errorf("%+v", c)
			}
			if (c.Kind == sdk.AddRecipient || c.Kind == sdk.ChangeSender && c.Address != "") && !isAddress(c.Address) {
				t.Errorf("%+v", c)
			}
		}
		if line := show(v); strings.ContainsAny(strings.Split(line, "; replace body")[0], "\r\n\x00") {
			t.Errorf("%q", line)
		}
	})
}

// FuzzHeader: no octet of a header is lost but blanks, colons and NUL, and each field is one.
func FuzzHeader(f *testing.F) {
	for _, text := range []string{"A: b\r\n c\r\nD:e\r\n", " x\r\nA\t: b", "no field\r\n", ": \r\n", "\x00:\x00"} {
		f.Add(text)
	}
	letters := func(text string) string {
		var b strings.Builder
		for i := range len(text) {
			if !strings.ContainsRune(" \t\r\n:\x00", rune(text[i])) {
				b.WriteByte(text[i])
			}
		}
		return b.String()
	}
	f.Fuzz(func(t *testing.T, text string) {
		var all strings.Builder
		for _, x := range splitHeader(text) {
			if strings.ContainsAny(x.name+x.value, "\x00") || strings.ContainsAny(x.name, "\r\n:") || x.name == "" {
				t.Errorf("%+v", x)
			}
			for i, line := range strings.Split(x.value, "\n") {
				if i > 0 && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
					t.Errorf("%q is more than one field", x.value)
				}
			}
			if !x.bogus {
				all.WriteString(x.name)
			}
			all.WriteString(x.value)
		}
		if letters(all.String()) != letters(text) {
			t.Errorf("%q became %q", text, all.String())
		}
	})
}
