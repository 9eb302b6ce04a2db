package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// shared is a connection with small questions of many lanes (sdk/wire, PluginShare). One goroutine reads; each question that has
// come as a whole has one of its own.
type shared struct {
	asker
	end   *wire.PluginShare
	ctx   context.Context
	lanes int // how many questions there can be at a time
	watch *watch

	asking sync.WaitGroup

	mu   sync.Mutex
	open map[uint64]*question // those that are not answered
}

func newShared(end *wire.PluginShare, ctx context.Context, server *server) *shared {
	s := &shared{end: end, ctx: ctx, lanes: server.lanes, watch: server.watch, open: make(map[uint64]*question)}
	s.asker = asker{plugin: server.plugin, parsed: server.parsed, send: s.send}
	return s
}

// quick is what an answer may have taken that waits for others, to be sent together with theirs. If the plugin computes for longer, that
// would hold it back until they have done so too, and spare nothing worth it.
const quick = time.Millisecond

// send sends a frame. An answer makes room for the next question before the host can see it.
func (s *shared) send(f *wire.PluginFrame) error {
	a := f.GetAnswer()
	if a == nil {
		return s.end.Send(f)
	}
	s.mu.Lock()
	q := s.open[a.GetId()]
	delete(s.open, a.GetId())
	s.mu.Unlock()
	if q == nil || time.Since(q.began) > quick {
		return s.end.SendAtOnce(f)
	}
	return s.end.Send(f)
}

// run attends the connection until its end and until the last Ask has returned. The error says how the host
// broke the protocol.
func (s *shared) run() error {
	err := s.read()
	_ = s.end.Close()
	s.mu.Lock()
	for _, q := range s.open {
		q.limit.cancel()
		q.body.fail(context.Canceled)
	}
	s.mu.Unlock()
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

func (s *shared) read() error {
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
			q.body.feed(x.Chunk.GetData())
		case *wire.HostFrame_End:
			if q == nil || x.End.GetId() != q.id {
				return errors.New("an End that is not an Ask's")
			}
			q.body.end()
			s.start(q)
			q = nil
		case *wire.HostFrame_Cancel:
			s.withdraw(x.Cancel.GetId())
		default:
			return fmt.Errorf("a frame %T where none can be", x)
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

// start has a question answered.
func (s *shared) start(q *question) {
	s.watch.wake()
	s.asking.Add(1)
	go func() {
		defer s.asking.Done()
		q.began = time.Now()
		s.answer(q)
	}()
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
