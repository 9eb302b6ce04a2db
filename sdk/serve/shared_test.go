package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// sharedSocket returns the path of the plugin's socket for shared connections.
func (c *client) sharedSocket() string {
	c.t.Helper()
	d, err := c.Describe(c.t.Context(), &wire.DescribeRequest{})
	if err != nil || d.GetSharedSocket() == "" {
		c.t.Fatalf("no shared connections: %v %v", d, err)
	}
	return d.GetSharedSocket()
}

// frames opens a shared connection on which a test sends each frame by itself.
func (c *client) frames() *testLane {
	return (&client{t: c.t, direct: c.sharedSocket()}).lane()
}

// host is the host's end of a shared connection.
type host struct {
	t *testing.T
	*wire.HostShare

	mu      sync.Mutex
	bodies  map[uint64][]byte
	answers map[uint64]chan *wire.Answer
	ended   chan struct{}
}

func (c *client) share(lanes int) *host {
	c.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(c.t.Context(), "unix", c.sharedSocket())
	if err != nil {
		c.t.Fatal(err)
	}
	return newHost(c.t, conn, lanes)
}

func newHost(t *testing.T, conn net.Conn, lanes int) *host {
	h := &host{
		t: t, HostShare: wire.NewHostShare(wire.Quick(conn), lanes), bodies: map[uint64][]byte{},
		answers: map[uint64]chan *wire.Answer{}, ended: make(chan struct{}),
	}
	t.Cleanup(func() { _ = h.Close() })
	go h.read()
	return h
}

func (h *host) read() {
	defer close(h.ended)
	err := h.Begin()
	for err == nil {
		var f *wire.PluginFrame
		if f, err = h.Recv(); err != nil {
			return
		}
		if b := f.GetBody(); b != nil {
			h.mu.Lock()
			h.bodies[b.GetId()] = append(h.bodies[b.GetId()], b.GetData()...)
			h.mu.Unlock()
			continue
		}
		h.answerOf(f.GetAnswer().GetId()) <- f.GetAnswer()
	}
}

func (h *host) answerOf(id uint64) chan *wire.Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers[id] == nil {
		h.answers[id] = make(chan *wire.Answer, 1)
	}
	return h.answers[id]
}

// ask sends a question with n octets of content to what the sender names.
func (h *host) ask(id uint64, sender string, n int) { h.askUntil(id, sender, n, 0) }

func (h *host) askUntil(id uint64, sender string, n int, in time.Duration) {
	h.t.Helper()
	a := &wire.Ask{Id: id, Phase: 4, Envelope: &wire.Envelope{Id: fmt.Sprint(id), Sender: sender}}
	if in > 0 {
		a.DeadlineUnixNano = time.Now().Add(in).UnixNano()
	}
	if err := h.Ask(a, bytes.NewReader(make([]byte, n)), n); err != nil {
		h.t.Error(err)
	}
}

// answer waits for the answer to a question.
func (h *host) answer(id uint64) *wire.Answer {
	h.t.Helper()
	select {
	case a := <-h.answerOf(id):
		return a
	case <-time.After(5 * time.Second):
		h.t.Fatalf("no answer to %d", id)
		return nil
	}
}

// asked waits until n questions are with the plugin.
func (p *plugin) asked(t *testing.T, n int32) {
	t.Helper()
	for begin := time.Now(); p.running.Load() != n; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%d questions are with the plugin, expected %d", p.running.Load(), n)
		}
	}
}

