package icap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// fake is an ICAP server: it reads a request and answers with what answer makes of the body.
type fake struct {
	url    string
	answer func(body []byte) string
	early  bool          // answers after the header, and reads no more
	wait   time.Duration // before the answer
	once   bool          // closes after each answer without saying so

	accepted atomic.Int32
	mu       sync.Mutex
	heads    []string
	bodies   [][]byte
}

func startFake(t *testing.T, f *fake) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f.url = "icap://" + l.Addr().String() + "/avscan"
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			go f.serve(c)
		}
	}()
	return f
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	b := bufio.NewReader(c)
	for {
		head := ""
		headers := 1
		for headers > 0 {
			line, err := b.ReadString('\n')
			if err != nil {
				return
			}
			head += line
			switch {
			case strings.HasPrefix(line, "Encapsulated: req-hdr=0, res-hdr"):
				headers += 2
			case strings.HasPrefix(line, "Encapsulated: req-hdr"):
				headers++
			case line == "\r\n":
				headers--
			}
		}
		var body []byte
		if !strings.HasPrefix(head, "OPTIONS") && !f.early {
			var err error
			if body, err = io.ReadAll(httputil.NewChunkedReader(b)); err != nil {
				return
			}
			_, _ = textproto.NewReader(b).ReadLine()
		}
		f.mu.Lock()
		f.heads, f.bodies = append(f.heads, head), append(f.bodies, body)
		f.mu.Unlock()
		time.Sleep(f.wait)
		if _, err := io.WriteString(c, f.answer(body)); err != nil || f.once {
			return
		}
		if f.early {
			time.Sleep(3 * time.Second)
			return
		}
	}
}

