package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"

	"google.golang.org/protobuf/proto"
)

// A shared connection, to DescribeResponse.shared_socket, carries small questions of many lanes at once. The frames are those of a
// direct lane; each question is sent whole, its Ask, Chunk and End one behind the other, and answered when the plugin is ready, in any
// order. What it saves is the call and the waking of a process for each question and each answer: those that are there at the same
// time are written together, and read together.
//
// HostShare and PluginShare are its ends. Any number may send; one receives.

// MaxShared is the largest question that goes over a shared connection, in octets of all its frames.
const MaxShared = 64 << 10

// maxPluginWaiting bounds what waits to be written by a plugin, in octets.
const maxPluginWaiting = 256 << 10

// Errors of HostShare.Ask. The question was not sent, and nothing else is wrong.
var (
	ErrTooLarge = errors.New("the question is too large for a shared connection")
	ErrFull     = errors.New("the plugin does not read its shared connection")
)

// HostShare is the host's end of a shared connection.
type HostShare struct {
	hostConn
	out     outbox
	buffers sync.Pool
}

// NewHostShare takes a connection over. What waits to be written is bounded by what `lanes` lanes need if the plugin does not read.
func NewHostShare(conn net.Conn, lanes int) *HostShare {
	s := &HostShare{hostConn: newHostConn(conn, 16<<10)}
	s.buffers.New = func() any { return new([]byte) }
	s.out.init(conn, 2*MaxShared*lanes)
	return s
}

// Ask sends a question with n octets of content. It does not wait for the plugin, only for content. The error is ErrTooLarge, ErrFull,
// one of content, or says that the connection is gone.
func (s *HostShare) Ask(ask *Ask, content io.Reader, n int) error {
	buffer := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buffer)
	b, err := appendQuestion((*buffer)[:0], ask, content, n)
	if cap(b) <= 2*MaxShared {
		*buffer = b
	}
	if err != nil {
		return err
	}
	return s.out.put(b, false)
}

func appendQuestion(b []byte, ask *Ask, content io.Reader, n int) ([]byte, error) {
	b, err := appendFrame(b, &HostFrame{Frame: &HostFrame_Ask{Ask: ask}})
	if err != nil {
		return b, err
	}
	const ends = 64 // what the heads of Chunk and End need at most
	if n > MaxShared-ends-len(b) {
		return b, ErrTooLarge
	}
	if n > 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(pieceLength(ask.Id, n)))
		b = appendPieceHead(b, tagChunk, ask.Id, n)
		start := len(b)
		b = append(b, make([]byte, n)...)
		if _, err := io.ReadFull(content, b[start:]); err != nil {
			return b, fmt.Errorf("read the content: %w", err)
		}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(pieceLength(ask.Id, 0)))
	return appendPieceHead(b, tagEnd, ask.Id, 0), nil
}

// Begin waits for the plugin's sign that a handler serves the connection. After an error Ask fails.
func (s *HostShare) Begin() error {
	err := s.hostConn.Begin()
	s.out.fail(err)
	return err
}

// Recv waits for a frame. After an error Ask fails: whoever deals with the error knows of all questions that were sent.
func (s *HostShare) Recv() (*PluginFrame, error) {
	f, err := s.hostConn.Recv()
	s.out.fail(err)
	return f, err
}

// Cancel says that nobody waits for the answer any more.
func (s *HostShare) Cancel(id uint64) error {
	b, err := appendFrame(nil, &HostFrame{Frame: &HostFrame_Cancel{Cancel: &Cancel{Id: id}}})
	if err != nil {
		return err
	}
	return s.out.put(b, false)
}

// PluginShare is the plugin's end of a shared connection.
type PluginShare struct {
	pluginConn
	out  outbox
	last int // octets of the frame that Recv returned
}

// NewPluginShare takes a connection over.
func NewPluginShare(conn net.Conn) *PluginShare {
	s := &PluginShare{pluginConn: newPluginConn(conn, MaxShared)}
	s.out.init(conn, maxPluginWaiting)
	return s
}

// Send sends a frame, together with what others have to send now. It waits while the host is far behind.
func (s *PluginShare) Send(f *PluginFrame) error { return s.send(f, s.out.put) }

// SendAtOnce is Send for what must not wait for others that may compute for long.
func (s *PluginShare) SendAtOnce(f *PluginFrame) error { return s.send(f, s.out.putAtOnce) }

// Gather is Send for who will Flush soon.
func (s *PluginShare) Gather(f *PluginFrame) error { return s.send(f, s.out.gather) }

// Flush writes what was gathered.
func (s *PluginShare) Flush() { s.out.flush() }