// TestShared: one question holds no other, whatever becomes of it.
func TestShared(t *testing.T) {
	p := &plugin{}
	h := start(t, p, 8).share(8)
	h.ask(1, "deaf", 10)
	h.ask(2, "wait", 60000)
	p.asked(t, 2)
	var asking sync.WaitGroup
	for i := range uint64(6) {
		asking.Go(func() {
			for k := range uint64(40) {
				id, n := 100+k*6+i, int(k*i*300)
				h.ask(id, "", n)
				if a := h.answer(id); a.GetVerdict().GetScore() != float64(n) {
					t.Errorf("the plugin saw %v of %d octets", a, n)
				}
			}
		})
	}
	asking.Wait()
	h.ask(3, "early", 50000)
	if h.answer(3).GetVerdict().GetScore() != 7 {
		t.Error("no early answer")
	}
	h.ask(4, "panic", 10)
	if text := h.answer(4).GetError().GetText(); !strings.Contains(text, "now") {
		t.Error(text)
	}
	h.ask(5, "long error", 10)
	if text := h.answer(5).GetError().GetText(); len(text) > 1100 || strings.ContainsAny(text, "\r\n") {
		t.Errorf("%d octets", len(text))
	}
	for _, id := range []uint64{2, 2, 99, 4} { // twice, and for those that are not there or no more
		if err := h.Cancel(id); err != nil {
			t.Error(err)
		}
	}
	if h.answer(2).GetError() == nil {
		t.Error("no error after Cancel")
	}
	if err := <-p.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	h.askUntil(6, "wait", 0, 50*time.Millisecond)
	h.askUntil(7, "wait", 0, time.Nanosecond) // past
	for _, id := range []uint64{6, 7} {
		h.answer(id)
		if err := <-p.ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	h.ask(2, "early", 0) // the id is free again
	h.answer(2)
	_ = h.Cancel(1)
	close(p.release)
	h.answer(1)
}

// TestSharedCancelled: a question that is withdrawn before it has come as a whole is no message of half its size.
func TestSharedCancelled(t *testing.T) {
	l := start(t, &plugin{}, 1).frames()
	l.ask(1, "")
	l.chunk(1, 10)
	l.cancel(1)
	l.end(1)
	if l.answer(1).GetError() == nil {
		t.Error("an opinion about half a message")
	}
	l.ask(1, "")
	l.end(1)
	if l.answer(1).GetVerdict() == nil {
		t.Error("the next question suffers")
	}
}

// TestSharedBodies: new bodies of several questions at once are whole, and each comes before its answer; one without end stops at
// Cancel, and one that breaks does not end the others.
func TestSharedBodies(t *testing.T) {
	const many, size = 6, 700000
	var together sync.WaitGroup
	together.Add(many)
	endless, broken := &closing{Reader: &reader{left: 1 << 60}}, &closing{Reader: &reader{left: 300000, panics: true}}
	p := &plugin{special: func(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
		v := sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.ReplaceBody}}}
		switch m.ID {
		case "10":
			v.Changes[0].Body = endless
		case "11":
			v.Changes[0].Body = broken
		default:
			together.Done()
			together.Wait()
			v.Changes[0].Body = strings.NewReader(strings.Repeat(m.ID, size))
		}
		return v, nil
	}}
	h := start(t, p, many).share(many)
	for id := range uint64(many) {
		h.ask(id, "special", 100)
	}
	for id := range uint64(many) {
		a := h.answer(id)
		h.mu.Lock()
		if body := h.bodies[id]; a.GetVerdict() == nil || string(body) != strings.Repeat(fmt.Sprint(id), size) {
			t.Errorf("%d octets for %d: %.100s", len(body), id, a)
		}
		h.mu.Unlock()
	}
	h.ask(10, "special", 0)
	h.ask(11, "special", 0)
	if text := h.answer(11).GetError().GetText(); !strings.Contains(text, "panic") {
		t.Error(text)
	}
	_ = h.Cancel(10)
	if h.answer(10).GetError() == nil || endless.closed.Load() != 1 || broken.closed.Load() != 1 {
		t.Error("a body without end was told as a whole one, or was not closed")
	}
}

// closing counts how often it is closed.
type closing struct {
	io.Reader
	closed atomic.Int32
}

func (c *closing) Close() error { c.closed.Add(1); return nil }

