package receive

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// TestDialogues plays the files of testdata/dialogue over a real connection. Their lines are
//
//	server: WORD ...   options: submission, lmtp, starttls, implicit, plaintext, trusted, resolver, KEY=VALUE;
//	                   phases=WORD: a plugin is asked in every phase, and says WORD at connect, see phasePlugin
//	C: text            the client sends text and CRLF; \r \n \t \\ \xNN are octets. Lines in a row are one write.
//	C| text            the same without CRLF
//	C* N text          text N times, and CRLF
//	S: pattern         one line of the server; * stands for anything
//	S= CODE            a whole reply with this code
//	starttls           the client's handshake
//	close              the client closes; then it is waited until the server has seen it
//	closed             the server has closed, and sends nothing before
//	messages N         so many messages were handed on
//	content: text      the last one's content, as written behind "content:", with the escapes above
//	has: pattern       one of the lines of its header, unfolded
//	hasnot: pattern    none of them
//	env: text          its envelope, as envelope() writes it
//	log: pattern       a line of the log
//	lognot: text       no line of the log has this text
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogue/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for i, part := range strings.Split(string(text), "\n----\n") {
				d := &dialogue{t: t, where: fmt.Sprintf("part %d", i+1)}
				d.play(part)
				// And so that the connection rests whenever it may: nobody can tell the difference.
				d = &dialogue{t: t, where: fmt.Sprintf("resting, part %d", i+1), restAfter: 1}
				d.play(part)
			}
		})
	}
}

type dialogue struct {
	t         *testing.T
	where     string
	restAfter time.Duration
	server    *testServer
	conn      net.Conn
	in        *bufio.Reader
	out       []byte
}

func (d *dialogue) fatalf(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf("%s: %s\nlog:\n%s", d.where, fmt.Sprintf(format, args...), d.server.log)
}

func (d *dialogue) play(text string) {
	options := ""
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "server:"); ok {
			options, lines[i] = rest, ""
		}
	}
	d.server = serve(d.t, func(o *Options) {
		o.restAfter = d.restAfter
		d.options(o, options)
	})
	conn, err := net.Dial("tcp", d.server.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { d.conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	d.conn, d.in = conn, bufio.NewReader(conn)
	if strings.Contains(options, "implicit") {
		d.startTLS()
	}
	part := d.where
	for i, line := range lines {
		d.where = fmt.Sprintf("%s line %d: %s", part, i+1, line)
		if line = strings.TrimLeft(line, " "); line != "" && !strings.HasPrefix(line, "#") {
			d.line(line)
		}
	}
	d.send()
}

func (d *dialogue) options(o *Options, words string) {
	for _, w := range strings.Fields(words) {
		key, value, _ := strings.Cut(w, "=")
		number, _ := strconv.Atoi(value)
		span, _ := units.ParseDuration(value)
		switch key {
		case "submission", "lmtp":
			o.Protocol = key
		case "starttls":
			o.TLS = testTLS()
		case "implicit":
			o.TLS, o.ImplicitTLS = testTLS(), true
		case "plaintext":
			o.AllowPlaintextLogin = true
		case "trusted":
			o.Limits.Trusted = append(o.Limits.Trusted, loopback)
		case "resolver":
			o.Resolver = fakeResolver{}
		case "phases":
			o.Pipeline.(*fakePipeline).asked = phases(value)
		case "max_size":
			o.Config.MaxSize = units.Size(number)
		case "max_recipients":
			o.Config.MaxRecipients = number
		case "max_errors":
			o.Config.MaxErrors = number
		case "max_refused":
			o.Config.MaxRefused = number
		case "max_commands":
			o.Limits.MaxCommands = number
		case "max_line":
			o.Config.MaxLine = units.Size(number)
		case "max_header":
			o.Config.MaxHeader = units.Size(number)
		case "max_header_fields":
			o.Config.MaxHeaderFields = number
		case "greet_delay":
			o.Config.GreetDelay = span
		case "idle_timeout":
			o.Limits.IdleTimeout = span
		case "data_timeout":
			o.Config.DataTimeout = span
		default:
			d.t.Fatalf("unknown option %q", w)
		}
	}
}

func (d *dialogue) line(line string) {
	if rest, ok := strings.CutPrefix(line, "C:"); ok {
		d.out = append(append(d.out, octets(strings.TrimPrefix(rest, " "))...), '\r', '\n')
		return
	}
	if rest, ok := strings.CutPrefix(line, "C|"); ok {
		d.out = append(d.out, octets(strings.TrimPrefix(rest, " "))...)
		return
	}
	if rest, ok := strings.CutPrefix(line, "C*"); ok {
		count, what, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			d.fatalf("%v", err)
		}
		d.out = append(append(d.out, strings.Repeat(octets(what), n)...), '\r', '\n')
		return
	}
	d.send()
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "S:":
		if have := d.read(); !match(rest, have) {
			d.fatalf("the server said %q", have)
		}
	case "S=":
		for {
			have := d.read()
			if len(have) < 4 || have[:3] != rest {
				d.fatalf("the server said %q", have)
			}
			if have[3] == ' ' {
				return
			}
		}
	case "starttls":
		d.startTLS()
	case "close":
		d.conn.Close()
		for end := time.Now().Add(10 * time.Second); d.server.Stats().Open > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				d.fatalf("the server does not notice")
			}
		}
	case "closed":
		if have, err := d.in.ReadString('\n'); err == nil || have != "" || isTimeout(err) {
			d.fatalf("the connection is open; the server said %q, %v", have, err)
		}
	default:
		d.expect(word, rest)
	}
}

