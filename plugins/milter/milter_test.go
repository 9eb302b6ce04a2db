package milter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

const (
	carol = "carol@example.test"
	hello = "Received: by x\nFrom: a@example.org\nSubject: one\nsubject : two\n\thalf\nX-Empty:\nTo:alice@example.test\n\nhello\n.\n"
)

func ask(t *testing.T, f *fake, config map[string]any, m *sdk.Message) (sdk.Verdict, error) {
	t.Helper()
	if config == nil {
		config = map[string]any{}
	}
	config["address"] = f.address
	return sdktest.Start(t, New(), config).Ask(m)
}

func two(text string) *sdk.Message {
	m := sdktest.Mail(text)
	m.Recipients = append(m.Recipients, sdk.Recipient{Address: carol})
	return m
}

// TestDialogue: what a milter sees of a message, to the octet.
func TestDialogue(t *testing.T) {
	f := startFake(t, &fake{})
	m := two(hello)
	m.Envelope = sdk.Envelope{
		ID: "4F2K", Server: "mx.example.test", Listener: "submission", ClientAddr: "2001:db8::1", ClientPort: 258, ClientName: "c.example.org",
		Helo: "c", ESMTP: true, TLS: "TLS 1.3", Cipher: "TLS_CHACHA20_POLY1305_SHA256", Login: "alice@example.test", Sender: "a+b@example.org",
		Size: 1000, Body: "8BITMIME", SMTPUTF8: true, Ret: "HDRS", EnvID: "a=b c",
		Recipients: []sdk.Recipient{
			{Address: "alice@example.test", Accounts: []string{"alice@example.test"}, Notify: []string{"SUCCESS", "DELAY"}, ORcpt: "rfc822;x@example.test"},
			{Address: "other@example.net"},
		},
	}
	v, err := ask(t, f, map[string]any{"macros": map[string]any{"{daemon_name}": "ORIGINATING", "Z": "z"}}, m)
	if err != nil || show(v) != "accept" || len(v.Reasons) != 0 {
		t.Fatalf("%+v %v", v, err)
	}
	want := []string{
		"O" + strings.ReplaceAll(optneg(6, 0x1ff, 0x1ff3ff), "\x00", "|"),
		"DCj|mx.example.test|v|Sluice|{if_name}|mx.example.test|_|c.example.org [2001:db8::1]|{client_addr}|2001:db8::1|{client_name}|c.example.org|" +
			"{client_ptr}|c.example.org|{client_port}|258|{client_resolve}|OK|Z|z|{daemon_name}|ORIGINATING|",
		"Cc.example.org|6\x01\x022001:db8::1|",
		"DH{tls_version}|TLSv1.3|{cipher}|TLS_CHACHA20_POLY1305_SHA256|{cipher_bits}|256|",
		"Hc|",
		"DMi|4F2K|{auth_authen}|alice@example.test|{auth_type}|SASL|{mail_addr}|a+b@example.org|{mail_host}|example.org|{mail_mailer}|esmtp|",
		"M<a+b@example.org>|SIZE=1000|BODY=8BITMIME|SMTPUTF8|RET=HDRS|ENVID=a+3Db+20c|",
		"DRi|4F2K|{rcpt_addr}|alice@example.test|{rcpt_host}|example.test|{rcpt_mailer}|local|",
		"R<alice@example.test>|NOTIFY=SUCCESS,DELAY|ORCPT=rfc822;x@example.test|",
		"DRi|4F2K|{rcpt_addr}|other@example.net|{rcpt_host}|example.net|{rcpt_mailer}|esmtp|",
		"R<other@example.net>|",
		"DTi|4F2K|", "T",
		"LReceived|by x|", "LFrom|a@example.org|", "LSubject|one|", "Lsubject|two\n\thalf|", "LX-Empty||", "LTo|alice@example.test|",
		"DNi|4F2K|", "N", "Bhello\r\n.\r\n", "DEi|4F2K|", "E", "Q",
	}
	if got := f.saw(); !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestOptions: steps that the milter does not want are left out, and their macros come with the next; it is
// not waited for replies that do not come; values have their leading space if it asks.
func TestOptions(t *testing.T) {
	all := uint32(offeredSteps)
	for name, c := range map[string]struct {
		options string
		want    string // codes that it saw
		failure string
	}{
		"everything":         {optneg(6, 0, 0), "ODCDHDMDRDTLLDNBDEQ", ""},
		"nothing":            {optneg(6, 0, all), "ODEQ", ""},
		"no replies":         {optneg(6, 0, uint32(noReplies)), "ODCDHDMDRDTLLDNBDEQ", ""},
		"no connect, helo":   {optneg(6, 0, uint32(milter.OptNoConnect|milter.OptNoHelo)), "ODMDRDTLLDNBDEQ", ""},
		"no body":            {optneg(6, 0, uint32(milter.OptNoBody|milter.OptNoEOH)), "ODCDHDMDRDTLLDEQ", ""},
		"no header":          {optneg(6, 0, uint32(milter.OptNoHeaders|milter.OptNoData)), "ODCDHDMDRDNBDEQ", ""},
		"version 2":          {optneg(2, 0x3f, 0), "ODCDHDMDRLLDNBDEQ", ""},
		"more behind":        {optneg(6, 0, 0) + "\x00\x00\x00\x01i\x00", "ODCDHDMDRDTLLDNBDEQ", ""},
		"version 1":          {optneg(1, 0, 0), "O", "version 1"},
		"version 7":          {optneg(7, 0, 0), "O", "version 7"},
		"skip":               {optneg(6, 0, uint32(milter.OptSkip)), "O", "steps skip"},
		"refused recipients": {optneg(6, 0, uint32(milter.OptRcptRej)), "O", "refused recipients"},
		"strange":            {optneg(6, 0, 1<<30), "O", "bit 30"},
		"all actions":        {optneg(6, 0x1ff, 0), "ODCDHDMDRDTLLDNBDEQ", ""},
		"one action more":    {optneg(6, 0x200, 0), "O", "bit 9"},
		"short":              {"\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00", "O", "no milter"},
	} {
		f := startFake(t, &fake{options: c.options})
		v, err := ask(t, f, nil, sdktest.Mail("From: a@example.org\nSubject: x\n\nhello\n"))
		codes := ""
		for _, text := range f.saw() {
			if codes += text[:1]; text[0] == 'D' && len(text) < 4 {
				t.Errorf("%s: macros %q", name, text)
			}
		}
		if codes != c.want || (err != nil) != (c.failure != "") || err != nil && !strings.Contains(err.Error(), c.failure) || v.Action != sdk.Accept {
			t.Errorf("%s: %s %+v %v, want %s %q", name, codes, v, err, c.want, c.failure)
		}
	}
	f := startFake(t, &fake{options: optneg(6, 0, uint32(milter.OptHeaderLeadingSpace|milter.OptNoConnect|milter.OptNoHelo))})
	if _, err := ask(t, f, map[string]any{"macros": map[string]any{"a": "b"}}, sdktest.Mail("A: b\nC:d\nE:  f\n\n")); err != nil {
		t.Fatal(err)
	}
	saw := strings.Join(f.saw(), "\n")
	for _, want := range []string{"LA| b|\nLC|d|\nLE|  f|", "DMj|mx.example.test|", "|a|b|"} {
		if !strings.Contains(saw, want) {
			t.Errorf("no %q in\n%s", want, saw)
		}
	}
}

// TestAnswers: what each reply means at each step.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		step  byte
		reply string
		want  string // of the verdict, or of the error with ! in front
		saw   string // last codes
	}{
		{'C', "a", "accept", "CQ"},
		{'C', "r", "reject", "CQ"},
		{'H', "t", "defer", "HQ"},
		{'M', "a", "accept", "MAQ"},
		{'M', "d", "discard", "MAQ"},
		{'M', "y550 5.7.1 go away\x00", "reject 550 5.7.1 go away", "MAQ"},
		{'R', "a", "accept", "RAQ"},
		{'R', "d", "discard", "RAQ"},
		{'T', "t", "defer", "TAQ"},
		{'L', "y451 4.3.0 later\x00", "defer 451 4.3.0 later", "LAQ"},
		{'N', "a", "accept", "NAQ"},
		{'B', "r", "reject", "BAQ"},
		{'E', "c", "accept", "EQ"},
		{'E', "a", "accept", "EQ"},
		{'E', "d", "discard", "EQ"},
		{'E', "r", "reject", "EQ"},
		{'E', "t", "defer", "EQ"},
		{'E', "f", "defer", "EQ"},
		{'E', "4", "defer", "EQ"},
		{'E', "y550 5.7.1 100%% of it\x00", "reject 550 5.7.1 100% of it", "EQ"},
		{'E', "y554 no code\x00", "reject 554 5.7.1 no code", "EQ"},
		{'E', "y550 4.7.1 wrong class\x00", "reject 550 5.7.1 4.7.1 wrong class", "EQ"},
		{'E', "y550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\x00", "reject 550 5.7.1 one two three", "EQ"},
		{'E', "y421 4.3.2 closing\x00", "defer 451 4.3.2 closing", "EQ"},
		{'E', "y550 5.7.1 a\r\n250 ok\x07\xff\x00", "reject 550 5.7.1 a 250 ok ?", "EQ"},
		{'E', "y550\x00", "reject", "EQ"},
		{'E', "y550 5.7.1\x00", "reject", "EQ"},
		{'E', "y550 5.7.1 no end", "reject 550 5.7.1 no end", "EQ"},
		{'E', "y250 fine\x00", "!neither 4xx nor 5xx", "E"},
		{'E', "yabc no\x00", "!none of SMTP", "E"},
		{'E', "y55", "!none of SMTP", "E"},
		{'E', "y5500 x\x00", "!none of SMTP", "E"},
		{'E', "y550 a\x00b\x00", "!none of SMTP", "E"},
		{'B', "s", "!skip", "B"},
		{'E', "s", "!skip", "E"},
		{'E', "?", "!is none", "E"},
		{'C', "hX-A\x00b\x00", "!is none", "C"},
		{'C', "O" + optneg(6, 0, 0), "!is none", "C"},
	} {
		f := startFake(t, &fake{reply: on(c.step, c.reply)})
		v, err := ask(t, f, nil, sdktest.Mail("From: a@example.org\n\nhello\n"))
		got := show(v)
		if want, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), want) || got != "accept" {
				t.Errorf("%c %q: %s %v, want %q", c.step, c.reply, got, err, want)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%c %q: %s %v, want %s", c.step, c.reply, got, err, c.want)
		}
		codes := ""
		for _, text := range f.saw() {
			if text[0] != 'D' {
				codes += text[:1]
			}
		}
		if !strings.HasSuffix(codes, c.saw) {
			t.Errorf("%c %q: it saw %s, want ...%s", c.step, c.reply, codes, c.saw)
		}
		if v.Action != sdk.Accept && (len(v.Reasons) == 0 || !strings.HasPrefix(v.Reasons[0].Text, "the milter said at ")) {
			t.Errorf("%c %q: reasons %+v", c.step, c.reply, v.Reasons)
		}
	}
}