// TestSharedProtocol: a host that breaks the rules loses the connection, and all questions on it end; the next connection serves.
func TestSharedProtocol(t *testing.T) {
	p := &plugin{}
	c := start(t, p, 0)
	if early := c.frames(); early.begins() {
		t.Error("a handler before Configure")
	}
	if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: 4}); err != nil {
		t.Fatal(err)
	}
	for name, breaks := range map[string]func(l *testLane){
		"second Ask with the id":  func(l *testLane) { l.ask(100, "early") },
		"Ask before the End":      func(l *testLane) { l.ask(1, "early"); l.ask(2, "early") },
		"Chunk without Ask":       func(l *testLane) { l.chunk(100, 10) },
		"Chunk of another":        func(l *testLane) { l.ask(1, "early"); l.chunk(100, 10) },
		"two Chunks":              func(l *testLane) { l.ask(1, "early"); l.chunk(1, 10); l.chunk(1, 10) },
		"End without Ask":         func(l *testLane) { l.end(100) },
		"End twice":               func(l *testLane) { l.ask(1, "wait"); l.end(1); l.end(1) },
		"End of another":          func(l *testLane) { l.ask(1, "early"); l.end(100) },
		"Parsed":                  func(l *testLane) { l.ask(1, "early"); l.parsed(1, &sdk.Parsed{}) },
		"Parsed of one under way": func(l *testLane) { l.parsed(100, &sdk.Parsed{}) },
		"nothing":                 func(l *testLane) { l.frame(&wire.HostFrame{}); _ = l.Send(cancelOf(5)) },
		"more questions than lanes": func(l *testLane) {
			l.asksWhole(1, "wait")
			l.asksWhole(2, "wait")
			l.asksWhole(3, "wait")
			l.ask(4, "")
		},
		"half a question, then an Ask": func(l *testLane) { l.ask(1, ""); l.chunk(1, 10); l.ask(2, "early") },
	} {
		l := c.frames()
		l.asksWhole(100, "wait")
		p.asked(t, 1)
		breaks(l)
		for {
			f, err := l.Recv()
			if err != nil {
				break
			}
			if f.GetAnswer().GetId() == 1 && f.GetAnswer().GetVerdict() != nil || f.GetAnswer().GetId() == 100 && f.GetAnswer().GetError() == nil {
				t.Errorf("%s: %v", name, f)
			}
		}
		p.asked(t, 0)
		for len(p.ended) > 0 {
			if err := <-p.ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	h := c.share(4)
	h.ask(1, "early", 0)
	h.answer(1)
}

func cancelOf(id uint64) *wire.HostFrame {
	return &wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: id}}}
}

func (l *testLane) asksWhole(id uint64, sender string) {
	l.ask(id, sender)
	l.end(id)
}

