package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/proto"
)

// bothConns runs a test over a unix socket as the two sides have it, and over a connection that only can wait.
func bothConns(t *testing.T, test func(t *testing.T, host, plugin net.Conn)) {
	t.Run("socket", func(t *testing.T) {
		a, b := sockets(t)
		test(t, a, b)
	})
	t.Run("pipe", func(t *testing.T) {
		a, b := net.Pipe()
		t.Cleanup(func() { _, _ = a.Close(), b.Close() })
		test(t, a, b)
	})
}

// contentOf is what the question with that id is about.
func contentOf(id uint64, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%08d", id), n/8+1)[:n]
}

func smallAsk(id uint64) *Ask {
	return &Ask{Id: id, Phase: Phase_PHASE_CONTENT, Envelope: &Envelope{Id: fmt.Sprint(id)}}
}

// received is a question as the plugin got it.
type received struct {
	ask  *Ask
	data []byte
}

// receive reads one question, whose frames are one behind the other.
func receive(s *PluginShare) (q received, err error) {
	f, err := s.Recv()
	if err != nil {
		return q, err
	}
	if q.ask = f.GetAsk(); q.ask == nil {
		return q, fmt.Errorf("%.100s in place of an Ask", f)
	}
	if f, err = s.Recv(); err != nil {
		return q, err
	}
	if c := f.GetChunk(); c != nil {
		if c.GetId() != q.ask.GetId() {
			return q, fmt.Errorf("a Chunk of %d within %d", c.GetId(), q.ask.GetId())
		}
		q.data = bytes.Clone(c.GetData())
		if f, err = s.Recv(); err != nil {
			return q, err
		}
	}
	if f.GetEnd() == nil || f.GetEnd().GetId() != q.ask.GetId() {
		return q, fmt.Errorf("%.100s in place of the End of %d", f, q.ask.GetId())
	}
	return q, nil
}

func scoreOf(id uint64, score float64) *PluginFrame {
	v := &Verdict{Score: score}
	return &PluginFrame{Frame: &PluginFrame_Answer{Answer: &Answer{Id: id, Result: &Answer_Verdict{Verdict: v}}}}
}

// TestShared: questions of all sizes from many at once arrive whole, and their answers, in another order, at who asked.
func TestShared(t *testing.T) {
	const askers, each = 24, 40
	sizes := []int{0, 1, 100, 4096, 5000, 16 << 10, 40000, MaxShared - 200}
	bothConns(t, func(t *testing.T, hostConn, pluginConn net.Conn) {
		host, plugin := NewHostShare(hostConn, askers), NewPluginShare(pluginConn)
		var working sync.WaitGroup
		working.Go(func() {
			if err := plugin.Begin(); err != nil {
				t.Error(err)
			}
			for range askers * each {
				q, err := receive(plugin)
				if err != nil {
					t.Error(err)
					return
				}
				working.Go(func() {
					time.Sleep(rand.N(time.Millisecond)) // others are read, and answered, meanwhile
					id := q.ask.GetId()
					if q.ask.GetEnvelope().GetId() != fmt.Sprint(id) || !bytes.Equal(q.data, contentOf(id, len(q.data))) {
						t.Errorf("question %d is another one", id)
					}
					if err := plugin.Send(&PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: id, Data: q.data}}}); err != nil {
						t.Error(err)
					}
					if err := plugin.Send(scoreOf(id, float64(len(q.data)))); err != nil {
						t.Error(err)
					}
				})
			}
		})
		var answers [askers]chan *Answer
		for i := range answers {
			answers[i] = make(chan *Answer, 1)
		}
		go func() {
			err := host.Begin()
			for err == nil {
				var f *PluginFrame
				if f, err = host.Recv(); err == nil && f.GetAnswer() != nil {
					answers[f.GetAnswer().GetId()%askers] <- f.GetAnswer()
				} else if b := f.GetBody(); err == nil && !bytes.Equal(b.GetData(), contentOf(b.GetId(), len(b.GetData()))) {
					t.Errorf("another body for %d", b.GetId())
				}
			}
		}()
		var asking sync.WaitGroup
		for i := range askers {
			asking.Go(func() {
				for k := range each {
					id, n := uint64(k*askers+i), sizes[(k+i)%len(sizes)]
					if err := host.Ask(smallAsk(id), bytes.NewReader(contentOf(id, n)), n); err != nil {
						t.Error(err)
						return
					}
					if a := <-answers[i]; a.GetId() != id || a.GetVerdict().GetScore() != float64(n) {
						t.Errorf("%d with %d octets was answered by %v", id, n, a)
					}
				}
			})
		}
		asking.Wait()
		working.Wait()
		host.out.mu.Lock()
		defer host.out.mu.Unlock()
		if kept := cap(host.out.waiting) + cap(host.out.spare); kept > 8*MaxShared {
			t.Errorf("%d octets are kept", kept)
		}
	})
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the content was read")
	return 0, io.EOF
}