// TestRecipients: what is said at RCPT is said of that recipient.
func TestRecipients(t *testing.T) {
	refuse := func(who map[string]string, end string) func(byte, string) []string {
		return func(code byte, data string) []string {
			if code == 'E' {
				return []string{end}
			}
			for address, reply := range who {
				if code == 'R' && strings.HasPrefix(data, "<"+address+">") {
					return []string{reply}
				}
			}
			return nil
		}
	}
	const alice = "alice@example.test"
	for name, c := range map[string]struct {
		who  map[string]string
		end  string
		want string
		last string // of what it saw, before QUIT
	}{
		"one refused":      {map[string]string{carol: "y550 5.1.1 who\x00"}, "c", "accept; carol@example.test reject 550 5.1.1 who", "E"},
		"one waits":        {map[string]string{alice: "t"}, "c", "accept; alice@example.test defer", "E"},
		"both":             {map[string]string{alice: "t", carol: "r"}, "c", "accept; alice@example.test defer; carol@example.test reject", "A"},
		"one, then all":    {map[string]string{alice: "t"}, "r", "reject; alice@example.test reject", "E"},
		"one, then later":  {map[string]string{alice: "r"}, "t", "defer; alice@example.test reject", "E"},
		"one, and discard": {map[string]string{carol: "t"}, "d", "discard; carol@example.test defer", "E"},
	} {
		f := startFake(t, &fake{reply: refuse(c.who, c.end)})
		v, err := ask(t, f, nil, two("A: b\n\n"))
		saw := f.saw()
		if err != nil || show(v) != c.want || len(saw) < 2 || saw[len(saw)-2] != c.last {
			t.Errorf("%s: %s %v, want %s; %q", name, show(v), err, c.want, saw)
		}
	}
}

