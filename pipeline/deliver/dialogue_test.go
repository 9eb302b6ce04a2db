package deliver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/storage"
)

// TestDialogues plays the files of testdata/dialogue: what servers say, what they have to hear, and what comes of it. Mail
// for example.test goes to mx1.example.test and then to mx2.example.test. The lines of a part are
//
//	config: KEY=VALUE ...    of Config; assume_8bit, families, max_recipients, max_messages, keep, timeout, tls,
//	                         final= (for the reply to the content),
//	                         roots (the test's certificate is known), allow_private= (none)
//	relay: WORD ...          lmtp, unix, tls=LEVEL, user=NAME, pass=WORD: mx1 as a relay in place of MX
//	params: WORD ...         smtputf8, requiretls, body=, ret=, envid=
//	from: address            MAIL FROM; without: sender@example.org
//	to: address [notify=A,B] [orcpt=X]
//	to* N PATTERN            N recipients, %d is the number
//	content: text            with the escapes \r \n \t \\ \xNN; without: a short message
//	content* N text          text N times
//	asks: N                  in place of sending, the servers are asked so often about the first recipient (AskRecipient)
//	sends: N                 so many attempts, one after the other; each has the same recipients
//	server NAME              from here on what one connection to that host does:
//	  S: text                says text and CRLF; S| the same without CRLF
//	  S* N text              text N times
//	  C: pattern             hears this line; * stands for anything
//	  data                   reads content up to the dot, and checks that it is the message
//	  data*                  the same, and does not look at it
//	  bdat N                 reads N octets and checks that they are the message
//	  starttls               makes the handshake
//	  badtls                 the client has to refuse the certificate
//	  certtls                refuses the client for want of a certificate
//	  wait DURATION          says nothing for so long; rest: until the client goes away
//	  quit                   QUIT is heard, and answered; without, it may be
//	  close                  closes; without, the client has to
//	end                      what comes of it:
//	outcome: KIND STATUS pattern        of each recipient of the last attempt, in order, up to the last that is given
//	reply: text, tls: pattern, relayed: true      of the last outcome above
//	pace: WORD               same, fine, slow, wait, never
//	answer: WORD pattern     of the last question: none, later, taken, refused, and why
//	error: pattern           Send returns an error
//	log: pattern             a line of the log
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
				title, _, _ := strings.Cut(strings.TrimPrefix(part, "# "), "\n")
				t.Run(fmt.Sprintf("%d", i+1), func(t *testing.T) {
					t.Parallel()
					t.Log(title)
					playDialogue(t, part)
				})
			}
		})
	}
}

type scene struct {
	t         *testing.T
	config    Config
	final     time.Duration
	transport pipeline.Transport
	relayed   bool
	roots     bool
	params    pipeline.SenderParams
	sender    string
	to        []pipeline.ParcelRecipient
	content   string
	sends     int
	asks      int
	answer    string
	scripts   map[string][][]string
	expect    []string

	mu     sync.Mutex
	faults []string
	played sync.WaitGroup
}

func (s *scene) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

const plainMessage = "From: a@example.org\r\nSubject: x\r\n\r\nHello\r\n..\r\n.\r\nbye\r\n"

