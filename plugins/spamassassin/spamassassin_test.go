package spamassassin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

const letter = "From: a@example.org\nSubject: hello\n\nbody\n"

// fake is a spamd that says what a test wants.
type fake struct {
	address string

	mu       sync.Mutex
	requests []string // head and content
}

func startFake(t *testing.T, script func(f *fake, c net.Conn)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{address: "tcp:" + l.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				script(f, c)
			})
		}
	})
	return f
}

// read reads a question and returns its head.
func (f *fake) read(c io.Reader) string {
	r := bufio.NewReader(c)
	head, size := "", 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return head
		}
		if line == "\r\n" {
			break
		}
		_, _ = fmt.Sscanf(line, "Content-length: %d", &size)
		head += line
	}
	content := make([]byte, size)
	_, _ = io.ReadFull(r, content)
	f.mu.Lock()
	f.requests = append(f.requests, head+"\r\n"+string(content))
	f.mu.Unlock()
	return head
}

func always(answer string) func(*fake, net.Conn) {
	return func(f *fake, c net.Conn) {
		f.read(c)
		_, _ = io.WriteString(c, answer)
	}
}

// report is a whole answer to REPORT.
func report(spam, body string) string {
	return fmt.Sprintf("SPAMD/1.1 0 EX_OK\r\nContent-length: %d\r\nSpam: %s\r\n\r\n%s", len(body), spam, body)
}

// body is a report as SpamAssassin 4.0 makes it, of a message that quotes a table of its own.
const body = `Spam detection software, running on the system "vm",
has identified this incoming email as possible spam.

Content preview:  Hello Alice,
---- ---------------------- --------------------------------------------------
-100 USER_IN_WELCOMELIST    not really

Content analysis details:   (6.4 points, 5.0 required)

 pts rule name              description
---- ---------------------- --------------------------------------------------
 0.0 MSGID_SHORT            Message-ID is unusually short
-1.9 BAYES_00               BODY: Bayes spam probability is 0 to 1%
                            [score: 0.0000]
 8.2 A_RULE_WITH_A_NAME_THAT_IS_RATHER_LONG  BODY: long
 0.1 NO_TEXT

The original message was not completely plain text.
 9.9 NOT_A_RULE             after the table
`

func TestAsk(t *testing.T) {
	f := startFake(t, always(report("True ; 6.4 / 5.0", body)))
	p := sdktest.Start(t, New(), map[string]any{"address": f.address, "user": "mail filter", "scale": int64(2), "fields": true})
	m := sdktest.Mail(letter)
	m.Sender = "a\r\nb@example.org"
	v, err := p.Ask(m)
	if err != nil {
		t.Fatal(err)
	}
	sent := "X-Envelope-From: <a??b@example.org>\r\n" + strings.ReplaceAll(letter, "\n", "\r\n")
	if want := fmt.Sprintf("REPORT SPAMC/1.5\r\nUser: mail filter\r\nContent-length: %d\r\n\r\n", len(sent)) + sent; f.requests[0] != want {
		t.Errorf("sent %q, want %q", f.requests[0], want)
	}
	want := []sdk.Reason{
		{Symbol: "SPAMASSASSIN", Text: "spam: yes, score 6.4 of 5.0"},
		{Symbol: "A_RULE_WITH_A_NAME_THAT_IS_RATHER_LONG", Score: 16.4, Text: "BODY: long"},
		{Symbol: "BAYES_00", Score: -3.8, Text: "BODY: Bayes spam probability is 0 to 1% [score: 0.0000]"},
		{Symbol: "NO_TEXT", Score: 0.2},
		{Symbol: "MSGID_SHORT", Text: "Message-ID is unusually short"},
	}
	if v.Action != sdk.Junk || v.Score != 12.8 || !slices.Equal(v.Reasons, want) || v.Tags[Tag] != "yes" {
		t.Errorf("%+v", v)
	}
	if len(v.Changes) != 4 || v.Changes[2].Value != "Yes, score=6.4 required=5.0 tests=A_RULE_WITH_A_NAME_THAT_IS_RATHER_LONG, BAYES_00, NO_TEXT, MSGID_SHORT" || v.Changes[3].Name != "X-Spam-Flag" {
		t.Errorf("%+v", v.Changes)
	}
}

