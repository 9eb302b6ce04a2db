package imap

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/storagetest"
)

const (
	testUser = "alice@example.test"
	testPass = "correct horse"
)

// openStore opens an empty store in memory with one account.
func openStore(t testing.TB) *storage.Store {
	t.Helper()
	ctx := context.Background()
	s, err := storage.Open(ctx, storage.Options{Dir: "data", FS: vfs.NewMem(), Cost: storagetest.Cheap()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.CreateAccount(ctx, testUser, testPass, storage.AccountOptions{Quota: 200 << 20}); err != nil {
		t.Fatal(err)
	}
	return s
}

// start serves on a free loopback port until the test ends.
func start(t testing.TB, o Options) (*Server, string) {
	t.Helper()
	if o.Store == nil {
		o.Store = openStore(t)
	}
	if testing.Verbose() && o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	srv, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		<-done
	})
	return srv, ln.Addr().String()
}

func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

// peer is a client that speaks lines.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t: t, conn: c, r: bufio.NewReader(c)}
}

// secure shakes hands.
func (p *peer) secure() error {
	tc := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		return err
	}
	p.conn, p.r = tc, bufio.NewReader(tc)
	return nil
}

func (p *peer) send(s string) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.t.Logf("send: %v", err)
	}
}

// line reads one line; "<closed>" at the end of the connection.
func (p *peer) line() string {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	s, err := p.r.ReadString('\n')
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		p.t.Fatalf("no answer within 10 s (have %q)", s)
	}
	if err != nil && s == "" {
		return "<closed>"
	}
	return strings.TrimRight(s, "\r\n")
}

// until reads lines until one has the prefix, and returns all of them.
func (p *peer) until(prefix string) []string {
	p.t.Helper()
	var all []string
	for {
		l := p.line()
		all = append(all, l)
		if strings.HasPrefix(l, prefix) {
			return all
		}
		if l == "<closed>" {
			p.t.Fatalf("closed before %q: %q", prefix, all)
		}
	}
}

// do sends a command and returns the lines up to its tagged reply.
func (p *peer) do(cmd string) []string {
	p.t.Helper()
	p.send("t " + cmd + "\r\n")
	return p.until("t ")
}

func (p *peer) login() *peer {
	p.t.Helper()
	p.until("* OK")
	if l := p.do(fmt.Sprintf("LOGIN %s %q", testUser, testPass)); !strings.HasPrefix(l[len(l)-1], "t OK") {
		p.t.Fatal(l)
	}
	return p
}

func (p *peer) ok(cmd string) []string {
	p.t.Helper()
	l := p.do(cmd)
	if !strings.HasPrefix(l[len(l)-1], "t OK") {
		p.t.Fatalf("%s: %q", cmd, l)
	}
	return l
}

func (p *peer) append(box, args, msg string) {
	p.t.Helper()
	p.send(fmt.Sprintf("t APPEND %s %s{%d}\r\n", box, args, len(msg)))
	if l := p.line(); !strings.HasPrefix(l, "+") {
		p.t.Fatal(l)
	}
	p.send(msg + "\r\n")
	if l := p.until("t "); !strings.HasPrefix(l[len(l)-1], "t OK") {
		p.t.Fatal(l)
	}
}

func mailFile(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := strings.ReplaceAll(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n", "\r\n")
	return strings.NewReplacer(`\0`, "\x00", `\xff`, "\xff", `\xe4`, "\xe4").Replace(s)
}

// TestDialogues plays testdata/*.dialogue. Lines are
//
//	# a comment
//	option: plaintext | starttls | implicit | limit=N      before everything else
//	C: text          the client sends a line (\r \n \0 \xNN are escapes)
//	C-: text         without the line break
//	M: command | file    APPEND with the file of testdata as a synchronizing literal
//	TLS:             the client shakes hands
//	S: text          the server's next line; {{...}} is a regular expression
//	S~: text         one of the server's next lines; those before it are passed over
//	S: <closed>      the server closed the connection
//
// C2:, S2: and so on are a second connection and further ones. $USER and $PASS
// stand for the account.
func TestDialogues(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.dialogue")
	if len(files) < 10 {
		t.Fatalf("only %d dialogues", len(files))
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".dialogue"), func(t *testing.T) {
			t.Parallel()
			play(t, name)
		})
	}
}