// Recv waits for a frame. The octets of a Chunk are there until the next Recv.
func (s *PluginShare) Recv() (*HostFrame, error) {
	_, _ = s.r.Discard(s.last) // it was read
	s.last = 0
	head, err := s.r.Peek(lengthSize)
	if err != nil {
		return nil, s.cut(err)
	}
	n := binary.BigEndian.Uint32(head)
	if n > MaxShared-lengthSize {
		return nil, fmt.Errorf("a frame of %d octets, expected at most %d", n, MaxShared-lengthSize)
	}
	b, err := s.r.Peek(lengthSize + int(n))
	if err != nil {
		return nil, s.cut(err)
	}
	s.last = len(b)
	b = b[lengthSize:]
	f := new(HostFrame)
	if unmarshalPiece(b, f, false) || parseAsk(b, f) {
		return f, nil
	}
	return f, proto.Unmarshal(b, f)
}

// cut is the error of a read that ended in the middle of a frame.
func (s *PluginShare) cut(err error) error {
	if err == io.EOF && s.r.Buffered() > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// More reports whether another whole frame has been read already, so that Recv does not wait. It is for who receives.
func (s *PluginShare) More() bool {
	if s.r.Buffered() <= s.last+lengthSize {
		return false
	}
	b, err := s.r.Peek(s.last + lengthSize)
	return err == nil && uint64(s.r.Buffered()) >= uint64(len(b))+uint64(binary.BigEndian.Uint32(b[s.last:]))
}

func (s *PluginShare) send(f *PluginFrame, put func(b []byte, wait bool) error) error {
	var room [256]byte
	b, err := pluginFrame(room[:], f)
	if err != nil {
		return err
	}
	return put(b, true)
}

// outbox gathers what several goroutines send, and writes it together: who finds nobody writing lets the others run
// first, and then writes what they have left too.
type outbox struct {
	conn  net.Conn
	limit int // octets that may wait

	mu      sync.Mutex
	room    sync.Cond // something was written, or err is there
	waiting []byte
	spare   []byte // the next waiting
	writing bool
	err     error
}

func (o *outbox) init(conn net.Conn, limit int) {
	o.conn, o.limit = conn, limit
	o.room.L = &o.mu
}

// put sends b, or leaves it to who is writing. Only with `wait` it waits for the other side, while too much waits already.
func (o *outbox) put(b []byte, wait bool) error {
	write, err := o.add(b, wait)
	if write {
		runtime.Gosched()
		o.write()
	}
	return err
}

// putAtOnce is put without letting the others run first.
func (o *outbox) putAtOnce(b []byte, wait bool) error {
	write, err := o.add(b, wait)
	if write {
		o.write()
	}
	return err
}

// gather is put without writing, which flush does; or who is writing.
func (o *outbox) gather(b []byte, wait bool) error {
	o.mu.Lock()
	if o.err != nil || o.full(len(b)) {
		o.mu.Unlock()
		return o.put(b, wait)
	}
	o.waiting = append(o.waiting, b...)
	o.mu.Unlock()
	return nil
}

func (o *outbox) flush() {
	o.mu.Lock()
	write := !o.writing && len(o.waiting) > 0
	o.writing = o.writing || write
	o.mu.Unlock()
	if write {
		o.write()
	}
}

// add is put up to the writing. write: that is the caller's.
func (o *outbox) add(b []byte, wait bool) (write bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for wait && o.err == nil && o.full(len(b)) {
		o.room.Wait()
	}
	if o.err != nil {
		return false, o.err
	}
	if o.full(len(b)) {
		return false, ErrFull
	}
	o.waiting = append(o.waiting, b...)
	write = !o.writing
	o.writing = true
	return write, nil
}

// full reports whether n octets more are too many. o.mu is held.
func (o *outbox) full(n int) bool { return len(o.waiting) > 0 && len(o.waiting)+n > o.limit }

// maxTurns bounds how often who sends something of its own writes for the others.
const maxTurns = 16

// write writes what waits as far as that goes without waiting; a goroutine of its own does the rest.
func (o *outbox) write() {
	w, now := o.conn.(interface{ writeNow([]byte) (int, error) })
	b := o.next(nil, nil)
	for turn := 0; b != nil; turn++ {
		if !now || turn == maxTurns {
			go o.writeAll(b, 0)
			return
		}
		n, err := w.writeNow(b)
		if err == nil && n < len(b) {
			go o.writeAll(b, n)
			return
		}
		b = o.next(b, err)
	}
}

// writeAll writes b from n on, and what follows it.
func (o *outbox) writeAll(b []byte, n int) {
	for b != nil {
		_, err := o.conn.Write(b[n:])
		b, n = o.next(b, err), 0
	}
}

// next returns what is to be written after `done`, or nil if there is nothing: then nobody writes any more.
func (o *outbox) next(done []byte, err error) []byte {
	if err != nil {
		o.fail(err)
		_ = o.conn.Close() // half a frame may have gone out; and the reader must learn that no answer can follow
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if cap(done) > 0 && cap(done) <= 4*MaxShared {
		o.spare = done[:0]
	}
	o.room.Broadcast()
	if len(o.waiting) == 0 {
		o.writing = false
		return nil
	}
	b := o.waiting
	o.waiting, o.spare = o.spare, nil
	return b
}

// fail ends it: what waits is thrown away, and nothing more is taken. nil is no error.
func (o *outbox) fail(err error) {
	if err == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.waiting = nil
	o.room.Broadcast()
}