// TestSharedBounds: a question is MaxShared octets at most; one that is larger is told before anything of it was read or sent.
func TestSharedBounds(t *testing.T) {
	sent := &sink{}
	host := NewHostShare(sent, 1)
	ask := smallAsk(math.MaxUint64) // the longest heads
	b, err := appendFrame(nil, &HostFrame{Frame: &HostFrame_Ask{Ask: ask}})
	if err != nil {
		t.Fatal(err)
	}
	most := MaxShared - len(b) - 64
	if err := host.Ask(ask, bytes.NewReader(make([]byte, most)), most); err != nil || sent.Len() > MaxShared || sent.Len() < MaxShared-64 {
		t.Errorf("%d octets were sent for the largest question: %v", sent.Len(), err)
	}
	sent.Reset()
	huge := smallAsk(1)
	huge.Envelope.Helo = string(make([]byte, MaxShared))
	for name, err := range map[string]error{
		"content": host.Ask(ask, unread{t}, most+1), "all that there is": host.Ask(ask, unread{t}, math.MaxInt),
		"ask": host.Ask(huge, unread{t}, 0), "both": host.Ask(huge, unread{t}, 100),
	} {
		if !errors.Is(err, ErrTooLarge) || sent.Len() != 0 {
			t.Errorf("%s: %v, and %d octets were sent", name, err, sent.Len())
		}
	}
	// A content that is not there is no question, and the next one is not touched by it.
	broken := errors.New("the disk is gone")
	for _, content := range []io.Reader{bytes.NewReader(make([]byte, 99)), io.MultiReader(bytes.NewReader(make([]byte, 50)), iotest.ErrReader(broken))} {
		if err := host.Ask(smallAsk(1), content, 100); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	if err := host.Ask(smallAsk(2), io.MultiReader(bytes.NewReader(contentOf(2, 60)), unread{t}), 60); err != nil {
		t.Error(err)
	}
	if err := host.Cancel(2); err != nil {
		t.Error(err)
	}
	plugin := NewPluginShare(&reading{r: &sent.Buffer})
	if q, err := receive(plugin); err != nil || q.ask.GetId() != 2 || !bytes.Equal(q.data, contentOf(2, 60)) {
		t.Errorf("%v %v", q, err)
	}
	if f, err := plugin.Recv(); err != nil || f.GetCancel().GetId() != 2 {
		t.Errorf("%v %v", f, err)
	}
	if f, err := plugin.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v %v at the end", f, err)
	}
}

// sink takes all at once.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Read(b []byte) (int, error)         { return s.Buffer.Read(b) }
func (s *sink) Write(b []byte) (int, error)        { return s.Buffer.Write(b) }
func (s *sink) writeNow(b []byte) (n int, e error) { return s.Buffer.Write(b) }