func playDialogue(t *testing.T, text string) {
	s := &scene{t: t, config: DefaultConfig(), sender: "sender@example.org", content: plainMessage, sends: 1, scripts: make(map[string][][]string)}
	s.config.AllowPrivate = []string{"127.0.0.0/8"}
	s.config.ConnectTimeout = units.Of(2 * time.Second)
	s.read(text)
	network := newNetwork(t, s)
	log := new(lockedBuffer)
	r := network.remote(s, log)
	defer r.Close()
	hop, err := r.NextHop(t.Context(), "example.test", "")
	if err != nil {
		t.Fatal(err)
	}
	var sent pipeline.Sent
	for range s.asks {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		answer, why := r.AskRecipient(ctx, "outbound", s.to[0].Address)
		s.answer, s.sends = answer.String()+" "+why, 0
		cancel()
	}
	for range s.sends {
		var done func()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		sent, done, err = r.Send(ctx, hop, s.parcel())
		done()
		if err == nil {
			s.follow(ctx, r, hop, &sent)
		}
		cancel()
	}
	r.Close()
	network.close()
	s.played.Wait()
	s.check(sent, err, log.String())
	for host, left := range s.scripts {
		if len(left) > 0 {
			s.fault("%d connections to %s were not made", len(left), host)
		}
	}
	for _, f := range s.faults {
		t.Error(f)
	}
	if t.Failed() {
		t.Logf("sent: %+v, %v\nlog: %s", sent, err, log)
	}
}

func (s *scene) parcel() *pipeline.Parcel {
	return &pipeline.Parcel{
		ID: storage.ID{}, Pipeline: "outbound", Domain: "example.test", Sender: s.sender, Params: s.params, Recipients: s.to, Size: int64(len(s.content)),
		Open: func(context.Context) (pipeline.Octets, error) {
			return octets{strings.NewReader(s.content)}, nil
		},
	}
}

// follow sends to those who are to come again, as the queue does.
func (s *scene) follow(ctx context.Context, r *Remote, hop pipeline.NextHop, sent *pipeline.Sent) {
	for left := len(sent.Outcomes); ; {
		p := s.parcel()
		p.Recipients = nil
		var at []int
		for i, o := range sent.Outcomes {
			if o.Again {
				p.Recipients = append(p.Recipients, s.to[i])
				at = append(at, i)
			}
		}
		if len(at) == 0 {
			return
		}
		if len(at) >= left {
			s.fault("nobody of %d got an answer", left)
			return
		}
		left = len(at)
		more, done, err := r.Send(ctx, hop, p)
		done()
		if err != nil {
			s.fault("to those left: %v", err)
			return
		}
		for n, i := range at {
			sent.Outcomes[i] = more.Outcomes[n]
		}
		sent.Pace, sent.Why = more.Pace, more.Why
	}
}

type octets struct{ *strings.Reader }

func (octets) Close() error { return nil }

func unescape(text string) string {
	out, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
	if err != nil {
		panic(text + ": " + err.Error())
	}
	return out
}

// read takes a part apart.
func (s *scene) read(text string) {
	host, ended := "", false
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		key, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || line[0] == '#':
		case line == "end":
			ended = true
		case ended:
			s.expect = append(s.expect, line)
		case key == "server":
			host = rest
			s.scripts[host] = append(s.scripts[host], nil)
		case host != "":
			last := len(s.scripts[host]) - 1
			s.scripts[host][last] = append(s.scripts[host][last], line)
		default:
			s.setting(key, rest)
		}
	}
	if len(s.to) == 0 {
		s.to = []pipeline.ParcelRecipient{{Address: "bob@example.test"}}
	}
}

func (s *scene) setting(key, rest string) {
	switch key {
	case "config:":
		for _, word := range strings.Fields(rest) {
			s.configure(word)
		}
	case "relay:":
		s.relayed = true
		for _, word := range strings.Fields(rest) {
			name, value, _ := strings.Cut(word, "=")
			switch name {
			case "lmtp":
				s.transport.LMTP = true
			case "tls":
				s.transport.TLS = value
			case "user":
				s.transport.Username = value
			case "pass":
				s.transport.Password = value
			}
		}
	case "params:":
		for _, word := range strings.Fields(rest) {
			name, value, _ := strings.Cut(word, "=")
			switch name {
			case "smtputf8":
				s.params.SMTPUTF8 = true
			case "requiretls":
				s.params.TLS = true
			case "body":
				s.params.Body = value
			case "ret":
				s.params.Ret = value
			case "envid":
				s.params.EnvID = unescape(value)
			}
		}
	case "from:":
		s.sender = unescape(rest)
	case "to:":
		s.recipient(rest)
	case "to*":
		count, pattern, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(count)
		for i := range n {
			s.to = append(s.to, pipeline.ParcelRecipient{Address: strings.Replace(pattern, "%d", strconv.Itoa(i), 1)})
		}
	case "content:":
		s.content = unescape(rest)
	case "content*":
		count, text, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(count)
		s.content = strings.Repeat(unescape(text), n)
	case "asks:":
		s.asks, _ = strconv.Atoi(rest)
	case "sends:":
		s.sends, _ = strconv.Atoi(rest)
	default:
		s.t.Fatalf("what is %q?", key)
	}
}