type player struct {
	t     *testing.T
	o     Options
	addr  string
	peers map[string]*peer
	pause time.Duration // before the client says something
}

func play(t *testing.T, name string) {
	t.Helper()
	playWith(t, name, &player{t: t, peers: map[string]*peer{}, o: Options{AllowPlaintextLogin: true, LoginTimeout: 20 * time.Second}})
}

func playWith(t *testing.T, name string, p *player) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		key, arg, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("%s:%d: no colon", name, i+1)
		}
		arg = strings.NewReplacer("$USER", testUser, "$PASS", `"`+testPass+`"`).Replace(strings.TrimPrefix(arg, " "))
		if err := p.step(key, arg); err != nil {
			t.Fatalf("%s:%d: %s\n%v", name, i+1, line, err)
		}
	}
}

func (p *player) step(key, arg string) error {
	if key == "option" {
		return p.option(arg)
	}
	kind := strings.TrimRight(key, "0123456789~-")
	id := strings.Trim(key[len(kind):], "~-")
	c := p.peers[id]
	if c == nil {
		if p.addr == "" {
			_, p.addr = start(p.t, p.o)
		}
		c = dial(p.t, p.addr)
		p.peers[id] = c
	}
	if kind == "C" || kind == "M" {
		time.Sleep(p.pause)
	}
	switch kind {
	case "C":
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(strings.ReplaceAll(arg, `\`, `\\`), `"`, `\"`) + `"`)
		if err != nil {
			return err
		}
		s = strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00", `\xff`, "\xff").Replace(s)
		if !strings.HasSuffix(key, "-") {
			s += "\r\n"
		}
		c.send(s)
	case "M":
		cmd, file, _ := strings.Cut(arg, " | ")
		msg := mailFile(p.t, "testdata/"+file)
		c.send(fmt.Sprintf("%s {%d}\r\n", cmd, len(msg)))
		if l := c.line(); !strings.HasPrefix(l, "+") {
			return fmt.Errorf("got %q", l)
		}
		c.send(msg + "\r\n")
	case "TLS":
		return c.secure()
	case "S":
		return expect(c, arg, strings.Contains(key, "~"))
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

func (p *player) option(arg string) error {
	name, value, _ := strings.Cut(arg, "=")
	n, _ := strconv.Atoi(value)
	switch name {
	case "starttls":
		p.o.AllowPlaintextLogin, p.o.TLS = false, testTLS(p.t)
	case "implicit":
		p.o.AllowPlaintextLogin, p.o.TLS, p.o.ImplicitTLS = false, testTLS(p.t), true
	case "appendlimit":
		p.o.AppendLimit = int64(n)
	case "commands":
		p.o.MaxCommands = n
	case "connections":
		p.o.MaxConnections = n
	default:
		return fmt.Errorf("unknown option")
	}
	return nil
}

var pattern = regexp.MustCompile(`\{\{(.*?)\}\}`)

func expect(c *peer, want string, skip bool) error {
	re := "^"
	at := 0
	for _, m := range pattern.FindAllStringSubmatchIndex(want, -1) {
		re += regexp.QuoteMeta(want[at:m[0]]) + "(?:" + want[m[2]:m[3]] + ")"
		at = m[1]
	}
	r := regexp.MustCompile(re + regexp.QuoteMeta(want[at:]) + "$")
	var passed []string
	for {
		l := c.line()
		if r.MatchString(l) {
			return nil
		}
		passed = append(passed, l)
		if !skip || l == "<closed>" {
			return fmt.Errorf("got  %s", strings.Join(passed, "\n     "))
		}
	}
}
