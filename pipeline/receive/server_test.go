package receive

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/id"
)

// got is what the pipeline was handed.
type got struct {
	origin, sender string
	recipients     []string
	params         pipeline.SenderParams
	rcptParams     []pipeline.RecipientParams
	peer           pipeline.Peer
	content        string // with what receive has changed
}

// fakePipeline accepts, except for some local parts that say what shall happen.
type fakePipeline struct {
	mu    sync.Mutex
	got   []got
	unfit []string      // what was refused without being submitted
	hold  chan struct{} // if not nil, Submit waits for it or for the end of ctx
	enter chan struct{} // told when Submit waits
	panic bool
	asked *pipeline.Pipeline // not nil: a plugin is asked in the phases before the content, see phasePlugin
}

func (p *fakePipeline) Asks(phase sdk.Phase) bool { return p.asked != nil && p.asked.Asks(phase) }

func (p *fakePipeline) Connect(ctx context.Context, s *pipeline.Session) pipeline.Reply {
	return p.asked.Connect(ctx, s)
}

func (p *fakePipeline) Sender(ctx context.Context, m *pipeline.Message) pipeline.Reply {
	if p.asked == nil {
		return pipeline.Reply{}
	}
	return p.asked.Sender(ctx, m)
}

func (p *fakePipeline) Recipient(ctx context.Context, m *pipeline.Message, address string, params pipeline.RecipientParams) pipeline.Reply {
	if p.asked != nil {
		return p.asked.Recipient(ctx, m, address, params)
	}
	switch local, _, _ := strings.Cut(address, "@"); local {
	case "nobody":
		return pipeline.ReplyNoMailbox
	case "later":
		return pipeline.Reply{Code: 451, Enhanced: "4.7.1", Text: "Come\r\n250 back l\xc3\xa4ter " + strings.Repeat("x", 1000)}
	}
	m.Recipients = append(m.Recipients, &pipeline.Recipient{Address: address, Params: params})
	return pipeline.Reply{}
}

func (p *fakePipeline) Submit(ctx context.Context, m *pipeline.Message) pipeline.Result {
	if p.panic {
		panic("a bug in a stage")
	}
	if p.hold != nil {
		p.enter <- struct{}{}
		select {
		case <-p.hold:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		m.Content.Discard()
		return pipeline.Result{Reply: pipeline.ReplyTryLater}
	}
	g := got{origin: string(m.Origin), sender: m.Sender, params: m.Params, peer: *m.Peer}
	ok := pipeline.Reply{Code: 250, Enhanced: "2.0.0", Text: "OK " + m.ID.String()}
	var each []pipeline.Reply
	for _, r := range m.Recipients {
		g.recipients = append(g.recipients, r.Address)
		g.rcptParams = append(g.rcptParams, r.Params)
		reply := ok
		if strings.HasPrefix(r.Address, "infected@") {
			reply = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "A virus\nQUIT"}
		}
		each = append(each, reply)
	}
	r, err := m.Open(m.Recipients[0].Version)
	if err != nil {
		return pipeline.Result{Reply: pipeline.ReplyTryLater, Each: each}
	}
	content, err := io.ReadAll(r.Section(0, r.Size()))
	if err != nil {
		return pipeline.Result{Reply: pipeline.ReplyTryLater, Each: each}
	}
	g.content = string(content)
	m.Content.Discard()
	p.mu.Lock()
	p.got = append(p.got, g)
	p.mu.Unlock()
	return pipeline.Result{Reply: each[0], Each: each, Committed: true}
}

func (p *fakePipeline) Refuse(ctx context.Context, m *pipeline.Message, u pipeline.Unfit) {
	if m.Content != nil {
		m.Content.Discard()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unfit = append(p.unfit, fmt.Sprintf("%s for %d, %d octets: %s: %s %v", m.Sender, len(m.Recipients), u.Size, u.Why, u.Reply, ctx.Err()))
}

func (p *fakePipeline) refused() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.unfit...)
}

func (p *fakePipeline) messages() []got {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]got(nil), p.got...)
}

// fakeAccounts knows alice, whose password is "secret".
type fakeAccounts struct{}

func (fakeAccounts) Login(_ context.Context, user, password string, _ netip.Addr) (string, error) {
	switch {
	case user == "alice@example.test" && password == "secret":
		return user, nil
	case user == "slow@example.test":
		return "", ErrSlowDown
	case user == "broken@example.test":
		return "", errors.New("disk /dev/sda1 on fire")
	}
	return "", ErrBadLogin
}

func (fakeAccounts) MaySendAs(_ context.Context, login, address string) (bool, error) {
	return strings.EqualFold(login, address) || strings.EqualFold(address, "team@example.test"), nil
}

// fakeResolver knows that 127.0.0.1 is localhost.test, and claims another name that is not confirmed.
type fakeResolver struct{}

func (fakeResolver) LookupPTR(context.Context, netip.Addr) ([]string, error) {
	return []string{"liar.test.", "localhost.test."}, nil
}

func (fakeResolver) LookupIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host == "localhost.test" {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, errors.New("no such host")
}

// testServer is a server on a loopback port.
type testServer struct {
	*Server
	addr     string
	pipeline *fakePipeline
	log      *safeBuffer
	listener *listen.Listener
}

// safeBuffer is a log that a test may read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serve starts a server; change may adapt its options.
func serve(t testing.TB, change func(*Options)) *testServer {
	t.Helper()
	log := &safeBuffer{}
	store, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(64<<20), 64<<10, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &fakePipeline{}
	var ids id.Source
	o := Options{
		Hostname: "mx.example.test", Protocol: SMTP, Listener: "mx", Config: DefaultConfig(), Limits: listen.DefaultConfig(),
		Pipeline: p, Accounts: fakeAccounts{}, Blobs: store,
		NewID:  func() id.ID { return ids.New(time.Now()) },
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	o.Config.RefuseDelay = units.Of(time.Millisecond)
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listen.Wrap(inner, listen.Options{Name: "mx", Protocol: o.Protocol, Hostname: o.Hostname, Implicit: o.ImplicitTLS,
		Config: o.Limits, Logger: o.Logger})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Errorf("Serve returned %v", err)
		}
		if n := s.Stats().Open; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return &testServer{Server: s, addr: inner.Addr().String(), pipeline: p, log: log, listener: l}
}

// testTLS is a certificate for mx.example.test, made once.
var testTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mx.example.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})
