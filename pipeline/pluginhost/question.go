package pluginhost

import (
	"errors"
	"io"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Question is what a plugin is asked.
type Question struct {
	Envelope   sdk.Envelope
	Size       int64                     // octets of header and body
	HeaderSize int64                     // octets up to and including the empty line
	Open       func() (io.Reader, error) // the octets from the start; called once an attempt; closed if it is an io.Closer
	Key        func() [32]byte           // SHA-256 of the message as it arrived; called only when suspicion falls on it
}

// length is how many octets of content a plugin wants.
func (q *Question) length(want sdk.Want) int64 {
	switch want {
	case sdk.WantAll:
		return q.Size
	case sdk.WantHeader:
		return min(q.HeaderSize, q.Size)
	}
	return 0
}

func (q *Question) open(length int64) (*content, error) {
	c := &content{length: length}
	if length <= 0 {
		return c, nil
	}
	r, err := q.Open()
	if err != nil {
		return nil, err
	}
	c.from, c.r = r, io.LimitReader(r, length)
	return c, nil
}

// errClosed stops a sender whose asker is gone.
var errClosed = errors.New("nobody waits for the answer any more")

// content is the octets of one attempt. After close nothing is read from the message,
// even if a sender still runs: the message may be gone by then.
type content struct {
	length int64

	mu     sync.Mutex
	from   io.Reader
	r      io.Reader
	read   int64
	err    error
	closed bool
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, errClosed
	}
	n, err := c.r.Read(p)
	c.read += int64(n)
	if errors.Is(err, io.EOF) && c.read < c.length {
		err = errors.New("the message is shorter than its size")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// failure returns the error of the message's own reader, if there was one.
func (c *content) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *content) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if closer, ok := c.from.(io.Closer); ok {
		_ = closer.Close()
	}
}

// pool lends buffers of two sizes: for what most messages need, and a whole chunk.
type pool struct{ small, large sync.Pool }

const smallBuffer = 16 << 10

func newPool() *pool {
	return &pool{
		small: sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }},
		large: sync.Pool{New: func() any { b := make([]byte, wire.MaxChunk); return &b }},
	}
}

func (p *pool) get(length int64) *[]byte {
	if length <= smallBuffer {
		return p.small.Get().(*[]byte)
	}
	return p.large.Get().(*[]byte)
}

func (p *pool) put(b *[]byte) {
	if len(*b) == smallBuffer {
		p.small.Put(b)
		return
	}
	p.large.Put(b)
}