// expect checks what reached the pipeline and the log.
func (d *dialogue) expect(word, rest string) {
	messages := d.server.pipeline.messages()
	var last got
	if len(messages) > 0 {
		last = messages[len(messages)-1]
	}
	header, _, _ := strings.Cut(last.content, "\r\n\r\n")
	fields := strings.Split(strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(header), "\r\n")
	switch word {
	case "messages":
		if strconv.Itoa(len(messages)) != rest {
			d.fatalf("%d messages", len(messages))
		}
	case "content:":
		// Without the Received field, which has its own test.
		content := last.content
		for strings.HasPrefix(content, "Received: ") && strings.Contains(content, "(Sluice)") {
			end := strings.Index(content, " +0000\r\n")
			content = content[end+len(" +0000\r\n"):]
		}
		if content != octets(rest) {
			d.fatalf("the content is %q, expected %q", content, octets(rest))
		}
	case "has:", "hasnot:":
		found := false
		for _, f := range fields {
			found = found || match(rest, f)
		}
		if found != (word == "has:") {
			d.fatalf("the header is %q", fields)
		}
	case "env:":
		if have := envelope(last); have != rest {
			d.fatalf("the envelope is\n%s", have)
		}
	case "log:":
		for _, l := range strings.Split(d.server.log.String(), "\n") {
			if match(rest, l) {
				return
			}
		}
		d.fatalf("no such line")
	case "lognot:":
		if strings.Contains(d.server.log.String(), rest) {
			d.fatalf("it is there")
		}
	default:
		d.fatalf("unknown line")
	}
}

func (d *dialogue) send() {
	if len(d.out) == 0 {
		return
	}
	_, _ = d.conn.Write(d.out) // a server that has closed shows in what it said
	d.out = nil
}

func (d *dialogue) read() string {
	line, err := d.in.ReadString('\n')
	if err != nil {
		d.fatalf("the server said %q, %v", line, err)
	}
	if len(line) > 512 {
		d.fatalf("a line of %d octets", len(line))
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (d *dialogue) startTLS() {
	c := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		d.fatalf("handshake: %v", err)
	}
	d.conn, d.in = c, bufio.NewReader(c)
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// match reports whether have is like pattern, in which * stands for anything.
func match(pattern, have string) bool {
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == have
	}
	have, ok := strings.CutPrefix(have, pieces[0])
	for _, p := range pieces[1 : len(pieces)-1] {
		at := strings.Index(have, p)
		ok = ok && at >= 0
		if !ok {
			return false
		}
		have = have[at+len(p):]
	}
	return ok && strings.HasSuffix(have, pieces[len(pieces)-1])
}

// octets undoes \r \n \t \\ \xNN.
func octets(s string) string {
	out, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", s, err))
	}
	return out
}

// envelope writes what the pipeline was told beside the content.
func envelope(g got) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from=<%s>", g.origin, g.sender)
	p := g.params
	if p.Size != 0 {
		fmt.Fprintf(&b, " size=%d", p.Size)
	}
	for _, v := range []struct{ name, value string }{{"body", p.Body}, {"ret", p.Ret}, {"envid", p.EnvID}, {"login", g.peer.Login},
		{"tls", g.peer.TLS}, {"name", g.peer.Name}} {
		if v.value != "" {
			fmt.Fprintf(&b, " %s=%s", v.name, v.value)
		}
	}
	if p.SMTPUTF8 {
		b.WriteString(" utf8")
	}
	if p.TLS {
		b.WriteString(" requiretls")
	}
	for i, r := range g.recipients {
		fmt.Fprintf(&b, " to=<%s>", r)
		if n := g.rcptParams[i].Notify; len(n) > 0 {
			fmt.Fprintf(&b, " notify=%s", strings.Join(n, ","))
		}
		if o := g.rcptParams[i].ORcpt; o != "" {
			fmt.Fprintf(&b, " orcpt=%s", o)
		}
	}
	return b.String()
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, have string
		want          bool
	}{{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"a*c*e", "abcde", true}, {"a*x*e", "abcde", false},
		{"ab*ba", "aba", false}} {
		if match(c.pattern, c.have) != c.want {
			t.Errorf("match(%q, %q) is not %v", c.pattern, c.have, c.want)
		}
	}
}
