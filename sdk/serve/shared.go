package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// shared is a connection with small questions of many lanes (sdk/wire, PluginShare). One goroutine is the reader. While the plugin answers
// quickly, and one processor is enough for it, the reader asks each question itself, and the answers of those that came together go out
// together; should one take longer than patience, another goroutine reads on. Else each question that has come as a whole has a goroutine.
type shared struct {
	asker
	end   *wire.PluginShare
	ctx   context.Context
	lanes int // how many questions there can be at a time
	watch *watch

	buffers sync.Pool // of *[]byte: the content of questions

	asking sync.WaitGroup // goroutines beside run's
	over   chan error     // how the connection ended; has room for it
	quick  atomic.Int32   // how many quick answers there were in a row

	mu   sync.Mutex
	open map[uint64]*question // those that are not answered
	here *question            // the one that the reader asks
}

func newShared(end *wire.PluginShare, ctx context.Context, server *server) *shared {
	s := &shared{
		end: end, ctx: ctx, lanes: server.lanes, watch: server.watch,
		over: make(chan error, 1), open: make(map[uint64]*question),
	}
	s.asker = asker{plugin: server.plugin, parsed: server.parsed, send: s.send}
	s.buffers.New = func() any { return new([]byte) }
	return s
}

const (
	// quick is what an answer may have taken that waits for others, to be sent together with theirs. If the plugin computes for longer, that
	// would hold it back until they have done so too, and spare nothing worth it.
	quick = time.Millisecond

	// veryQuick is what an answer may take whose question does not need a goroutine, and enoughQuick how many of them there must have been.
	veryQuick   = 100 * time.Microsecond
	enoughQuick = 16
)

// send sends a frame. An answer makes room for the next question before the host can see it.
func (s *shared) send(f *wire.PluginFrame) error {
	a := f.GetAnswer()
	if a == nil {
		return s.end.Send(f)
	}
	s.mu.Lock()
	q := s.open[a.GetId()]
	delete(s.open, a.GetId())
	here := q != nil && s.here == q
	more := here && s.end.More() // nobody else becomes the reader meanwhile
	s.mu.Unlock()
	took := quick + 1
	if q != nil {
		took = time.Since(q.began)
	}
	if took > veryQuick {
		s.quick.Store(0)
	} else {
		s.quick.Add(1)
	}
	switch {
	case took > quick:
		return s.end.SendAtOnce(f)
	case more:
		return s.end.Gather(f)
	case here:
		return s.end.SendAtOnce(f)
	}
	return s.end.Send(f)
}

// run attends the connection until its end and until the last Ask has returned. The error says how the host
// broke the protocol.
func (s *shared) run() error {
	s.watch.add(s)
	defer s.watch.remove(s)
	s.read()
	err := <-s.over
	s.asking.Wait()
	if ended(err) {
		return nil
	}
	return err
}

// ended reports whether an error of Recv says that the host, or this side, has ended the connection: a host that dies may have sent half
// a frame, or not read all answers.
func ended(err error) bool {
	var call *os.SyscallError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &call)
}

// read reads until the end of the connection, or until another goroutine does so.
func (s *shared) read() {
	err := s.readOn()
	if err == nil {
		return
	}
	_ = s.end.Close()
	s.mu.Lock()
	for _, q := range s.open {
		q.limit.cancel()
		q.body.fail(context.Canceled)
	}
	s.mu.Unlock()
	s.over <- err
}

func (s *shared) readOn() error {
	var q *question // the one that is coming
	for {
		f, err := s.end.Recv()
		if err != nil {
			return err
		}
		switch x := f.GetFrame().(type) {
		case *wire.HostFrame_Ask:
			if q != nil {
				return errors.New("an Ask before the End of the one before")
			}
			if q, err = s.begin(x.Ask); err != nil {
				return err
			}
		case *wire.HostFrame_Chunk:
			if q == nil || x.Chunk.GetId() != q.id || q.body.waiting() {
				return errors.New("a Chunk that is not the one between an Ask and its End")
			}
			q.content = s.buffers.Get().(*[]byte)
			*q.content = append((*q.content)[:0], x.Chunk.GetData()...)
			q.body.feed(*q.content)
		case *wire.HostFrame_End:
			if q == nil || x.End.GetId() != q.id {
				return errors.New("an End that is not an Ask's")
			}
			q.body.end()
			if !s.start(q) {
				return nil
			}
			q = nil
		case *wire.HostFrame_Cancel:
			s.withdraw(x.Cancel.GetId())
		default:
			return fmt.Errorf("a frame %T where none can be", x)
		}
		if !s.end.More() {
			s.end.Flush()
		}
	}
}

// begin counts a question in.
func (s *shared) begin(a *wire.Ask) (*question, error) {
	q := s.question(s.ctx, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[q.id] != nil {
		return nil, errors.New("a second Ask with the id of one that is not answered")
	}
	if len(s.open) >= s.lanes {
		return nil, fmt.Errorf("more than %d questions at once", s.lanes)
	}
	s.open[q.id] = q
	return q, nil
}

// start has a question answered. more is false when the caller is not the reader any more.
func (s *shared) start(q *question) (more bool) {
	s.watch.wake()
	q.began = time.Now()
	if s.quick.Load() >= enoughQuick && s.watch.processors.single() {
		return s.answerHere(q)
	}
	s.asking.Add(1)
	go func() {
		defer s.asking.Done()
		s.answerIt(q)
	}()
	return true
}

// answerIt answers a question. Nobody reads its content afterwards.
func (s *shared) answerIt(q *question) {
	s.answer(q)
	if q.content != nil {
		s.buffers.Put(q.content)
	}
}

// answerHere answers a question in the reader.
func (s *shared) answerHere(q *question) (more bool) {
	s.mu.Lock()
	s.here = q
	s.mu.Unlock()
	s.answerIt(q)
	s.mu.Lock()
	more = s.here == q
	if more {
		s.here = nil
	}
	s.mu.Unlock()
	if !more {
		s.end.Flush() // the answer, if it was gathered
	}
	return more
}

// lookAgain implements attended: a question that the reader asks for too long gets a reader beside it.
func (s *shared) lookAgain(now time.Time) (busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.here == nil {
		return false
	}
	if now.Sub(s.here.began) < patience {
		return true
	}
	s.here = nil
	s.quick.Store(0)
	s.asking.Add(1)
	go func() {
		defer s.asking.Done()
		s.end.Flush() // what was gathered before it
		s.read()
	}()
	return false
}

// withdraw is a Cancel.
func (s *shared) withdraw(id uint64) {
	s.mu.Lock()
	q := s.open[id]
	s.mu.Unlock()
	if q != nil {
		q.limit.cancel()
		q.body.fail(context.Canceled)
	}
}
