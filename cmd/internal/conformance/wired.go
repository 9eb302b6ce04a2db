package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// wired is a connection to a socket of the plugin's own: a direct lane, or the shared connection (section 3).
type wired struct {
	r     *run
	end   hostEnd
	began chan error    // the plugin's first frame has come, or what came in its place
	ended chan struct{} // closed when the connection has ended
	err   error         // why, after ended

	mu      sync.Mutex
	asked   map[uint64]*question
	answers map[uint64]*answer
	news    chan struct{} // has room for one: look at answers
}

// hostEnd is what both kinds of connection have.
type hostEnd interface {
	Begin() error
	Recv() (*wire.PluginFrame, error)
	Close() error
}

// path returns where a plugin's socket is. It lies in a directory of each start's own, so the process that runs is asked.
func (r *run) path(ctx context.Context, field func(*wire.DescribeResponse) string) (string, error) {
	d, err := r.p.describe(ctx)
	if err != nil {
		return "", err
	}
	path := field(d)
	if filepath.Dir(filepath.Clean(path)) != r.p.socketDir {
		return "", fmt.Errorf("the socket %s, not directly in PLUGIN_UNIX_SOCKET_DIR (%s)", printable(path, 200), r.p.socketDir)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("the socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return "", fmt.Errorf("%s is no socket", printable(path, 200))
	}
	return path, nil
}

// wire connects, until the plugin begins. Lanes that ended a moment ago may still have its places, so it is tried again for a while.
func (r *run) wire(ctx context.Context, field func(*wire.DescribeResponse) string, end func(net.Conn) hostEnd) (*wired, error) {
	path, err := r.path(ctx, field)
	if err != nil {
		return nil, err
	}
	limit := time.Now().Add(5 * time.Second)
	for ; ; time.Sleep(20 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("connect to the socket: %w", err)
		}
		w := &wired{
			r: r, end: end(conn), began: make(chan error, 1), ended: make(chan struct{}),
			asked: make(map[uint64]*question), answers: make(map[uint64]*answer), news: make(chan struct{}, 1),
		}
		go w.read()
		select {
		case err = <-w.began:
			if err == nil {
				return w, nil
			}
			if !errors.Is(err, io.EOF) { // it wasn't refused
				w.close()
				return nil, err
			}
		case <-time.After(time.Until(limit)):
			err = errors.New("no empty frame from the plugin")
		case <-ctx.Done():
			err = ctx.Err()
		}
		w.close()
		if time.Now().After(limit) || ctx.Err() != nil || !r.p.alive() {
			return nil, err
		}
	}
}

// close ends the connection.
func (w *wired) close() {
	_ = w.end.Close()
	<-w.ended
}

// read takes frames until the connection ends, and looks at each.
func (w *wired) read() {
	defer close(w.ended)
	err := w.end.Begin()
	w.began <- err
	for err == nil {
		var f *wire.PluginFrame
		if f, err = w.end.Recv(); err == nil {
			w.frame(f)
		}
	}
	w.err = err
}

func (w *wired) frame(f *wire.PluginFrame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := f.GetBody(); b != nil {
		if q := w.asked[b.GetId()]; q != nil {
			w.r.seen.body(b, q)
		}
		return
	}
	a := f.GetAnswer()
	if a == nil {
		return
	}
	q := w.asked[a.GetId()]
	if q == nil {
		w.r.seen.stray(a, &question{})
		return
	}
	if q.answers++; q.answers > 1 {
		w.r.seen.twice(a)
		return
	}
	got := &answer{id: a.GetId(), verdict: a.GetVerdict(), at: time.Now()}
	if got.verdict == nil {
		got.err = printable(a.GetError().GetText(), 200)
	}
	w.r.seen.answer(a, q)
	w.answers[a.GetId()] = got
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// note notes a question that is going to be sent.
func (w *wired) note(id uint64, phase wire.Phase, m *message) *wire.Ask {
	ask, q := w.r.question(id, phase, m, w.r.eventFor(phase), w.r.soon())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[id] = &q
	return ask
}

// wait waits for the answer to a question.
func (w *wired) wait(ctx context.Context, id uint64, limit time.Duration) (*answer, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		w.mu.Lock()
		a := w.answers[id]
		w.mu.Unlock()
		if a != nil {
			return a, nil
		}
		select {
		case <-w.news:
		case <-w.ended:
			w.mu.Lock()
			a := w.answers[id]
			w.mu.Unlock()
			if a != nil { // its last act
				return a, nil
			}
			return nil, w.broken()
		case <-timer.C:
			return nil, fmt.Errorf("no answer within %s", limit.Round(time.Millisecond))
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer when the time for all checks was over: %w", ctx.Err())
		}
	}
}

// broken says why the connection ended.
func (w *wired) broken() error {
	w.r.p.waitExit(300 * time.Millisecond)
	if errors.Is(w.err, io.EOF) && w.r.p.alive() {
		return errors.New("the plugin closed the connection")
	}
	return fmt.Errorf("the connection ended: %s; %s", printable(w.err.Error(), 200), w.r.p.died())
}

// same compares the answer on a socket with those that the same question had on a lane of gRPC, as far as they agree themselves: not
// every plugin says the same twice.
func same(got *answer, usual [2]*answer) error {
	word := func(a *answer) string {
		if a.verdict == nil {
			return "the error " + a.err
		}
		return strings.TrimSpace(a.verdict.String())
	}
	if (usual[0].verdict == nil) != (usual[1].verdict == nil) || usual[0].verdict != nil && !alike(usual[0].verdict, usual[1].verdict) {
		return nil
	}
	if (got.verdict == nil) != (usual[0].verdict == nil) || got.verdict != nil && !alike(got.verdict, usual[0].verdict) {
		return fmt.Errorf("another answer than on a lane of gRPC: %s; there it was %s", printable(word(got), 200), printable(word(usual[0]), 200))
	}
	return nil
}

// usual asks the same question twice on a lane of gRPC, and ends the lanes then, for they take places that a connection may need.
func (r *run) usual(ctx context.Context, phase wire.Phase, m *message) (two [2]*answer, err error) {
	defer r.resetAll()
	l, err := r.open(ctx)
	if err != nil {
		return two, err
	}
	defer l.close()
	for i := range two {
		if two[i], err = l.ask(ctx, phase, m, r.eventFor(phase)); err != nil {
			return two, fmt.Errorf("on a lane of gRPC: %w", err)
		}
	}
	return two, nil
}

// octetsOf are what the plugin is sent of a message.
func (r *run) octetsOf(phase wire.Phase, m *message) []byte {
	content := m.content(r.manifest)
	if content == nil || phase < wire.Phase_PHASE_CONTENT {
		return nil
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(content) // it is in memory
	return b.Bytes()
}