// recipient reads an address, which may be quoted and have blanks, and its parameters behind " | ".
func (s *scene) recipient(text string) {
	address, params, _ := strings.Cut(text, " | ")
	r := pipeline.ParcelRecipient{Address: unescape(address)}
	for _, word := range strings.Fields(params) {
		name, value, _ := strings.Cut(word, "=")
		if name == "notify" {
			r.Params.Notify = strings.Split(value, ",")
		} else {
			r.Params.ORcpt = unescape(value)
		}
	}
	s.to = append(s.to, r)
}

func (s *scene) configure(word string) {
	name, value, _ := strings.Cut(word, "=")
	number, _ := strconv.Atoi(value)
	duration, _ := units.ParseDuration(value)
	switch name {
	case "assume_8bit":
		s.config.Assume8Bit = true
	case "families":
		s.config.Families = value
	case "max_recipients":
		s.config.MaxRecipients = number
	case "max_messages":
		s.config.MaxMessages = number
	case "keep":
		s.config.Keep = duration
	case "timeout":
		s.config.Timeout = duration
	case "final":
		s.final = duration.Std()
	case "tls":
		s.config.TLS = value
	case "roots":
		s.roots = true
	case "allow_private":
		s.config.AllowPrivate = nil
	default:
		s.t.Fatalf("what is %q?", name)
	}
}

// check holds what came of it against what was to come.
func (s *scene) check(sent pipeline.Sent, err error, log string) {
	var last *pipeline.Outcome
	n := 0
	for _, line := range s.expect {
		key, rest, _ := strings.Cut(line, " ")
		if key == "log:" {
			if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool { return matches(rest, line) }) {
				s.fault("no line of the log is %q", rest)
			}
			continue
		}
		if key == "answer:" {
			if !matches(rest, s.answer) {
				s.fault("the answer is %q, expected %s", s.answer, rest)
			}
			continue
		}
		if key == "error:" {
			if err == nil || !matches(rest, err.Error()) {
				s.fault("the error is %v, expected %s", err, rest)
			}
			continue
		}
		if err != nil {
			s.fault("Send failed: %v", err)
			return
		}
		got := ""
		switch key {
		case "outcome:":
			if n >= len(sent.Outcomes) {
				s.fault("there are %d outcomes, expected another: %s", len(sent.Outcomes), rest)
				return
			}
			last = &sent.Outcomes[n]
			n++
			got = fmt.Sprintf("%s %s %s", last.Kind, last.Status, last.Text)
		case "reply:":
			got = last.Reply
		case "tls:":
			got = last.TLS
		case "relayed:":
			got = strconv.FormatBool(last.Relayed)
		case "pace:":
			got = [...]string{"same", "fine", "slow", "wait", "never"}[sent.Pace]
		default:
			s.t.Fatalf("what is %q?", line)
		}
		if !matches(rest, got) {
			s.fault("%s %q, expected %q", key, got, rest)
		}
	}
	for _, o := range sent.Outcomes {
		if o.Kind == 0 {
			s.fault("a recipient has no outcome: %+v", sent.Outcomes)
		}
	}
}

// matches holds text against a pattern in which * stands for anything.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// network is two hosts on one port.
type network struct {
	s         *scene
	port      uint16
	listeners []net.Listener
	cert      tls.Certificate
}