func TestOpinions(t *testing.T) {
	for _, c := range []struct {
		answer string
		onSpam string
		action sdk.Action
		score  float64
		tests  int
	}{
		{report("True ; 15.0 / 5.0", ""), "reject", sdk.Reject, 15, 0},
		{report("Yes ; 15 / 5", "no table\n"), "accept", sdk.Accept, 15, 0},
		{report("False ; -0.1 / 5.0", "---- ---- ----\n 1.0 A\n2.0 B x\r\n"), "reject", sdk.Accept, -0.1, 2},
		{"SPAMD/1.1 0 EX_OK\r\nspam: No ; 1.0 / 5.0\r\ncontent-length:0\r\n\r\n", "reject", sdk.Accept, 1, 0},
		{"SPAMD/1.1 0 EX_OK\nSpam: False ; 1.0 / 5.0\n\n---- ---- ----\n 1.0 A\n", "reject", sdk.Accept, 1, 1}, // no length: to the end
	} {
		f := startFake(t, always(c.answer))
		p := sdktest.Start(t, New(), map[string]any{"address": f.address, "on_spam": c.onSpam})
		v, err := p.Ask(sdktest.Mail(letter))
		if err != nil || v.Action != c.action || v.Score != c.score || len(v.Reasons) != 1+c.tests || len(v.Changes) != 0 {
			t.Errorf("%q: %+v %v", c.answer, v, err)
		}
	}
}

// TestFailure: whatever spamd does that is no answer, it is an error in words that say where and why.
func TestFailure(t *testing.T) {
	good := report("True ; 15.0 / 5.0", body)
	for name, c := range map[string]struct {
		script func(*fake, net.Conn)
		want   string
	}{
		"closes at once":   {func(*fake, net.Conn) {}, "ask spamd at tcp:127.0.0.1:"},
		"closes after it":  {always(""), "read the answer: unexpected EOF"},
		"garbage":          {always("HTTP/1.1 400 Bad Request\r\n\r\n"), `begins with "HTTP/1.1 400 Bad Request", which is not spamd's`},
		"noise":            {always(strings.Repeat("\x00\xff", 10<<10)), "a line is longer than 4096 octets"},
		"no status":        {always("SPAMD/1.1 \r\n"), "not spamd's"},
		"busy":             {always("SPAMD/1.0 75 Temporary failure\r\n\r\n"), "spamd refuses: 75 Temporary failure"},
		"time-out":         {always("SPAMD/1.0 79 Timeout: (300 second timeout\r\n"), "spamd refuses: 79 Timeout"},
		"bare code":        {always("SPAMD/1.0 76\r\n"), "spamd refuses: 76"},
		"fields cut":       {always(good[:30]), "read the answer's fields: unexpected EOF"},
		"no end of fields": {always("SPAMD/1.1 0 EX_OK\r\n" + strings.Repeat("A: b\r\n", 100)), "more than 50 fields"},
		"no field":         {always("SPAMD/1.1 0 EX_OK\r\nwhat\r\n\r\n"), `"what", which is none`},
		"no opinion":       {always("SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n"), `the field Spam: ""`},
		"odd opinion":      {always(report("Maybe ; 15.0 / 5.0", "")), `the field Spam: "Maybe`},
		"NaN":              {always(report("True ; nan / 5.0", "")), `the field Spam: "True ; nan`},
		"a huge score":     {always(report("True ; 1e999 / 5.0", "")), `the field Spam`},
		"odd length":       {always("SPAMD/1.1 0 EX_OK\r\nContent-length: -1\r\n\r\n"), `a Content-length of "-1"`},
		"huge length":      {always("SPAMD/1.1 0 EX_OK\r\nContent-length: 262145\r\n\r\n"), `a Content-length of "262145"`},
		"too short":        {always(good[:len(good)-1]), "read the report: "},
		"endless":          {always("SPAMD/1.1 0 EX_OK\r\nSpam: True ; 15.0 / 5.0\r\n\r\n" + strings.Repeat("x\n", 200<<10)), "the report is larger"},
		"silence":          {func(f *fake, c net.Conn) { io.Copy(io.Discard, c) }, "i/o timeout"},
		"refuses early": {func(f *fake, c net.Conn) {
			io.WriteString(c, "SPAMD/1.0 69 Service Unavailable\r\n\r\n")
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		}, "spamd refuses: 69 Service Unavailable"},
		"never reads": {func(f *fake, c net.Conn) { time.Sleep(400 * time.Millisecond) }, "i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, c.script)
			limit := "5s"
			if strings.Contains(c.want, "timeout") && name != "time-out" {
				limit = "200ms"
			}
			p := sdktest.Start(t, New(), map[string]any{"address": f.address, "timeout": limit, "max_size": "100MB"})
			mail := letter
			if name == "never reads" {
				mail += strings.Repeat("0123456789\n", 1<<20)
			}
			v, err := p.Ask(sdktest.Mail(mail))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v, want %q", v, err, c.want)
			}
		})
	}
	if _, err := sdktest.Start(t, New(), map[string]any{"address": "unix:gone"}).Ask(sdktest.Mail(letter)); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}