// TestSharedHostGone: when the host goes, also in the middle of a question, the contexts end, and so do all goroutines.
func TestSharedHostGone(t *testing.T) {
	p := &plugin{}
	c := start(t, p, 8)
	c.frames().asksWhole(1, "early")
	before := runtime.NumGoroutine()
	for range 5 {
		l := c.frames()
		for id := range uint64(3) {
			l.asksWhole(id, "wait")
		}
		l.asksWhole(3, "deaf")
		p.asked(t, 4)
		l.ask(4, "")
		l.chunk(4, 10)
		l.reset()
		p.asked(t, 1)
		for range 3 {
			if err := <-p.ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		p.release <- struct{}{}
		p.asked(t, 0)
	}
	for begin := time.Now(); runtime.NumGoroutine() > before+2; time.Sleep(5 * time.Millisecond) { // the watch may be awake
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestSharedRun: what a host that ends leaves behind is nothing to tell; what breaks the protocol is.
func TestSharedRun(t *testing.T) {
	ask := "\x00\x00\x00\x04\x0a\x02\x08\x01"
	for octets, broken := range map[string]bool{
		"": false, ask: false, ask[:2]: false, ask[:6]: false, "\x00\x00\x00\x00": true, "\x7f\x00\x00\x00": true, "\x00\x00\x00\x01\xff": true, ask + ask: true,
	} {
		if err := runShared(strings.NewReader(octets)); (err != nil) != broken {
			t.Errorf("%q: %v", octets, err)
		}
	}
	// Answers that the host did not read are no fault of its.
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, quick := range []func(net.Conn) net.Conn{wire.Quick, func(c net.Conn) net.Conn { return c }} {
		host, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		end := wire.NewPluginShare(quick(conn))
		if err := end.Begin(); err != nil {
			t.Fatal(err)
		}
		_ = host.Close()
		if err := newShared(end, t.Context(), newServer(&plugin{}, func() {})).run(); err != nil {
			t.Error(err)
		}
	}
}

// input is a connection that a host has sent all on, and takes all from.
type input struct {
	net.Conn
	io.Reader
}

func (i input) Read(p []byte) (int, error)  { return i.Reader.Read(p) }
func (i input) Write(p []byte) (int, error) { return len(p), nil }
func (i input) Close() error                { return nil }

func runShared(r io.Reader) error {
	s := newServer(reads{}, func() {})
	s.lanes = 4
	return newShared(wire.NewPluginShare(input{Reader: r}), context.Background(), s).run()
}

// reads is a plugin that reads its message and waits for its end.
type reads struct{ sdk.Plugin }

func (reads) Ask(ctx context.Context, m *sdk.Message) (v sdk.Verdict, err error) {
	_, err = io.Copy(io.Discard, m.Content)
	if m.Phase == sdk.PhaseRoute {
		<-ctx.Done()
	}
	return v, err
}

// FuzzShared: whatever a host sends, the handler returns once the host has gone.
func FuzzShared(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x06\x0a\x04\x08\x01\x10\x04\x00\x00\x00\x07\x12\x05\x08\x01\x12\x01x\x00\x00\x00\x04\x1a\x02\x08\x01"))
	f.Add([]byte("\x00\x00\x00\x06\x0a\x04\x08\x01\x10\x05\x00\x00\x00\x04\x1a\x02\x08\x01\x00\x00\x00\x04\x22\x02\x08\x01\x00\x00\x00\x01\xff"))
	f.Fuzz(func(_ *testing.T, octets []byte) { _ = runShared(bytes.NewReader(octets)) })
}

// TestSharedClose: the plugin is closed once, after the last of its questions has returned.
func TestSharedClose(t *testing.T) {
	p := &plugin{}
	t.Run("", func(t *testing.T) {
		c := start(t, p, 4)
		h := c.share(4)
		for id := range uint64(3) {
			h.ask(id, "slow", 100) // it ends with its context, and takes a while for that
		}
		l := c.lane()
		l.ask(1, "slow")
		p.asked(t, 4)
	})
	if n := p.closed.Load(); n != 1 {
		t.Errorf("closed %d times", n)
	}
}

// TestSharedAndLanes: all kinds of connection serve at once, and none waits for another.
func TestSharedAndLanes(t *testing.T) {
	p := &plugin{}
	c := start(t, p, 8)
	h, again := c.share(8), c.share(8)
	d, err := c.Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	lanes := []*testLane{c.lane(), (&client{t: t, direct: d.GetLaneSocket()}).lane()}
	h.ask(1, "deaf", 0)
	lanes[0].asksWhole(1, "deaf")
	lanes[1].asksWhole(1, "deaf")
	p.asked(t, 3)
	more := []*testLane{c.lane(), (&client{t: t, direct: d.GetLaneSocket()}).lane()}
	for id := range uint64(20) {
		h.ask(id+10, "", 1000)
		again.ask(id+10, "", 1000)
		for _, l := range more {
			l.ask(id, "")
			l.chunk(id, wire.MaxChunk)
			l.end(id)
		}
		for _, l := range more {
			if l.answer(id).GetVerdict().GetScore() != wire.MaxChunk {
				t.Error("a lane answers something else")
			}
		}
		if h.answer(id+10).GetVerdict().GetScore() != 1000 || again.answer(id+10).GetVerdict().GetScore() != 1000 {
			t.Error("a shared connection answers something else")
		}
	}
	close(p.release)
	h.answer(1)
	lanes[0].answer(1)
	lanes[1].answer(1)
}

// TestVerdictTooLarge: a verdict that fits into no frame is an error answer; without an answer the question's slot would be lost.
func TestVerdictTooLarge(t *testing.T) {
	p := &plugin{special: func(context.Context, *sdk.Message) (sdk.Verdict, error) {
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "X", Text: strings.Repeat("x", 2<<20)}}}, nil
	}}
	c := start(t, p, 2)
	d, err := c.Describe(t.Context(), &wire.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{d.GetLaneSocket(), d.GetSharedSocket()} {
		l := (&client{t: t, direct: socket}).lane()
		l.special(&wire.Ask{Id: 1, Phase: 4})
		l.end(1)
		answered := make(chan *wire.Answer, 1)
		go func() { f, _ := l.Recv(); answered <- f.GetAnswer() }()
		select {
		case a := <-answered:
			if !strings.Contains(a.GetError().GetText(), "octets") {
				t.Errorf("%.100s", a)
			}
		case <-time.After(3 * time.Second):
			t.Fatal("no answer")
		}
	}
}

// TestAccept: a plugin that was out of descriptors for a moment takes the next connection.
func TestAccept(t *testing.T) {
	d := newDirect(newServer(&plugin{}, func() {}))
	defer d.close()
	served := make(chan struct{}, 1)
	l := &fewDescriptors{errs: []error{syscall.EMFILE, syscall.ECONNABORTED}}
	done := make(chan struct{})
	go func() { defer close(done); d.accept(l, func(net.Conn) { served <- struct{}{} }) }()
	select {
	case <-served:
	case <-time.After(5 * time.Second):
		t.Error("no connection is taken any more")
	}
	<-done
}

// fewDescriptors fails some times before there is a connection; then it is closed.
type fewDescriptors struct {
	net.Listener
	errs []error
	last bool
}

func (l *fewDescriptors) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	if l.last {
		return nil, net.ErrClosed
	}
	l.last = true
	a, _ := net.Pipe()
	return a, nil
}