// TestSharedFull: what waits for a plugin that does not read is bounded, and what was taken arrives when it reads again.
func TestSharedFull(t *testing.T) {
	bothConns(t, func(t *testing.T, hostConn, pluginConn net.Conn) {
		const lanes, n = 2, 30000
		host, plugin := NewHostShare(hostConn, lanes), NewPluginShare(pluginConn)
		ask := func(id uint64) error { return host.Ask(smallAsk(id), bytes.NewReader(contentOf(id, n)), n) }
		taken := uint64(0)
		for ; ; taken++ {
			if err := ask(taken); errors.Is(err, ErrFull) {
				break
			} else if err != nil || taken > 1000 {
				t.Fatal(taken, err)
			}
		}
		if err := ask(taken); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		host.out.mu.Lock()
		if w := len(host.out.waiting); w > 2*MaxShared*lanes || w < 2*MaxShared*lanes-2*n {
			t.Errorf("%d octets wait", w)
		}
		host.out.mu.Unlock()
		for id := range taken {
			if q, err := receive(plugin); err != nil || q.ask.GetId() != id || !bytes.Equal(q.data, contentOf(id, n)) {
				t.Fatalf("question %d: %v", id, err)
			}
		}
		if err := ask(taken); err != nil {
			t.Fatal(err)
		}
		if q, err := receive(plugin); err != nil || q.ask.GetId() != taken {
			t.Error(q.ask, err)
		}
	})
}

// TestSharedGone: once the host has seen the end, no question is taken any more: whoever tells those who wait knows of all.
func TestSharedGone(t *testing.T) {
	for name, end := range map[string]func(host *HostShare, plugin *PluginShare, conn net.Conn){
		"host":    func(host *HostShare, _ *PluginShare, _ net.Conn) { _ = host.Close() },
		"plugin":  func(_ *HostShare, plugin *PluginShare, _ net.Conn) { _ = plugin.Close() },
		"garbage": func(_ *HostShare, _ *PluginShare, conn net.Conn) { _, _ = conn.Write([]byte("\x00\x00\x00\x01\xff")) },
	} {
		t.Run(name, func(t *testing.T) {
			bothConns(t, func(t *testing.T, hostConn, pluginConn net.Conn) {
				host, plugin := NewHostShare(hostConn, 1), NewPluginShare(pluginConn)
				go end(host, plugin, pluginConn)
				if f, err := host.Recv(); err == nil {
					t.Fatalf("%v at the end", f)
				}
				if err := host.Ask(smallAsk(1), unread{t}, 0); err == nil || errors.Is(err, ErrFull) {
					t.Errorf("a question was taken after the end: %v", err)
				}
				if err := host.Cancel(1); err == nil {
					t.Error("a Cancel was taken after the end")
				}
			})
		})
	}
	a, b := net.Pipe()
	go func() { _, _ = b.Write([]byte("\x00\x00\x00\x01")) }()
	host := NewHostShare(a, 1)
	if host.Begin() == nil || host.Ask(smallAsk(1), unread{t}, 0) == nil {
		t.Error("a question was taken where no handler is")
	}
}

// failing can be read, but not written.
type failing struct {
	net.Conn
	quick bool
}

var errNoRoom = errors.New("no descriptor is left to wait with")

func (f *failing) Write([]byte) (int, error) { return 0, errNoRoom }
func (f *failing) writeNow(b []byte) (n int, e error) {
	if f.quick {
		return 0, errNoRoom
	}
	return 0, nil // there is no room
}

// TestSharedWriteFails: an end that can't be written is no end that can be read for ever: who reads learns of it.
func TestSharedWriteFails(t *testing.T) {
	for _, quick := range []bool{false, true} {
		a, b := net.Pipe()
		defer b.Close()
		plugin := NewPluginShare(&failing{a, quick})
		ended := make(chan error, 1)
		go func() { _, err := plugin.Recv(); ended <- err }()
		if err := plugin.Send(scoreOf(1, 1)); err != nil && !errors.Is(err, errNoRoom) {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a frame")
			}
		case <-time.After(5 * time.Second):
			t.Fatal("who reads waits for questions that can't be answered")
		}
		if err := plugin.Send(scoreOf(1, 1)); !errors.Is(err, errNoRoom) {
			t.Error(err)
		}
	}
}