// TestPartial: an answer in single octets, by a spamd that does not close, is the same answer.
func TestPartial(t *testing.T) {
	f := startFake(t, func(f *fake, c net.Conn) {
		f.read(c)
		for _, b := range []byte(report("True ; 6.4 / 5.0", body)) {
			_, _ = c.Write([]byte{b})
		}
		_, _ = io.Copy(io.Discard, c)
	})
	p := sdktest.Start(t, New(), map[string]any{"address": f.address, "timeout": "5s"})
	if v, err := p.Ask(sdktest.Mail(letter)); err != nil || v.Score != 6.4 || len(v.Reasons) != 5 {
		t.Errorf("%+v %v", v, err)
	}
}

// TestUsers: each recipient's own preferences count, up to a number of them.
func TestUsers(t *testing.T) {
	f := startFake(t, func(f *fake, c net.Conn) {
		head := f.read(c)
		switch {
		case strings.Contains(head, "User: alice@example.test\r\n"):
			_, _ = io.WriteString(c, report("True ; 6.4 / 5.0", body))
		case strings.Contains(head, "User: broken@example.test\r\n"):
			_, _ = io.WriteString(c, "SPAMD/1.0 67 no such user\r\n\r\n")
		default:
			_, _ = io.WriteString(c, report("False ; 0.5 / 5.0", ""))
		}
	})
	p := sdktest.Start(t, New(), map[string]any{"address": f.address, "user": "all", "per_recipient": true, "max_users": int64(2), "fields": true})
	question := func(recipients ...sdk.Recipient) (sdk.Verdict, error) {
		f.mu.Lock()
		f.requests = nil
		f.mu.Unlock()
		m := sdktest.Mail(letter)
		m.Recipients = recipients
		return p.Ask(m)
	}
	alias := sdk.Recipient{Address: "info@example.test", Accounts: []string{"alice@example.test"}}
	alice := sdk.Recipient{Address: "alice@example.test", Accounts: []string{"alice@example.test"}}
	team := sdk.Recipient{Address: "team@example.test", Accounts: []string{"alice@example.test", "bob@example.test"}}
	v, err := question(alice, team, alias)
	if err != nil || v.Score != 0 || len(v.Recipients) != 3 || len(f.requests) != 2 {
		t.Fatalf("%+v %v, %d questions", v, err, len(f.requests))
	}
	for i, want := range []struct {
		address string
		action  sdk.Action
		score   float64
		changes int
	}{{alice.Address, sdk.Junk, 6.4, 4}, {alias.Address, sdk.Junk, 6.4, 4}, {team.Address, sdk.Accept, 0.5, 3}} {
		r := v.Recipients[i]
		if r.Recipient != want.address || r.Action != want.action || r.Score != want.score || len(r.Changes) != want.changes {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
	if v, err = question(alice, alias); err != nil || len(v.Recipients) != 0 || v.Action != sdk.Junk || len(f.requests) != 1 {
		t.Errorf("one user: %+v %v", v, err)
	}
	if v, err = question(alice, team, sdk.Recipient{Address: "c@example.test"}); err != nil || len(v.Recipients) != 0 || v.Score != 0.5 ||
		!strings.Contains(f.requests[0], "User: all\r\n") {
		t.Errorf("too many users: %+v %v", v, err)
	}
	if _, err = question(alice, sdk.Recipient{Address: "broken@example.test"}); err == nil || !strings.Contains(err.Error(), "for the user broken@example.test: ") {
		t.Errorf("one user fails: %v", err)
	}
}

func TestSize(t *testing.T) {
	f := startFake(t, always(report("False ; 0.5 / 5.0", "")))
	p := sdktest.Start(t, New(), map[string]any{"address": f.address, "learn": true})
	large := letter + strings.Repeat("0123456789\n", 50<<10)
	v, err := p.Ask(sdktest.Mail(large))
	if err != nil || len(f.requests) != 0 || v.Tags[Tag] != "skipped" || v.Reasons[0].Symbol != "SPAMASSASSIN_SKIPPED_SIZE" ||
		v.Reasons[0].Text != "not scanned: 614445 octets are more than max_size, 512000" {
		t.Errorf("%+v %v", v, err)
	}
	if v, err = p.Ask(sdktest.Learn(sdk.EventLearnSpam, large)); err != nil || len(f.requests) != 0 || !strings.HasPrefix(v.Reasons[0].Text, "not learned: 614445") {
		t.Errorf("%+v %v", v, err)
	}
}

func TestEvents(t *testing.T) {
	for _, c := range []struct {
		question *sdk.Message
		answer   string
		head     string // of the request
		says     string
		fails    string
	}{
		{
			sdktest.Learn(sdk.EventLearnSpam, letter), "SPAMD/1.1 0 EX_OK\r\nDidSet: local\r\n\r\n\r\n",
			"TELL SPAMC/1.5\r\nUser: all\r\nMessage-class: spam\r\nSet: local\r\n", "learned as spam", "",
		},
		{sdktest.Learn(sdk.EventLearnHam, letter), "SPAMD/1.1 0 EX_OK\r\n\r\n\r\n", "TELL SPAMC/1.5\r\nUser: all\r\nMessage-class: ham\r\n", "not learned as ham: spamd knew it", ""},
		{sdktest.Learn(sdk.EventLearnHam, letter), "SPAMD/1.0 69 Service Unavailable: TELL\r\n", "TELL ", "", "spamd refuses: 69 Service Unavailable: TELL"},
		{sdktest.Command("ping"), "SPAMD/1.5 0 PONG\r\n", "PING SPAMC/1.5\r\n", "spamd at tcp:127.0.0.1:", ""},
		{sdktest.Command("ping"), "", "PING ", "ask spamd at tcp:127.0.0.1:", ""},
		{sdktest.Command("dig"), "", "", "ping: ask whether", ""},
	} {
		f := startFake(t, always(c.answer))
		p := sdktest.Start(t, New(), map[string]any{"address": f.address, "user": "all", "learn": true})
		v, err := p.Ask(c.question)
		if c.head == "" != (len(f.requests) == 0) || c.head != "" && !strings.HasPrefix(f.requests[0], c.head) {
			t.Errorf("%q: sent %q", c.answer, f.requests)
		}
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) ||
			c.fails == "" && (err != nil || len(v.Reasons) != 1 || !strings.HasPrefix(v.Reasons[0].Text, c.says)) {
			t.Errorf("%q: %+v %v", c.answer, v, err)
		}
	}
	f := startFake(t, always(""))
	p := sdktest.Start(t, New(), map[string]any{"address": f.address})
	if v, err := p.Ask(sdktest.Learn(sdk.EventLearnHam, letter)); err != nil || v.Reasons[0].Text != "not learned: learn is off in the settings" || len(f.requests) != 0 {
		t.Errorf("%+v %v", v, err)
	}
}

func TestConfigure(t *testing.T) {
	for key, c := range map[string]struct {
		value any
		want  string
	}{
		"colour":    {"red", "colour: unknown key"},
		"address":   {"localhost:783", "address: \"localhost:783\" says no network"},
		"user":      {"a\nb", "user: has control characters"},
		"max_users": {int64(0), "max_users: 0, expected 1 to 100"},
		"timeout":   {"-1s", "timeout: -1s, expected"},
		"scale":     {-1.0, "scale: -1, expected"},
		"on_spam":   {"explode", "on_spam: explode: unknown action"},
		"max_size":  {"many", "max_size: many, expected"},
	} {
		err := sdktest.Configure(t, New(), map[string]any{key: c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: %v, want %q", key, c.value, err, c.want)
		}
	}
	err := sdktest.Configure(t, New(), map[string]any{"per_recipient": true, "max_size": "9MB"})
	if err == nil || !strings.Contains(err.Error(), "max_size: 9437184 with per_recipient") {
		t.Errorf("%v", err)
	}
	if err := sdktest.Configure(t, New(), nil); err != nil {
		t.Error(err)
	}
}

// FuzzAnswer: whatever spamd says, what becomes of it is an error or a verdict that the server takes.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(report("True ; 6.4 / 5.0", body)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(string(data)), maxLine), true)
		var a *answer
		if err == nil {
			a, err = r.opinion()
		}
		if err != nil {
			if len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("error %q", err)
			}
			return
		}
		s := settings{Scale: 1000, OnSpam: sdk.Reject, Fields: true}
		v := s.verdict(a)
		if len(v.Reasons) > 500 || v.Score-v.Score != 0 {
			t.Errorf("%d reasons, score %v", len(v.Reasons), v.Score)
		}
		for _, reason := range v.Reasons {
			if reason.Symbol == "" || len(reason.Symbol) > 200 || len(reason.Text) > 2000 || strings.ContainsAny(reason.Symbol+reason.Text, "\r\n\t\x00") || reason.Score-reason.Score != 0 {
				t.Errorf("%+v", reason)
			}
		}
		for _, change := range v.Changes {
			if len(change.Value) > 60000 || strings.ContainsAny(change.Value, "\r\n\x00") {
				t.Errorf("%+v", change)
			}
		}
	})
}
