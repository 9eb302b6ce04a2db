package rspamd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// TestEnvelope: the whole message and all of the envelope arrive, and nothing breaks out of a field.
func TestEnvelope(t *testing.T) {
	f := startFake(t, always(ok(clean1)))
	p := sdktest.Start(t, New(), map[string]any{
		"url": f.url, "password": "open sesame", "settings_id": "strict", "settings": "{ \"symbols_disabled\":\n [\"X\"] }",
	})
	m := sdktest.Mail(letter)
	m.ID, m.Server, m.Helo, m.Cipher, m.Login = "4F2K", "mx.example.test", "evil\r\nPass: all", "TLS_AES_128_GCM_SHA256", "bob@example.test"
	m.Recipients = append(m.Recipients, sdk.Recipient{Address: "ü@example.test"})
	v, err := p.Ask(m)
	if err != nil {
		t.Fatal(err)
	}
	req, body := f.last()
	if req.Method != "POST" || req.URL.Path != "/checkv2" || req.ContentLength != int64(len(body)) || body != crlf(letter) {
		t.Errorf("%s %s with %d octets: %q", req.Method, req.URL, req.ContentLength, body)
	}
	for name, want := range map[string]string{
		"From": "<sender@example.org>", "Rcpt": "<alice@example.test>|<ü@example.test>", "IP": "192.0.2.1", "Helo": "evil??Pass: all", "Pass": "",
		"Hostname": "mail.example.org", "User": "bob@example.test", "Queue-Id": "4F2K", "Log-Tag": "4F2K", "MTA-Name": "mx.example.test", "Deliver-To": "",
		"TLS-Version": "TLSv1.3", "TLS-Cipher": "TLS_AES_128_GCM_SHA256", "Password": "open sesame", "Settings-ID": "strict",
		"Settings": `{"symbols_disabled":["X"]}`,
	} {
		if got := strings.Join(req.Header.Values(name), "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := []sdk.Reason{
		{Symbol: "RSPAMD", Text: `action "no action", score -0.50 of 15.00`},
		{Symbol: "R_SPF_ALLOW", Score: -0.4, Text: "SPF verification allows sending [+ip4:192.0.2.1, x y]"},
		{Symbol: "MIME_GOOD", Score: -0.1, Text: "Known content-type [text/plain]"},
	}
	if v.Action != sdk.Accept || v.Score != -0.5 || !slices.Equal(v.Reasons, want) || v.Tags["rspamd.action"] != "no action" || len(v.Changes) != 0 {
		t.Errorf("%+v", v)
	}

	m = sdktest.Mail("")
	m.Sender, m.ClientName, m.TLS = "", "", ""
	if _, err := p.Ask(m); err != nil {
		t.Fatal(err)
	}
	req, body = f.last()
	if body != "" || req.ContentLength != 0 || req.Header.Get("From") != "<>" || req.Header.Get("Hostname") != "unknown" || req.Header.Get("Deliver-To") != "alice@example.test" ||
		req.Header.Values("TLS-Version") != nil || req.Header.Values("User") != nil {
		t.Errorf("an empty message of nobody: %q %v", body, req.Header)
	}
}

func TestActions(t *testing.T) {
	answer := func(action, more string) string {
		return fmt.Sprintf(`{"score":7.5,"required_score":15,"action":%q,"symbols":{"A":{"score":7.5}}%s}`, action, more)
	}
	const said = `,"messages":{"smtp_message":"Go\r\naway\u00fc"}`
	for _, c := range []struct {
		body   string
		config map[string]any
		action sdk.Action
		reply  string
	}{
		{answer("no action", ""), nil, sdk.Accept, ""},
		{answer("greylist", ""), nil, sdk.Accept, ""},
		{answer("add header", said), nil, sdk.Junk, ""},
		{answer("rewrite subject", ""), nil, sdk.Junk, ""},
		{answer("soft reject", ""), nil, sdk.Defer, ""},
		{answer("soft reject", said), nil, sdk.Defer, "451 4.7.1 Go  away?"},
		{answer("reject", ""), nil, sdk.Reject, ""},
		{answer("reject", said), nil, sdk.Reject, "550 5.7.1 Go  away?"},
		{answer("quarantine", ""), nil, sdk.Quarantine, ""},
		{answer("discard", ""), nil, sdk.Quarantine, ""},
		{answer("of our own", ""), nil, sdk.Accept, ""},
		{answer("reject", said), map[string]any{"use_actions": false}, sdk.Accept, ""},
		{answer("of our own", ""), map[string]any{"actions": map[string]any{"of our own": "quarantine", "reject": "junk"}}, sdk.Quarantine, ""},
		{answer("reject", said), map[string]any{"actions": map[string]any{"of our own": "quarantine", "reject": "junk"}}, sdk.Junk, ""},
		{answer("soft reject", said), map[string]any{"actions": map[string]any{"of our own": "quarantine", "reject": "junk"}}, sdk.Defer, "451 4.7.1 Go  away?"},
	} {
		f := startFake(t, always(ok(c.body)))
		config := map[string]any{"url": f.url, "scale": int64(2)}
		for key, value := range c.config {
			config[key] = value
		}
		v, err := sdktest.Start(t, New(), config).Ask(sdktest.Mail(letter))
		reply := ""
		if v.Reply != nil {
			reply = fmt.Sprintf("%d %s %s", v.Reply.Code, v.Reply.Enhanced, v.Reply.Text)
		}
		if err != nil || v.Action != c.action || v.Score != 15 || reply != c.reply || len(v.Reasons) != 2 || v.Reasons[1].Score != 15 {
			t.Errorf("%s with %v: %+v %q %v", c.body, c.config, v, reply, err)
		}
	}
}

// TestFailure: whatever rspamd does that is no answer, it is an error in words that say where and why.
func TestFailure(t *testing.T) {
	big := `{"score":1,"action":"no action","x":"` + strings.Repeat("x", 5<<20) + `"}`
	for name, c := range map[string]struct {
		script func(*fake, net.Conn)
		want   string
	}{
		"closes at once":   {func(*fake, net.Conn) {}, "ask http://127.0.0.1:"},
		"closes after it":  {func(f *fake, c net.Conn) { f.read(bufio.NewReader(c)) }, "EOF"},
		"garbage":          {always("\x00\x01\x02 what?\r\n\r\n"), "malformed HTTP"},
		"endless header":   {always("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), "exceeded"},
		"half an answer":   {func(f *fake, c net.Conn) { f.read(bufio.NewReader(c)); io.WriteString(c, ok(clean1)[:200]) }, "read the answer: unexpected EOF"},
		"wrong length":     {always("HTTP/1.1 200 OK\r\nContent-Length: 30\r\nConnection: close\r\n\r\n" + clean1), "no JSON"},
		"two lengths":      {always("HTTP/1.1 200 OK\r\nContent-Length: 30\r\nContent-Length: 31\r\n\r\n" + clean1), "Content-Length"},
		"too large":        {always(ok(big)), "larger than 4 MiB"},
		"no JSON":          {always(ok("<html>")), "no JSON"},
		"a list":           {always(ok("[]")), "no JSON of the right shape"},
		"nothing":          {always(ok("{}")), "has no action"},
		"null":             {always(ok("null")), "has no action"},
		"no score":         {always(ok(`{"action":"no action"}`)), "has no score"},
		"a score of words": {always(ok(`{"action":"no action","score":"1"}`)), "no JSON of the right shape"},
		"a score too high": {always(ok(`{"action":"no action","score":1e999}`)), "no JSON of the right shape"},
		"NaN":              {always(ok(`{"action":"no action","score":nan}`)), "no JSON of the right shape"},
		"odd symbols":      {always(ok(`{"action":"no action","score":1,"symbols":["A"]}`)), "symbols that are none"},
		"an error in 200":  {always(ok(`{"error":"bad\nthing","score":1,"action":"no action"}`)), "is an error: bad thing"},
		"403":              {always(respond("403 Forbidden", `{"error":"Unauthorized"}`)), "rspamd answered 403: Unauthorized"},
		"500":              {always(respond("500 invalid command", "")), "rspamd answered 500 invalid command"},
		"204":              {always("HTTP/1.1 204 No Content\r\n\r\n"), "rspamd answered 204"},
		"a redirect":       {always("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.9/\r\nContent-Length: 0\r\n\r\n"), "rspamd answered 302 Found"},
		"silence":          {func(f *fake, c net.Conn) { io.Copy(io.Discard, c) }, "deadline exceeded"},
		"never reads":      {func(f *fake, c net.Conn) { time.Sleep(400 * time.Millisecond) }, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, c.script)
			limit := "5s"
			if strings.Contains(c.want, "deadline") {
				limit = "200ms"
			}
			p := sdktest.Start(t, New(), map[string]any{"url": f.url, "timeout": limit})
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
	gone := startFake(t, func(*fake, net.Conn) {})
	l := filepath.Join(t.TempDir(), "gone.sock")
	for place, want := range map[string]string{"unix:" + l: "no such file", strings.Replace(gone.url, "127.0.0.1", "127.0.0.2", 1): "connection refused"} {
		if _, err := sdktest.Start(t, New(), map[string]any{"url": place}).Ask(sdktest.Mail(letter)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", place, err, want)
		}
	}
}

// TestEarly: an answer before the message was sent counts, and the rest of the message is nobody's
// any more.
func TestEarly(t *testing.T) {
	f := startFake(t, func(_ *fake, c net.Conn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, ok(clean1))
		time.Sleep(50 * time.Millisecond)
	})
	p := sdktest.Start(t, New(), map[string]any{"url": f.url})
	for range 3 {
		v, err := p.Ask(sdktest.Mail(letter + strings.Repeat("0123456789\n", 4<<20)))
		// What the kernel does to octets that arrive at a closed connection may eat the answer.
		if err == nil && v.Score != -0.5 {
			t.Errorf("%+v", v)
		}
	}
}

// TestPartial: an answer that comes in single octets is the same answer; several on one
// connection are kept apart.
func TestPartial(t *testing.T) {
	conns := make(chan struct{}, 100)
	f := startFake(t, func(f *fake, c net.Conn) {
		conns <- struct{}{}
		for r := bufio.NewReader(c); f.read(r); {
			for _, b := range []byte(ok(clean1)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		}
	})
	p := sdktest.Start(t, New(), map[string]any{"url": f.url})
	for range 5 {
		if v, err := p.Ask(sdktest.Mail(letter)); err != nil || v.Score != -0.5 {
			t.Errorf("%+v %v", v, err)
		}
	}
	if len(conns) != 1 {
		t.Errorf("%d connections for five questions, want 1", len(conns))
	}
}

// TestStale: a kept connection that rspamd closes when the next question is on it costs nothing, unless
// more of the message was sent than is kept.
func TestStale(t *testing.T) {
	for name, c := range map[string]struct {
		swallow int64 // octets of the second question that are read before the end
		mail    string
		fails   bool
	}{
		"small":       {1, letter, false},
		"whole":       {int64(len(letter)), letter, false},
		"large, kept": {1, letter + strings.Repeat("0123456789\n", 3<<10), false},
		"large":       {8 << 20, letter + strings.Repeat("0123456789\n", 1<<20), true},
	} {
		var conns atomic.Int32
		f := startFake(t, func(f *fake, c1 net.Conn) {
			r := bufio.NewReader(c1)
			for n := conns.Add(1); f.read(r); {
				if _, err := io.WriteString(c1, ok(clean1)); err != nil || n == 1 {
					_, _ = io.CopyN(io.Discard, r, c.swallow)
					return
				}
			}
		})
		p := sdktest.Start(t, New(), map[string]any{"url": f.url})
		if _, err := p.Ask(sdktest.Mail(letter)); err != nil {
			t.Fatal(err)
		}
		v, err := p.Ask(sdktest.Mail(c.mail))
		if c.fails != (err != nil) || err == nil && v.Score != -0.5 {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		if _, body := f.last(); err == nil && body != crlf(c.mail) {
			t.Errorf("%s: the second time %d octets of %d", name, len(body), len(crlf(c.mail)))
		}
	}
}

func TestUnixAndCommands(t *testing.T) {
	dir, err := os.MkdirTemp("", "rspamd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				f := &fake{}
				for f.read(r) {
					if req, _ := f.last(); req.URL.Path == "/ping" {
						io.WriteString(c, ok("pong\r\n"))
					} else {
						io.WriteString(c, ok(clean1))
					}
				}
			}()
		}
	}()
	p := New()
	config := map[string]any{"url": "unix:s", "controller": "http://127.0.0.1:1"}
	if err := p.Configure(t.Context(), sdk.Settings{Dir: dir, Config: config}); err != nil {
		t.Fatal(err)
	}
	defer p.(io.Closer).Close()
	m := sdktest.Mail(letter)
	m.Phase = sdk.PhaseContent
	if v, err := p.Ask(t.Context(), m); err != nil || v.Score != -0.5 {
		t.Errorf("%+v %v", v, err)
	}
	for words, want := range map[string][]string{
		"ping": {"worker unix:" + dir + "/s answers in ", "controller http://127.0.0.1:1: "},
		"dig":  {"ping: ask whether"},
	} {
		v, err := p.Ask(t.Context(), &sdk.Message{Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, Words: []string{words}}})
		if err != nil || len(v.Reasons) != len(want) {
			t.Fatalf("%s: %+v %v", words, v, err)
		}
		for i := range want {
			if !strings.HasPrefix(v.Reasons[i].Text, want[i]) {
				t.Errorf("%s: %q, want %q", words, v.Reasons[i].Text, want[i])
			}
		}
	}
}

func TestLearn(t *testing.T) {
	for _, c := range []struct {
		kind     sdk.EventKind
		response string
		path     string
		says     string
		fails    string
	}{
		{sdk.EventLearnSpam, ok(`{"success":true}`), "/learnspam", "learned as spam", ""},
		{sdk.EventLearnHam, ok(`{"success":true}`), "/learnham", "learned as ham", ""},
		{sdk.EventLearnHam, respond("404 x", `{"error":"<a@b> has been already learned as ham, ignore it"}`), "/learnham", "not learned as ham: 404: <a@b> has been already", ""},
		{sdk.EventLearnHam, respond("208 x", `{"error":"<a@b> has been already learned as ham, ignore it"}`), "/learnham", "not learned as ham: 208: <a@b> has been already", ""},
		{sdk.EventLearnSpam, "HTTP/1.1 204 <a@b> contains less tokens than required\r\n\r\n", "/learnspam", "not learned as spam: 204 <a@b> contains less", ""},
		{sdk.EventLearnSpam, respond("404 Not Found", "<html>"), "/learnspam", "", "learn as spam: rspamd answered 404 Not Found"},
		{sdk.EventLearnSpam, respond("401 Unauthorized", `{"error":"Unauthorized"}`), "/learnspam", "", "learn as spam: rspamd answered 401: Unauthorized"},
		{sdk.EventLearnSpam, ok(`{}`), "/learnspam", "", "learn as spam: rspamd answered 200 OK"},
	} {
		f := startFake(t, always(c.response))
		p := New()
		if err := p.Configure(t.Context(), sdk.Settings{Config: map[string]any{"controller": f.url, "controller_password": "q"}}); err != nil {
			t.Fatal(err)
		}
		m := sdktest.Mail(letter)
		m.Phase, m.Event = sdk.PhaseEvent, &sdk.Event{Kind: c.kind, Account: "alice@example.test"}
		v, err := p.Ask(t.Context(), m)
		req, body := f.last()
		if req.URL.Path != c.path || body != crlf(letter) || req.Header.Get("Password") != "q" || req.Header.Get("Deliver-To") != "alice@example.test" {
			t.Errorf("%v %q %v", req.URL, body, req.Header)
		}
		if c.fails != "" && (err == nil || err.Error() != c.fails) || c.fails == "" && (err != nil || len(v.Reasons) != 1 || !strings.HasPrefix(v.Reasons[0].Text, c.says)) {
			t.Errorf("%s: %+v %v", c.response, v, err)
		}
		_ = p.(io.Closer).Close()
	}
	p := New()
	_ = p.Configure(t.Context(), sdk.Settings{})
	m := sdktest.Mail(letter)
	m.Phase, m.Event = sdk.PhaseEvent, &sdk.Event{Kind: sdk.EventLearnHam}
	if v, err := p.Ask(t.Context(), m); err != nil || v.Reasons[0].Text != "not learned: there is no controller in the settings" {
		t.Errorf("%+v %v", v, err)
	}
}

func TestSize(t *testing.T) {
	f := startFake(t, always(ok(clean1)))
	p := sdktest.Start(t, New(), map[string]any{"url": f.url, "max_size": "1KB"})
	v, err := p.Ask(sdktest.Mail(letter + strings.Repeat("x\n", 1000)))
	if err != nil || f.count() != 0 || v.Action != sdk.Accept || v.Tags["rspamd.skipped"] != "size" || v.Reasons[0].Symbol != "RSPAMD_SKIPPED_SIZE" {
		t.Errorf("%+v %v, %d questions", v, err, f.count())
	}
	if v, err := p.Ask(sdktest.Mail(letter)); err != nil || f.count() != 1 || len(v.Tags) != 1 {
		t.Errorf("%+v %v, %d questions", v, err, f.count())
	}
}

func TestConfigure(t *testing.T) {
	for key, c := range map[string]struct {
		value any
		want  string
	}{
		"colour":              {"red", "colour: unknown key"},
		"url":                 {"localhost:11333", "url: \"localhost:11333\", expected"},
		"controller":          {"http://user:pass@host:1/", "controller: "},
		"controller_password": {"x", "controller_password: there is no controller"},
		"timeout":             {"-1s", "timeout: -1s, expected"},
		"scale":               {0.0, "scale: 0, expected"},
		"settings":            {"[1]", "settings: expected a JSON object"},
		"settings_id":         {"a\nb", "settings_id: has characters"},
		"actions":             {map[string]any{"reject": "explode"}, "actions.reject: explode: unknown action"},
		"max_size":            {"many", "max_size: many, expected"},
	} {
		err := sdktest.Configure(t, New(), map[string]any{key: c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: %v, want %q", key, c.value, err, c.want)
		}
	}
	for _, bad := range []string{"http://127.0.0.1:99999", "http://127.0.0.1:0/", "https://host:x"} {
		if err := sdktest.Configure(t, New(), map[string]any{"url": bad}); err == nil || !strings.Contains(err.Error(), "url: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, good := range []map[string]any{nil, {"url": "https://rspamd.example.test/behind/proxy/", "settings": "{}"}, {"url": "unix:/run/rspamd.sock"}} {
		if err := sdktest.Configure(t, New(), good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
}
