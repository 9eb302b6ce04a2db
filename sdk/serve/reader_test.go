package serve

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// speaker does what the sender says, and notes in which order it was asked.
type speaker struct {
	mu    sync.Mutex
	asked []string
	ended chan error // what the contexts of those that waited said
}

func (p *speaker) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "speaker", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll}
}

func (p *speaker) Configure(context.Context, sdk.Settings) error { return nil }

func (p *speaker) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	p.mu.Lock()
	p.asked = append(p.asked, m.ID)
	p.mu.Unlock()
	n, err := io.Copy(io.Discard, m.Content)
	switch m.Sender {
	case "wait":
		<-ctx.Done()
		p.ended <- ctx.Err()
		return sdk.Verdict{}, ctx.Err()
	case "panic":
		panic("as asked")
	}
	return sdk.Verdict{Score: float64(n)}, err
}

// warm serves a shared connection to p in a process that keeps to one processor, and asks until the reader asks by itself.
func warm(t *testing.T, p *speaker, lanes int) (h *host, done chan struct{}) {
	p.ended = make(chan error, lanes)
	s := newServer(p, func() {})
	s.ready, s.lanes = true, lanes
	s.watch.processors = &processors{used: func() time.Duration { return 0 }, one: func() {}, all: func() {}}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.direct.handle(wire.Quick(conn), s.direct.serveShared)
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	h = newHost(t, conn, lanes)
	t.Cleanup(func() {
		_ = h.Close()
		_ = l.Close()
		<-done
		_ = s.end()
	})
	for id := range uint64(200) {
		h.ask(id+1, "x", 10)
		h.answer(id + 1)
	}
	return h, done
}

// TestReaderAsks: when the plugin is quick, whoever reads the questions asks them.
func TestReaderAsks(t *testing.T) {
	p := &speaker{}
	h, _ := warm(t, p, 64)
	p.mu.Lock()
	p.asked = nil
	p.mu.Unlock()
	var want []string
	for id := uint64(1000); id < 1064; id++ {
		h.ask(id, "x", int(id))
		want = append(want, strconv.FormatUint(id, 10))
	}
	for id := uint64(1000); id < 1064; id++ {
		if v := h.answer(id).GetVerdict(); v == nil || v.GetScore() != float64(id) {
			t.Errorf("%d: %v", id, v)
		}
	}
	p.mu.Lock()
	slices.Sort(p.asked) // an answer that took longer has those after it asked by goroutines
	if !slices.Equal(p.asked, want) {
		t.Errorf("asked %v, expected each once", p.asked)
	}
	p.mu.Unlock()
	h.ask(2000, "panic", 3)
	if a := h.answer(2000); a.GetError() == nil {
		t.Errorf("%v after a panic", a)
	}
	h.ask(2001, "x", 3)
	h.answer(2001)
}

// TestReaderIsRelieved: a question that the plugin thinks about for long does not hold up those behind it, nor the answers of those before
// it, nor its own Cancel, nor the end of the connection.
func TestReaderIsRelieved(t *testing.T) {
	p := &speaker{}
	h, done := warm(t, p, 8)
	start := time.Now()
	h.ask(1000, "x", 1)
	h.ask(1001, "wait", 1)
	h.ask(1002, "x", 2)
	h.ask(1003, "wait", 3)
	h.ask(1004, "x", 4)
	for _, id := range []uint64{1000, 1002, 1004} {
		if h.answer(id).GetVerdict() == nil {
			t.Errorf("%d: no verdict", id)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("those beside it were answered after %s", took)
	}
	if err := h.Cancel(1001); err != nil {
		t.Error(err)
	}
	if a := h.answer(1001); a.GetError() == nil {
		t.Errorf("%v after a Cancel", a)
	}
	<-p.ended
	for id := range uint64(100) { // and the reader asks again
		h.ask(id+2000, "x", 1)
		h.answer(id + 2000)
	}
	h.ask(3000, "wait", 1) // in the reader
	time.Sleep(time.Millisecond)
	_ = h.Close()
	for range 2 { // 1003 and 3000
		select {
		case <-p.ended:
		case <-time.After(2 * time.Second):
			t.Fatal("a question goes on after the end of the connection")
		}
	}
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Error("the handler goes on after the end of the connection")
	}
}