var hostAddrs = map[string]string{"mx1": "127.0.7.1", "mx2": "127.0.7.2"}

func newNetwork(t *testing.T, s *scene) *network {
	n := &network{s: s, cert: testCertificate(t)}
	for try := 0; len(n.listeners) < 2; try++ {
		n.close()
		n.listeners = nil
		first, err := net.Listen("tcp", hostAddrs["mx1"]+":0")
		if err != nil {
			t.Fatal(err)
		}
		n.listeners = []net.Listener{first}
		n.port = first.Addr().(*net.TCPAddr).AddrPort().Port()
		second, err := net.Listen("tcp", fmt.Sprintf("%s:%d", hostAddrs["mx2"], n.port))
		if err == nil {
			n.listeners = append(n.listeners, second)
		} else if try > 20 {
			t.Fatal(err)
		}
	}
	for i, l := range n.listeners {
		host := []string{"mx1", "mx2"}[i]
		s.mu.Lock()
		scripts := s.scripts[host]
		absent := len(scripts) > 0 && slices.Equal(scripts[0], []string{"absent"})
		if absent {
			delete(s.scripts, host)
		}
		s.mu.Unlock()
		if absent {
			l.Close()
			continue
		}
		s.played.Add(1)
		go func() {
			defer s.played.Done()
			n.accept(host, l)
		}()
	}
	return n
}

func (n *network) close() {
	for _, l := range n.listeners {
		l.Close()
	}
}

func (n *network) accept(host string, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		n.s.mu.Lock()
		scripts := n.s.scripts[host]
		if len(scripts) > 0 {
			n.s.scripts[host] = scripts[1:]
			n.s.played.Add(1)
		}
		n.s.mu.Unlock()
		if len(scripts) == 0 {
			n.s.fault("a connection to %s that was not expected", host)
			conn.Close()
			continue
		}
		go func() {
			defer n.s.played.Done()
			a := &actor{n: n, host: host, conn: conn, in: bufio.NewReader(conn)}
			defer func() { a.conn.Close() }()
			for _, line := range scripts[0] {
				if err := a.act(line); err != nil {
					n.s.fault("%s at %q: %v", host, line, err)
					return
				}
			}
			if len(scripts[0]) > 0 && scripts[0][len(scripts[0])-1] != "close" {
				a.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				rest, err := a.in.ReadString('\n')
				if rest == "QUIT\r\n" {
					io.WriteString(a.conn, "221 2.0.0 bye\r\n")
				} else if rest != "" || errors.Is(err, os.ErrDeadlineExceeded) {
					n.s.fault("%s at the end: %q, %v", host, rest, err)
				}
			}
		}()
	}
}

// actor is one connection of a server.
type actor struct {
	n    *network
	host string
	conn net.Conn
	in   *bufio.Reader
}