func start(t *testing.T, f *fake, config map[string]any) *plugin {
	t.Helper()
	p := New().(*plugin)
	if config == nil {
		config = map[string]any{}
	}
	config["url"] = f.url
	if err := p.Configure(context.Background(), sdk.Settings{Config: config}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func fixed(answer string) func([]byte) string { return func([]byte) string { return answer } }

// with returns an answer of status 200 with a body.
func with(fields, status string, body []byte) string {
	var chunks bytes.Buffer
	w := httputil.NewChunkedWriter(&chunks)
	_, _ = w.Write(body)
	_ = w.Close()
	http := "HTTP/1.1 " + status + "\r\nContent-Type: text/html\r\n\r\n"
	return fmt.Sprintf("ICAP/1.0 200 OK\r\n%sEncapsulated: res-hdr=0, res-body=%d\r\n\r\n%s%s\r\n", fields, len(http), http, chunks.String())
}

const eicar = "X-Infection-Found: Type=0; Resolution=2; Threat=Eicar-Test;\r\n"

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func([]byte) string
		action  sdk.Action
		names   string
		failure string
	}{
		"204":               {fixed("ICAP/1.0 204 No Content\r\nISTag: \"x\"\r\n\r\n"), sdk.Accept, "", ""},
		"a redirection":     {fixed("ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, null-body=40\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n"), sdk.Reject, "", ""},
		"204 of 1.1":        {fixed("ICAP/1.1 204 Unmodified\r\n\r\n"), sdk.Accept, "", ""},
		"the same back":     {func(b []byte) string { return with("", "200 OK", b) }, sdk.Accept, "", ""},
		"something else":    {func(b []byte) string { return with("", "200 OK", append(b, '!')) }, sdk.Reject, "", ""},
		"infected":          {fixed(with(eicar, "403 Forbidden", []byte("no"))), sdk.Reject, "Eicar-Test", ""},
		"infected, echoed":  {func(b []byte) string { return with(eicar, "200 OK", b) }, sdk.Reject, "Eicar-Test", ""},
		"X-Virus-ID":        {fixed(with("X-Virus-ID: Evil.A\r\n", "403 Forbidden", nil)), sdk.Reject, "Evil.A", ""},
		"violations":        {fixed(with("X-Violations-Found: 1\r\n\tfile\r\n\tEvil\r\n\t1\r\n\t0\r\n", "403 Forbidden", nil)), sdk.Reject, "violations: 1 file Evil 1 0", ""},
		"204, but a threat": {fixed("ICAP/1.0 204 No Content\r\n" + eicar + "\r\n"), sdk.Reject, "Eicar-Test", ""},
		"without a name": {func(b []byte) string {
			return with("X-Infection-Found: Type=0; Resolution=2; Threat=;\r\n", "200 OK", b)
		}, sdk.Reject, "Type=0; Resolution=2; Threat=;", ""},
		"an empty field":   {func(b []byte) string { return with("X-Infection-Found:\r\n", "200 OK", b) }, sdk.Reject, "unnamed", ""},
		"two threats":      {fixed(with(eicar+"X-Infection-Found: Type=0; Threat=B;\r\n", "403 x", nil)), sdk.Reject, "Eicar-Test B", ""},
		"blocked":          {fixed(with("", "403 Forbidden", []byte("no"))), sdk.Reject, "", ""},
		"hostile name":     {fixed(with("X-Virus-ID: a\x1b[2Jb\r\n", "403 Forbidden", nil)), sdk.Accept, "", "malformed"},
		"500":              {fixed("ICAP/1.0 500 Server error\r\n\r\n"), sdk.Accept, "", "500"},
		"404":              {fixed("ICAP/1.0 404 Service not found\r\n\r\n"), sdk.Accept, "", "404"},
		"100":              {fixed("ICAP/1.0 100 Continue\r\n\r\n"), sdk.Accept, "", "100"},
		"not ICAP":         {fixed("HTTP/1.1 204 No Content\r\n\r\n"), sdk.Accept, "", "no status line"},
		"nothing":          {fixed(""), sdk.Accept, "", "EOF"},
		"200 with nothing": {fixed("ICAP/1.0 200 OK\r\nEncapsulated: null-body=0\r\n\r\n"), sdk.Accept, "", "without a body"},
		"no Encapsulated":  {fixed("ICAP/1.0 200 OK\r\n\r\n"), sdk.Accept, "", "Encapsulated"},
		"odd Encapsulated": {fixed("ICAP/1.0 200 OK\r\nEncapsulated: opt-body=0\r\n\r\n"), sdk.Accept, "", "Encapsulated"},
		"bad chunks":       {fixed("ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\nzz\r\n"), sdk.Accept, "", "body inside"},
		"endless header":   {func([]byte) string { return "ICAP/1.0 204 x\r\n" + strings.Repeat("A: b\r\n", 100000) }, sdk.Accept, "", "read the ICAP"},
		"endless body":     {func([]byte) string { return with("", "200 OK", make([]byte, 4<<20)) }, sdk.Accept, "", "body inside"},
	} {
		p := start(t, startFake(t, &fake{answer: c.answer, once: true}), nil)
		v, err := p.Ask(context.Background(), sdktest.Mail("Subject: x\n\nhello\n"))
		if c.failure != "" {
			if err == nil || !strings.Contains(err.Error(), c.failure) {
				t.Errorf("%s: %+v %v, want %q", name, v, err, c.failure)
			}
			continue
		}
		if err != nil || v.Action != c.action || strings.Join(v.Detections, " ") != c.names {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		if (v.Action == sdk.Reject) != (v.Reply != nil && v.Reply.Code == 550) {
			t.Errorf("%s: reply %+v", name, v.Reply)
		}
	}
}

// TestWhatIsSent: the octets arrive as they are, by either method, and the parts are where Encapsulated
// says.
func TestWhatIsSent(t *testing.T) {
	octets := bytes.Repeat([]byte("0123456789\x00\xff\r\n"), 100000)
	for _, method := range []string{"respmod", "reqmod"} {
		f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n")})
		p := start(t, f, map[string]any{"method": method, "client_ip": true})
		m := sdktest.Mail("")
		m.Size, m.Content, m.Login = int64(len(octets)), iotest.HalfReader(bytes.NewReader(octets)), "a\r\nX-Evil: b"
		if _, err := p.Ask(context.Background(), m); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.bodies[0], octets) {
			t.Errorf("%s: %d octets arrived", method, len(f.bodies[0]))
		}
		icap, http, _ := strings.Cut(f.heads[0], "\r\n\r\n")
		fields := textproto.MIMEHeader{}
		for line := range strings.SplitSeq(icap, "\r\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				fields.Add(name, value)
			}
		}
		if !strings.HasPrefix(icap, strings.ToUpper(method)+" "+f.url+" ICAP/1.0\r\n") || fields.Get("Allow") != "204" ||
			fields.Get("X-Client-IP") != m.ClientAddr || fields.Get("X-Evil") != "" || fields.Get("X-Authenticated-User") != "TG9jYWw6Ly9hDQpYLUV2aWw6IGI=" {
			t.Errorf("%s: %s", method, icap)
		}
		body := fmt.Sprintf("-body=%d", len(http))
		if !strings.HasSuffix(fields.Get("Encapsulated"), body) {
			t.Errorf("%s: %s, want ...%s", method, fields.Get("Encapsulated"), body)
		}
		if method == "respmod" && !strings.Contains(fields.Get("Encapsulated"), fmt.Sprintf("res-hdr=%d", strings.Index(http, "HTTP/1.1 200"))) {
			t.Errorf("%s: %s", method, fields.Get("Encapsulated"))
		}
	}
}

// TestConnections: they are used again, and one that died meanwhile costs nothing but a new one.
func TestConnections(t *testing.T) {
	f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n")})
	p := start(t, f, nil)
	for range 5 {
		if _, err := p.Ask(context.Background(), sdktest.Mail("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	f = startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n"), once: true})
	p = start(t, f, nil)
	for i := range 5 {
		if _, err := p.Ask(context.Background(), sdktest.Mail("x")); err != nil {
			t.Fatalf("question %d: %v", i+1, err)
		}
	}
}

