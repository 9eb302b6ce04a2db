package pop3

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// fixture is a server on a loopback port with two accounts: alice@example.test,
// password "secret word", who has the messages, and bob@example.test, password
// "other", who has none.
type fixture struct {
	server *Server
	addr   string
	log    *lockedBuffer
}

func newFixture(t testing.TB, options map[string]bool, back backend) *fixture {
	f := &fixture{log: new(lockedBuffer)}
	o := Options{
		Hostname:            "pop.example.test",
		TLS:                 testTLS(t),
		ImplicitTLS:         options["implicit"],
		AllowPlaintextLogin: options["plaintext"],
		Logger:              slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if options["no-tls"] {
		o.TLS = nil
	}
	if options["login-delay"] {
		o.LoginDelay = time.Minute
	}
	if options["few-commands"] {
		o.MaxCommands = 2
	}
	if options["many-commands"] {
		o.MaxCommands = 1 << 40
	}
	f.server = newServer(o, back)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.server.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-done; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// waitIdle waits until the server has at most n sessions.
func (f *fixture) waitIdle(t testing.TB, n int) {
	for range 500 {
		f.server.mu.Lock()
		have := len(f.server.sessions)
		f.server.mu.Unlock()
		if have <= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("more than %d sessions stay", n)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
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

var testTLSConfig = sync.OnceValues(func() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "pop.example.test"},
		DNSNames:     []string{"pop.example.test"},
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
})

func testTLS(t testing.TB) *tls.Config {
	config, err := testTLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// memBackend keeps maildrops in memory and fails on request.
type memBackend struct {
	mu     sync.Mutex
	boxes  map[string][]memMessage // by owner; nil entries do not exist
	next   int
	broken map[string]error // by what: login, open, message, octets, remove, half
}

type memMessage struct {
	uidl string
	text string
}

var memPasswords = map[string]string{"alice@example.test": "secret word", "bob@example.test": "other"}

func newMemBackend(messages []string) *memBackend {
	b := &memBackend{boxes: make(map[string][]memMessage), broken: make(map[string]error)}
	for _, text := range messages {
		b.next++
		b.boxes["alice@example.test"] = append(b.boxes["alice@example.test"], memMessage{fmt.Sprintf("u%d", b.next), text})
	}
	return b
}

func (b *memBackend) fail(what string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken[what]
}

func (b *memBackend) login(_ context.Context, user, password string, peer netip.Addr) (string, error) {
	if err := b.fail("login"); err != nil {
		return "", err
	}
	user = strings.ToLower(user)
	if want, ok := memPasswords[user]; !ok || want != password || !peer.IsValid() {
		return "", errCredentials
	}
	return user, nil
}

func (b *memBackend) open(_ context.Context, owner string) (maildrop, error) {
	if err := b.fail("open"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &memDrop{back: b, owner: owner, at: append([]memMessage(nil), b.boxes[owner]...)}, nil
}

type memDrop struct {
	back  *memBackend
	owner string
	at    []memMessage
}

func (d *memDrop) messages() []message {
	list := make([]message, len(d.at))
	for i, m := range d.at {
		list[i] = message{size: int64(len(m.text)), uidl: m.uidl}
	}
	return list
}

func (d *memDrop) open(_ context.Context, i int) (content, error) {
	if err := d.back.fail("message"); err != nil {
		return nil, err
	}
	return memContent{strings.NewReader(d.at[i].text), d.back.fail("octets")}, nil
}

func (d *memDrop) remove(_ context.Context, which []int) error {
	if err := d.back.fail("remove"); err != nil {
		return err
	}
	gone := make(map[string]bool)
	for _, i := range which {
		gone[d.at[i].uidl] = true
	}
	d.back.mu.Lock()
	defer d.back.mu.Unlock()
	var left []memMessage
	for _, m := range d.back.boxes[d.owner] {
		if !gone[m.uidl] {
			left = append(left, m)
		}
	}
	d.back.boxes[d.owner] = left
	return nil
}

// memContent fails behind its first 10 octets if err is set.
type memContent struct {
	*strings.Reader
	err error
}

func (c memContent) Close() error { return nil }

func (c memContent) ReadAt(p []byte, off int64) (int, error) {
	if c.err != nil && off+int64(len(p)) > 10 {
		return 0, c.err
	}
	return c.Reader.ReadAt(p, off)
}