// TestSharedSendWaits: a plugin waits while the host does not read, and what waits is bounded; when the host reads all arrives, and at
// the end nobody waits any more.
func TestSharedSendWaits(t *testing.T) {
	bothConns(t, func(t *testing.T, hostConn, pluginConn net.Conn) {
		host, plugin := NewHostShare(hostConn, 1), NewPluginShare(pluginConn)
		const senders, each = 20, 8
		var sending sync.WaitGroup
		results := make(chan error, 2*senders)
		sendAll := func(id uint64) error {
			for range each {
				if err := plugin.Send(&PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: id, Data: contentOf(id, 32<<10)}}}); err != nil {
					return err
				}
			}
			return plugin.Send(scoreOf(id, 1))
		}
		start := func() {
			for id := range uint64(senders) {
				sending.Go(func() { results <- sendAll(id) })
			}
			time.Sleep(30 * time.Millisecond)
			plugin.out.mu.Lock()
			if w := len(plugin.out.waiting); w > maxPluginWaiting || len(results) == senders {
				t.Errorf("%d octets wait, and %d senders do not", w, len(results))
			}
			plugin.out.mu.Unlock()
		}
		start()
		frames := map[uint64]int{}
		for range senders * (each + 1) {
			f, err := host.Recv()
			if err != nil {
				t.Fatal(err)
			}
			id := f.GetBody().GetId() + f.GetAnswer().GetId()
			if frames[id]++; (f.GetAnswer() != nil) != (frames[id] == each+1) {
				t.Errorf("frame %d of %d: %.50s", frames[id], id, f)
			}
		}
		sending.Wait()
		for range senders {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		start()
		_ = plugin.Close()
		sending.Wait()
		failed := 0
		for range senders {
			if <-results != nil {
				failed++
			}
		}
		if failed < senders/2 {
			t.Errorf("%d of %d senders failed", failed, senders)
		}
	})
}

// TestSharedFrameTooLarge: a frame that no host takes is refused, and the connection lives; a large one that a host takes may be larger
// than what may wait.
func TestSharedFrameTooLarge(t *testing.T) {
	sent := &sink{}
	plugin := NewPluginShare(sent)
	body := func(n int) *PluginFrame {
		return &PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: 1, Data: make([]byte, n)}}}
	}
	if err := plugin.Send(body(maxPluginFrame)); err == nil || sent.Len() != 0 {
		t.Errorf("%d octets were sent: %v", sent.Len(), err)
	}
	want := body(maxPluginFrame - 16)
	if err := plugin.Send(want); err != nil {
		t.Fatal(err)
	}
	if f, err := NewHostShare(sent, 1).Recv(); err != nil || !proto.Equal(f, want) {
		t.Errorf("%.50s %v", f, err)
	}
	if kept := cap(plugin.out.waiting) + cap(plugin.out.spare); kept > 8*MaxShared {
		t.Errorf("%d octets are kept", kept)
	}
}

// busy calls back before each write.
type busy struct {
	sink
	before func(write int)
	mu     sync.Mutex
	writes int
}

func (b *busy) Write(p []byte) (int, error) {
	b.mu.Lock()
	b.writes++
	n := b.writes
	b.mu.Unlock()
	b.before(n)
	return b.sink.Write(p)
}

func (b *busy) writeNow(p []byte) (int, error) { return b.Write(p) }

// TestSharedTogether: what comes while something is written goes out with one write; and who writes for others does not do so for ever.
func TestSharedTogether(t *testing.T) {
	conn := &busy{}
	host := NewHostShare(conn, 100)
	ask := func(id uint64) {
		if err := host.Ask(smallAsk(id), bytes.NewReader(make([]byte, 500)), 500); err != nil {
			t.Error(err)
		}
	}
	conn.before = func(write int) {
		if write == 1 {
			for id := range uint64(50) {
				ask(id + 1)
			}
		}
	}
	if ask(0); conn.writes != 2 {
		t.Errorf("%d writes", conn.writes)
	}
	conn = &busy{}
	host = NewHostShare(conn, 100)
	end := make(chan struct{})
	conn.before = func(int) {
		select {
		case <-end:
		default:
			ask(1)
			time.Sleep(100 * time.Microsecond)
		}
	}
	returned := make(chan struct{})
	go func() { defer close(returned); ask(1) }()
	select {
	case <-returned:
	case <-time.After(2 * time.Second):
		t.Error("an Ask writes for the others for ever")
	}
	close(end)
	<-returned
}