// TestOptionsBody: what may follow an answer to OPTIONS, at once or later, is not taken for the answer about a message.
func TestOptionsBody(t *testing.T) {
	f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\nEncapsulated: null-body=0\r\n\r\n")})
	p := start(t, f, nil)
	v, err := p.Ask(context.Background(), &sdk.Message{Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, Words: []string{"options"}}})
	if err != nil || len(v.Reasons) == 0 || !strings.Contains(v.Reasons[0].Text, "204") {
		t.Fatalf("%+v %v", v, err)
	}
	if _, err := p.Ask(context.Background(), sdktest.Mail("x")); err != nil || f.accepted.Load() != 2 {
		t.Errorf("%v, %d connections", err, f.accepted.Load())
	}
}

// TestEarly: a server that has its opinion before it has the message is believed if it gives a cause.
func TestEarly(t *testing.T) {
	for answer, want := range map[string]string{
		"ICAP/1.0 204 No Content\r\n\r\n":   "",
		with(eicar, "403 Forbidden", nil):   "Eicar-Test",
		with("", "200 OK", []byte("as if")): "error",
		"ICAP/1.0 503 Overloaded\r\n\r\n":   "error",
	} {
		p := start(t, startFake(t, &fake{answer: fixed(answer), early: true}), nil)
		m := sdktest.Mail("")
		m.Size, m.Content = 64<<20, io.LimitReader(zeros{}, 64<<20)
		v, err := p.Ask(context.Background(), m)
		got := strings.Join(v.Detections, " ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%.40q: %+v %v, want %q", answer, v, err, want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHalfAMessage(t *testing.T) {
	f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n")})
	lost := errors.New("lost")
	m := sdktest.Mail("")
	m.Size, m.Content = 1000, io.MultiReader(strings.NewReader("Subject: x\r\n"), iotest.ErrReader(lost))
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if v, err := start(t, f, nil).Ask(ctx, m); !errors.Is(err, lost) {
		t.Errorf("%+v %v", v, err)
	}
}

func TestSlow(t *testing.T) {
	f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n"), wait: 5 * time.Second})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if v, err := start(t, f, nil).Ask(ctx, sdktest.Mail("x")); err == nil || time.Since(begin) > 3*time.Second {
		t.Errorf("%+v %v after %s", v, err, time.Since(begin))
	}
}

func TestSizes(t *testing.T) {
	f := startFake(t, &fake{answer: fixed("ICAP/1.0 204 No Content\r\n\r\n")})
	m := func() *sdk.Message { return sdktest.Mail(strings.Repeat("x", 2000)) }
	if v, err := start(t, f, map[string]any{"max_size": "1KB"}).Ask(context.Background(), m()); err == nil {
		t.Errorf("%+v", v)
	}
	v, err := start(t, f, map[string]any{"max_size": "1KB", "larger": "skip"}).Ask(context.Background(), m())
	if err != nil || v.Reasons[0].Symbol != "ICAP_SKIPPED_SIZE" || len(f.bodies) != 0 {
		t.Errorf("%+v %v", v, err)
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, value := range map[string]any{
		"url": "http://127.0.0.1/x", "method": "get", "connections": int64(0), "larger": "first", "changed": "explode", "ulr": "x",
	} {
		err := New().Configure(context.Background(), sdk.Settings{Config: map[string]any{key: value}})
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
	for _, bad := range []string{"icap://", "icap://host", "icap://host/", "icap://u:p@host/x", "icap://host:0/x", "icap://host:99999/x", "%",
		"icap://host/av scan", "icap://host/x#y", "icap://host/\u00e9"} {
		if err := New().Configure(context.Background(), sdk.Settings{Config: map[string]any{"url": bad}}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("ICAP/1.0 204 No Content\r\n\r\n")
	f.Add(with(eicar, "403 Forbidden", []byte("no")))
	f.Add("ICAP/1.0 200 OK\r\nX-Violations-Found: 0\r\nEncapsulated: req-hdr=0, null-body=9\r\n\r\nGET / HTTP/1.1\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAnswer(strings.NewReader(text), 1000)
		if err != nil {
			return
		}
		found, err := a.means(nil)
		if err != nil {
			return
		}
		if len(found.names) > maxNames {
			t.Errorf("%d names", len(found.names))
		}
		for _, n := range found.names {
			if n == "" || len(n) > 200 || strings.ContainsAny(n, "\r\n\x00\x1b") {
				t.Errorf("the name %q", n)
			}
		}
		if a.status == 200 && len(found.names) == 0 && found.changed == "" {
			t.Errorf("%q counts as clean", text)
		}
	})
}

// TestSurplus: what a server says beyond its answer is never the answer about the next message.
func TestSurplus(t *testing.T) {
	clean := "ICAP/1.0 204 No Content\r\n\r\n"
	n := 0
	f := startFake(t, &fake{answer: func([]byte) string {
		if n++; n == 1 {
			return clean + clean
		}
		return with(eicar, "403 Forbidden", nil)
	}})
	p := start(t, f, nil)
	for i, want := range []sdk.Action{sdk.Accept, sdk.Reject} {
		v, err := p.Ask(context.Background(), sdktest.Mail("Subject: x\n\nhello\n"))
		if err != nil || v.Action != want {
			t.Errorf("%d: %+v %v, want %v", i, v, err, want)
		}
	}
	if got := f.accepted.Load(); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}
