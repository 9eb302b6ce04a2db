package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"google.golang.org/protobuf/proto"
)

// A direct lane is a connection to DescribeResponse.lane_socket: the same frames as on a stream of
// gRPC, each with its length in front (four octets, network order). The plugin begins with a frame of
// length zero when a handler serves the lane, and closes the connection where gRPC would answer with
// a status. It costs both sides less than half of what a stream of gRPC does, most of all when
// questions are small or alone.
//
// HostEnd and PluginEnd are its ends. Each has one reader and one writer at a time; a Send
// that the other side does not read waits until the connection is closed.

// Bounds of a frame, in octets.
const (
	maxHostFrame   = 16 << 20 // an Ask with ten thousand recipients has room
	maxPluginFrame = 1 << 20
	lengthSize     = 4
)

// gathered is how much a host gathers before it writes; the End writes in any case.
const gathered = 64 << 10

// HostEnd is the host's end of a direct lane.
type HostEnd struct {
	conn   net.Conn
	r      *bufio.Reader
	buf    []byte // of the reader
	out    []byte // gathered
	held   bool   // all is gathered until FlushNow
	pieces [2][]byte
}

// NewHostEnd takes a connection over.
func NewHostEnd(conn net.Conn) *HostEnd {
	return &HostEnd{conn: conn, r: bufio.NewReaderSize(conn, 4<<10)}
}

// Begin waits for the plugin's sign that a handler serves the lane.
func (e *HostEnd) Begin() error {
	var length [lengthSize]byte
	if _, err := io.ReadFull(e.r, length[:]); err != nil {
		return fmt.Errorf("no handler serves the lane: %w", err)
	}
	if n := binary.BigEndian.Uint32(length[:]); n != 0 {
		return fmt.Errorf("the lane begins with a frame of %d octets, expected an empty one", n)
	}
	return nil
}

// Send sends a frame, or gathers it: an Ask, and Chunks as long as they are small, go out with
// what follows them. f may be used again afterwards.
func (e *HostEnd) Send(f *HostFrame) error {
	if c, ok := f.Frame.(*HostFrame_Chunk); ok && len(e.out)+len(c.Chunk.GetData()) > gathered {
		return e.sendPiece(c.Chunk)
	}
	start := len(e.out)
	e.out = append(e.out, make([]byte, lengthSize)...)
	var err error
	if e.out, err = appendHostFrame(e.out, f); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(e.out[start:], uint32(len(e.out)-start-lengthSize))
	switch f.Frame.(type) {
	case *HostFrame_End, *HostFrame_Cancel:
		if e.held {
			return nil
		}
		return e.Flush()
	}
	if len(e.out) > gathered {
		return e.Flush()
	}
	return nil
}

// appendHostFrame writes a frame as package proto does, by the short cuts if it can.
func appendHostFrame(b []byte, f *HostFrame) ([]byte, error) {
	if len(f.unknownFields) == 0 {
		switch x := f.Frame.(type) {
		case *HostFrame_Ask:
			if b, ok := appendAsk(b, x.Ask); ok {
				return b, nil
			}
		case *HostFrame_Chunk:
			if x.Chunk != nil && len(x.Chunk.unknownFields) == 0 {
				return append(appendPieceHead(b, tagChunk, x.Chunk.Id, len(x.Chunk.Data)), x.Chunk.Data...), nil
			}
		case *HostFrame_End:
			if x.End != nil && len(x.End.unknownFields) == 0 {
				return appendPieceHead(b, tagEnd, x.End.Id, 0), nil
			}
		}
	}
	return proto.MarshalOptions{}.MarshalAppend(b, f)
}

// sendPiece sends a Chunk without a copy of its octets.
func (e *HostEnd) sendPiece(c *Chunk) error {
	start := len(e.out)
	e.out = append(e.out, make([]byte, lengthSize)...)
	e.out = appendPieceHead(e.out, tagChunk, c.GetId(), len(c.GetData()))
	binary.BigEndian.PutUint32(e.out[start:], uint32(len(e.out)-start-lengthSize+len(c.GetData())))
	e.pieces[0], e.pieces[1] = e.out, c.GetData()
	both := net.Buffers(e.pieces[:])
	_, err := both.WriteTo(e.conn)
	e.pieces[1] = nil
	e.forget()
	return err
}