// TestSharedAtOnce: what is to be sent at once does not wait for whoever computes.
func TestSharedAtOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	waited := 0
	for range 20 { // the scheduler may let the other one run by itself, now and then
		var computed atomic.Bool
		conn := &busy{before: func(int) {
			if computed.Load() {
				waited++
			}
		}}
		plugin := NewPluginShare(conn)
		go computed.Store(true)
		if err := plugin.SendAtOnce(scoreOf(1, 1)); err != nil || conn.writes != 1 {
			t.Errorf("%d writes, %v", conn.writes, err)
		}
	}
	if waited > 10 {
		t.Errorf("%d of 20 waited", waited)
	}
}

// FuzzShared: no octets make one of the ends panic, wait for ever, or change a chunk that it has returned.
func FuzzShared(f *testing.F) {
	sent := &sink{}
	host := NewHostShare(sent, 1)
	for id, n := range []int{0, 10, 3000} {
		_ = host.Ask(smallAsk(uint64(id)), bytes.NewReader(contentOf(uint64(id), n)), n)
	}
	_ = host.Cancel(1)
	f.Add(sent.Bytes())
	answers := &sink{}
	plugin := NewPluginShare(answers)
	_, _ = plugin.Send(scoreOf(1, 2)), plugin.Send(&PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: 2, Data: []byte("x")}}})
	f.Add(append([]byte("\x00\x00\x00\x00"), answers.Bytes()...))
	f.Fuzz(func(t *testing.T, octets []byte) {
		plugin := NewPluginShare(&reading{r: iotest.OneByteReader(bytes.NewReader(octets))})
		lane := NewPluginEnd(&reading{r: bytes.NewReader(octets)})
		for {
			frame, err := plugin.Recv()
			want, wantErr := lane.Recv()
			if err != nil {
				if wantErr == nil && proto.Size(want) <= MaxShared-lengthSize {
					t.Fatalf("%v in place of %.100s", err, want)
				}
				break
			}
			if wantErr != nil || !proto.Equal(frame, want) {
				t.Fatalf("%.100s, a lane has %.100s, %v", frame, want, wantErr)
			}
		}
		host := NewHostShare(&reading{r: bytes.NewReader(octets)}, 1)
		err := host.Begin()
		for err == nil {
			_, err = host.Recv()
		}
		if host.Ask(smallAsk(1), nil, 0) == nil {
			t.Fatal("a question was taken after the end")
		}
	})
}

// BenchmarkShared is a question of 4 KiB and its answer: what the ends and the socket cost, alone and with others beside it.
func BenchmarkShared(b *testing.B) {
	for _, askers := range []int{1, 32} {
		b.Run(fmt.Sprint(askers), func(b *testing.B) {
			hostConn, pluginConn := sockets(b)
			host, plugin := NewHostShare(hostConn, askers), NewPluginShare(pluginConn)
			go func() {
				for {
					q, err := receive(plugin)
					if err != nil {
						return
					}
					go func() { _ = plugin.Send(scoreOf(q.ask.GetId(), 1)) }()
				}
			}()
			answers := make([]chan struct{}, askers)
			for i := range answers {
				answers[i] = make(chan struct{}, 1)
			}
			go func() {
				for {
					f, err := host.Recv()
					if err != nil {
						return
					}
					answers[f.GetAnswer().GetId()] <- struct{}{}
				}
			}()
			content := make([]byte, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			var asking sync.WaitGroup
			for i := range askers {
				asking.Go(func() {
					for range b.N/askers + 1 {
						if err := host.Ask(smallAsk(uint64(i)), bytes.NewReader(content), len(content)); err != nil {
							b.Error(err)
							return
						}
						<-answers[i]
					}
				})
			}
			asking.Wait()
		})
	}
}