// TestSizes: bodies around the size of a piece come whole, and larger messages are what the setting
// says.
func TestSizes(t *testing.T) {
	for _, n := range []int{0, 1, milter.MaxBodyChunk - 1, milter.MaxBodyChunk, milter.MaxBodyChunk + 1, 3*milter.MaxBodyChunk + 7} {
		f := startFake(t, &fake{})
		body := strings.Repeat("\x00\xff\r\n.", n/5+1)[:n]
		m := sdktest.Mail("")
		m.Content, m.Size = iotest.HalfReader(strings.NewReader("A: b\r\n\r\n"+body)), int64(n+8)
		v, err := ask(t, f, nil, m)
		var got strings.Builder
		for _, text := range f.saw() {
			if piece, ok := strings.CutPrefix(text, "B"); ok {
				got.WriteString(piece)
			}
		}
		if err != nil || show(v) != "accept" || got.String() != strings.ReplaceAll(body, "\x00", "|") {
			t.Errorf("%d octets: %s %v, %d came", n, show(v), err, got.Len())
		}
	}
	f := startFake(t, &fake{})
	big := sdktest.Mail("A: b\n\n" + strings.Repeat("x\n", 2000))
	if v, err := ask(t, f, map[string]any{"max_size": "1KB", "larger": "skip"}, big); err != nil || len(v.Reasons) != 1 || v.Reasons[0].Symbol != "MILTER_SKIPPED_SIZE" {
		t.Errorf("skip: %+v %v", v, err)
	}
	if v, err := ask(t, f, map[string]any{"max_size": "1KB"}, big); err == nil || len(f.saw()) != 0 {
		t.Errorf("fail: %+v %v %q", v, err, f.saw())
	}
}