func (a *actor) act(line string) error {
	key, rest, _ := strings.Cut(line, " ")
	a.conn.SetDeadline(time.Now().Add(10 * time.Second))
	switch key {
	case "S:":
		_, err := io.WriteString(a.conn, unescape(rest)+"\r\n")
		return err
	case "S|":
		_, err := io.WriteString(a.conn, unescape(rest))
		return err
	case "S*":
		count, text, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(count)
		io.WriteString(a.conn, strings.Repeat(unescape(text), n)) // the client may have enough before
		return nil
	case "C:":
		got, err := a.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%w, after %q", err, got)
		}
		if !strings.HasSuffix(got, "\r\n") || !matches(unescape(rest), strings.TrimSuffix(got, "\r\n")) {
			return fmt.Errorf("it heard %q", got)
		}
		return nil
	case "data", "data*":
		return a.data(key == "data")
	case "bdat":
		n, _ := strconv.Atoi(rest)
		b := make([]byte, n)
		if _, err := io.ReadFull(a.in, b); err != nil {
			return err
		}
		if string(b) != a.n.s.content {
			return fmt.Errorf("the content is %q", clipped(string(b)))
		}
		return nil
	case "starttls":
		t := tls.Server(a.conn, &tls.Config{Certificates: []tls.Certificate{a.n.cert}})
		if err := t.Handshake(); err != nil {
			return err
		}
		a.conn, a.in = t, bufio.NewReader(t)
		return nil
	case "badtls": // the client ends the handshake, or what follows it
		t := tls.Server(a.conn, &tls.Config{Certificates: []tls.Certificate{a.n.cert}})
		if err := t.Handshake(); err == nil {
			if n, err := t.Read(make([]byte, 1)); err == nil {
				return fmt.Errorf("it went on with %d octets", n)
			}
		}
		return nil
	case "certtls": // the client has no certificate, and hears of it when it believes that the handshake is over (TLS 1.3)
		t := tls.Server(a.conn, &tls.Config{Certificates: []tls.Certificate{a.n.cert}, ClientAuth: tls.RequireAnyClientCert})
		if err := t.Handshake(); err == nil {
			return errors.New("it has a certificate")
		}
		return nil
	case "wait":
		d, err := time.ParseDuration(rest)
		time.Sleep(d)
		return err
	case "rest":
		io.Copy(io.Discard, a.in)
		return nil
	case "quit":
		if err := a.act("C: QUIT"); err != nil {
			return err
		}
		io.WriteString(a.conn, "221 2.0.0 bye\r\n") // or it has gone
		return nil
	case "close":
		return a.conn.Close()
	}
	return errors.New("what is this?")
}

// data reads content as a strict server does: a line ends in CRLF and in nothing else.
func (a *actor) data(look bool) error {
	var b strings.Builder
	for {
		line, err := a.in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasSuffix(line, "\r\n") || strings.Count(line, "\r") != 1 {
			return fmt.Errorf("a line that does not end in CRLF: %q", clipped(line))
		}
		if line == ".\r\n" {
			break
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	if look && b.String() != a.n.s.content && b.String() != a.n.s.content+"\r\n" {
		return fmt.Errorf("the content is %q", clipped(b.String()))
	}
	return nil
}

func clipped(s string) string { return s[:min(len(s), 200)] }

// remote returns a Remote that knows this network only.
func (n *network) remote(s *scene, log io.Writer) *Remote {
	dns := resolvertest.New(resolvertest.MustParse(`
example.test. MX 10 mx1.example.test.
example.test. MX 20 mx2.example.test.
mx1.example.test. A 127.0.7.1
mx2.example.test. A 127.0.7.2
`))
	s.config.Port = int(n.port)
	times := wire.DefaultTimes()
	times.Quit = 200 * time.Millisecond
	if s.final > 0 {
		times.Final = s.final
	}
	o := Options{
		Config: func(string) Config { return s.config }, Hostname: "client.example.org", Times: &times,
		Finder: mx.New(mx.Options{DNS: dns, Hostname: "client.example.org"}), Policies: tlspolicy.New(tlspolicy.Options{DNS: dns}),
		Logger: slog.New(slog.NewTextHandler(log, nil)),
		Own:    func(a netip.AddrPort) bool { return a.Addr() == netip.MustParseAddr("127.0.7.9") },
	}
	if s.roots {
		pool := x509.NewCertPool()
		leaf, err := x509.ParseCertificate(n.cert.Certificate[0])
		if err != nil {
			s.t.Fatal(err)
		}
		pool.AddCert(leaf)
		o.Policies = tlspolicy.New(tlspolicy.Options{DNS: dns, Roots: pool})
	}
	if s.relayed {
		s.transport.Name = "relay.example.test"
		s.transport.Hosts = []string{fmt.Sprintf("mx1.example.test:%d", n.port)}
		o.Transport = func(string) pipeline.Transport { return s.transport }
	}
	return New(o)
}
