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
	hostConn
	out    []byte // gathered
	pieces [2][]byte
}

// NewHostEnd takes a connection over.
func NewHostEnd(conn net.Conn) *HostEnd { return &HostEnd{hostConn: newHostConn(conn, 4<<10)} }

// hostConn is what the host's ends have in common.
type hostConn struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte // of the reader
}

func newHostConn(conn net.Conn, buffer int) hostConn {
	return hostConn{conn: conn, r: bufio.NewReaderSize(conn, buffer)}
}

// Begin waits for the plugin's sign that a handler serves the connection.
func (e *hostConn) Begin() error {
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
	var err error
	if e.out, err = appendFrame(e.out, f); err != nil {
		return err
	}
	switch f.Frame.(type) {
	case *HostFrame_End, *HostFrame_Cancel:
		return e.Flush()
	}
	if len(e.out) > gathered {
		return e.Flush()
	}
	return nil
}

// appendFrame writes a frame with its length in front.
func appendFrame(b []byte, f *HostFrame) ([]byte, error) {
	start := len(b)
	b, err := appendHostFrame(append(b, make([]byte, lengthSize)...), f)
	if err != nil {
		return b[:start], err
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-lengthSize))
	return b, nil
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

// forget empties the buffer, and gives back one that a rare large frame made.
func (e *HostEnd) forget() {
	if e.out = e.out[:0]; cap(e.out) > 4*gathered {
		e.out = nil
	}
}

// Recv waits for a frame.
func (e *hostConn) Recv() (*PluginFrame, error) {
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

// Close ends the connection.
func (e *hostConn) Close() error { return e.conn.Close() }

// PluginEnd is the plugin's end of a direct lane.
type PluginEnd struct {
	pluginConn
	out []byte
}

// NewPluginEnd takes a connection over.
func NewPluginEnd(conn net.Conn) *PluginEnd {
	return &PluginEnd{pluginConn: newPluginConn(conn, 16<<10)}
}

// pluginConn is what the plugin's ends have in common.
type pluginConn struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte
}

func newPluginConn(conn net.Conn, buffer int) pluginConn {
	return pluginConn{conn: conn, r: bufio.NewReaderSize(conn, buffer)}
}

// Begin tells the host that a handler serves the connection.
func (e *pluginConn) Begin() error {
	_, err := e.conn.Write(make([]byte, lengthSize))
	return err
}

// Send sends a frame.
func (e *PluginEnd) Send(f *PluginFrame) error {
	var err error
	if e.out, err = pluginFrame(e.out, f); err == nil {
		_, err = e.conn.Write(e.out)
	}
	return err
}

// pluginFrame writes a frame with its length in front, into b.
func pluginFrame(b []byte, f *PluginFrame) ([]byte, error) {
	b, err := appendPluginFrame(append(b[:0], make([]byte, lengthSize)...), f)
	if err != nil {
		return b, err
	}
	if len(b) > maxPluginFrame+lengthSize {
		return b, fmt.Errorf("a frame of %d octets, expected at most %d", len(b)-lengthSize, maxPluginFrame)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-lengthSize))
	return b, nil
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
func (e *pluginConn) Recv() (*HostFrame, error) {
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

// Close ends the connection.
func (e *pluginConn) Close() error { return e.conn.Close() }

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