// TestFrames: whatever a sender writes, and to however many, no frame is longer than libmilter reads (65,535 octets of data): it would
// end the session, and with on_failure = "accept" the message would pass unseen.
func TestFrames(t *testing.T) {
	header := strings.Repeat("N", 2000) + ": " + strings.Repeat("v\n ", 25000) + "\n" + strings.Repeat("M", 70000) + ": x\n" +
		strings.Repeat("L", 32000) + ": " + strings.Repeat("v", 64000) + "\n\nhello\n"
	for name, without := range map[string]milter.OptProtocol{"all": 0, "no RCPT": milter.OptNoRcptTo, "the end alone": offeredSteps} {
		f := startFake(t, &fake{options: optneg(6, 0, uint32(without))})
		m := sdktest.Mail(header)
		m.ID = "4F2K"
		for i := range 500 {
			m.Recipients = append(m.Recipients, sdk.Recipient{Address: fmt.Sprintf("%0200d@example.test", i)})
		}
		v, err := ask(t, f, nil, m)
		if err != nil || v.Action != sdk.Accept {
			t.Fatalf("%s: %+v %v", name, v, err)
		}
		saw := f.saw()
		for _, text := range saw {
			if len(text) > 1+65535 {
				t.Errorf("%s: a frame %.40q of %d octets", name, text, len(text))
			}
		}
		if all := strings.Join(saw, "\n"); !strings.Contains(all, "i|4F2K|") || !strings.Contains(all, "\nE") {
			t.Errorf("%s: no queue ID, or no end, among %d frames", name, len(saw))
		}
	}
}