// Flush writes what is gathered.
func (e *HostEnd) Flush() error {
	if len(e.out) == 0 {
		return nil
	}
	_, err := e.conn.Write(e.out)
	e.forget()
	return err
}

// Hold has Send gather an End and a Cancel too, until FlushNow.
func (e *HostEnd) Hold() { e.held = true }

// FlushNow writes what is gathered, as far as that goes without waiting. If it is not done, Flush has to write the rest.
func (e *HostEnd) FlushNow() (done bool, err error) {
	e.held = false
	w, ok := e.conn.(interface{ writeNow([]byte) (int, error) })
	if !ok || len(e.out) == 0 {
		return len(e.out) == 0, nil
	}
	n, err := w.writeNow(e.out)
	if err == nil && n < len(e.out) {
		e.out = e.out[:copy(e.out, e.out[n:])]
		return false, nil
	}
	e.forget()
	return true, err
}

// forget empties the buffer, and gives back one that a rare large frame made.
func (e *HostEnd) forget() {
	if e.out = e.out[:0]; cap(e.out) > 4*gathered {
		e.out = nil
	}
}

// Recv waits for a frame.
func (e *HostEnd) Recv() (*PluginFrame, error) {
	b, err := readFrame(e.r, &e.buf, maxPluginFrame)
	if err != nil {
		return nil, err
	}
	f := new(PluginFrame)
	if parseAnswer(b, f) {
		return f, nil
	}
	return f, proto.Unmarshal(b, f)
}

// Close ends the lane.
func (e *HostEnd) Close() error { return e.conn.Close() }

// PluginEnd is the plugin's end of a direct lane.
type PluginEnd struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte
	out  []byte
}

// NewPluginEnd takes a connection over.
func NewPluginEnd(conn net.Conn) *PluginEnd {
	return &PluginEnd{conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}
}

// Begin tells the host that a handler serves the lane.
func (e *PluginEnd) Begin() error {
	_, err := e.conn.Write(make([]byte, lengthSize))
	return err
}

// Send sends a frame.
func (e *PluginEnd) Send(f *PluginFrame) error {
	var err error
	e.out = append(e.out[:0], make([]byte, lengthSize)...)
	if e.out, err = appendPluginFrame(e.out, f); err != nil {
		return err
	}
	if len(e.out) > maxPluginFrame+lengthSize {
		return fmt.Errorf("a frame of %d octets, expected at most %d", len(e.out)-lengthSize, maxPluginFrame)
	}
	binary.BigEndian.PutUint32(e.out, uint32(len(e.out)-lengthSize))
	_, err = e.conn.Write(e.out)
	return err
}

func appendPluginFrame(b []byte, f *PluginFrame) ([]byte, error) {
	if x, ok := f.Frame.(*PluginFrame_Answer); ok && len(f.unknownFields) == 0 {
		if b, ok := appendAnswer(b, x.Answer); ok {
			return b, nil
		}
	}
	return proto.MarshalOptions{}.MarshalAppend(b, f)
}

// Recv waits for a frame. The octets of a Chunk are the caller's.
func (e *PluginEnd) Recv() (*HostFrame, error) {
	if head, err := e.r.Peek(lengthSize + 1); err == nil && head[lengthSize] == tagChunk {
		e.buf = nil // becomes the chunk's
	}
	b, err := readFrame(e.r, &e.buf, maxHostFrame)
	if err != nil {
		return nil, err
	}
	f := new(HostFrame)
	if len(b) > 0 && b[0] == tagChunk {
		e.buf = nil
	}
	if unmarshalPiece(b, f, false) || parseAsk(b, f) {
		return f, nil
	}
	return f, proto.Unmarshal(b, f)
}

// Close ends the lane.
func (e *PluginEnd) Close() error { return e.conn.Close() }

// readFrame reads a frame into buf, which grows with what arrives and not with what was announced.
func readFrame(r *bufio.Reader, buf *[]byte, limit uint32) ([]byte, error) {
	var length [lengthSize]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > limit {
		return nil, fmt.Errorf("a frame of %d octets, expected at most %d", n, limit)
	}
	const step = 512 << 10
	if cap(*buf) > step { // of a rare large frame
		*buf = nil
	}
	b := (*buf)[:0]
	for have := 0; have < int(n); have = len(b) {
		want := min(int(n), have+step)
		if cap(b) < want {
			b = append(make([]byte, 0, want), b...)
		}
		b = b[:want]
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	*buf = b
	return b, nil
}