// TestFailures: what is no answer is an error, in time.
func TestFailures(t *testing.T) {
	after := func(step byte, octets string) func(byte, io.Writer) bool {
		return func(code byte, w io.Writer) bool {
			if code != step {
				return true
			}
			_, _ = io.WriteString(w, octets)
			return false
		}
	}
	for name, c := range map[string]struct {
		raw  func(byte, io.Writer) bool
		want string
	}{
		"closed at once":      {after('O', ""), "EOF"},
		"closed at connect":   {after('C', ""), ""},
		"closed at the end":   {after('E', ""), ""},
		"half a length":       {after('E', "\x00\x00"), "unexpected EOF"},
		"half a frame":        {after('E', "\x00\x00\x00\x09y55"), "unexpected EOF"},
		"a length of nothing": {after('E', "\x00\x00\x00\x00"), "0 octets"},
		"a length too large":  {after('E', "\x00\x10\x00\x01c"), "1048577 octets"},
		"another protocol":    {after('O', "220 mx.example.org ESMTP\r\n"), "octets"},
		"progress for ever": {func(code byte, w io.Writer) bool {
			for range maxProgress + 1 {
				if code == 'E' {
					_, _ = w.Write(frame("p"))
				}
			}
			return true
		}, "progress"},
	} {
		f := startFake(t, &fake{raw: c.raw})
		if v, err := ask(t, f, nil, sdktest.Mail("A: b\n\nfirst")); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), f.address) {
			t.Errorf("%s: %s %v, want %q", name, show(v), err, c.want)
		}
	}
	f := startFake(t, &fake{reply: on('E', "p", "p", "p", "c")})
	if v, err := ask(t, f, nil, sdktest.Mail("A: b\n\n")); err != nil || show(v) != "accept" {
		t.Errorf("some progress: %s %v", show(v), err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if v, err := ask(t, &fake{address: "tcp:" + l.Addr().String()}, nil, sdktest.Mail("x")); err == nil {
		t.Errorf("nobody: %s", show(v))
	}
}

// TestSlow: a milter that does not answer, or only says that it needs more time, costs the question's
// time and not more.
func TestSlow(t *testing.T) {
	stop := make(chan struct{})
	for name, raw := range map[string]func(byte, io.Writer) bool{
		"silent": func(code byte, _ io.Writer) bool {
			if code == 'M' {
				<-stop
			}
			return true
		},
		"does not read": func(code byte, _ io.Writer) bool {
			if code == 'B' {
				<-stop
			}
			return true
		},
		"progress": func(code byte, w io.Writer) bool {
			for code == 'E' {
				if _, err := w.Write(frame("p")); err != nil {
					return false
				}
				time.Sleep(10 * time.Millisecond)
			}
			return true
		},
	} {
		f := startFake(t, &fake{raw: raw, options: optneg(6, 0, uint32(milter.OptNoBodyReply))})
		p := New().(*plugin)
		if err := p.Configure(t.Context(), sdk.Settings{Config: map[string]any{"address": f.address}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		begin := time.Now()
		v, err := p.Ask(ctx, sdktest.Mail("A: b\n\n"+strings.Repeat(strings.Repeat("x", 99)+"\n", 1<<17))) // more than sockets hold
		if err == nil || time.Since(begin) > 3*time.Second {
			t.Errorf("%s: %s %v after %v", name, show(v), err, time.Since(begin))
		}
		cancel()
	}
	close(stop)
}

// TestHalfAMessage: no verdict comes of a message that could not be read to its end, and the milter does
// not see its end.
func TestHalfAMessage(t *testing.T) {
	lost := errors.New("lost")
	for _, text := range []string{"A: b\r\n", "A: b\r\n\r\nhello"} {
		f := startFake(t, &fake{})
		p := New().(*plugin)
		if err := p.Configure(t.Context(), sdk.Settings{Config: map[string]any{"address": f.address}}); err != nil {
			t.Fatal(err)
		}
		m := sdktest.Mail("")
		m.Content = io.MultiReader(strings.NewReader(text), iotest.ErrReader(lost))
		if v, err := p.Ask(t.Context(), m); !errors.Is(err, lost) || slices.Contains(f.saw(), "E") {
			t.Errorf("%q: %s %v %q", text, show(v), err, f.saw())
		}
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, value := range map[string]any{
		"address": "localhost:8891", "connections": int64(0), "max_body": int64(1),
		"larger": "half", "adress": "x", "macros": map[string]any{"{a": "b"}, "macros.{a}": map[string]any{"{a}": "b\x00"},
		"rename": map[string]any{"a b": "x"},
	} {
		name, _, _ := strings.Cut(key, ".")
		config := map[string]any{"address": "unix:/x", name: value}
		err := New().Configure(t.Context(), sdk.Settings{Config: config})
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
	for _, rename := range []map[string]any{
		{"A": "x y"}, {"A": "X-Sluice-A"}, {"A": "Return-Path"}, {"A": "authentication-results"}, {"A": "x", "a": "y"}, {"": "x"},
	} {
		if err := New().Configure(t.Context(), sdk.Settings{Config: map[string]any{"address": "unix:/x", "rename": rename}}); err == nil || !strings.HasPrefix(err.Error(), "rename") {
			t.Errorf("%v: %v", rename, err)
		}
	}
	if err := New().Configure(t.Context(), sdk.Settings{}); err == nil || !strings.HasPrefix(err.Error(), "address") {
		t.Errorf("no address: %v", err)
	}
}

func TestCommand(t *testing.T) {
	f := startFake(t, &fake{options: optneg(4, 0x21, 0x3)})
	p := sdktest.Start(t, New(), map[string]any{"address": f.address})
	v, err := p.Ask(sdktest.Command("options"))
	if got := fmt.Sprint(v.Reasons); err != nil || !strings.Contains(got, "version 4") || !strings.Contains(got, "add fields, quarantine") || !strings.Contains(got, "connect, helo") {
		t.Errorf("%s %v", got, err)
	}
	if v, err := p.Ask(sdktest.Command("x")); err != nil || v.Reasons[0].Text != "expected: options" {
		t.Errorf("%+v %v", v, err)
	}
}
