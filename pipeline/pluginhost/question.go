package pluginhost

import (
	"errors"
	"io"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Question is what a plugin is asked. The functions are called from goroutines of
// this package, one at a time, and none of them any more once Ask has returned.
type Question struct {
	Phase      sdk.Phase // "" is PhaseContent
	Envelope   sdk.Envelope
	Event      *sdk.Event                // in PhaseEvent
	Size       int64                     // octets of header and body
	HeaderSize int64                     // octets up to and including the empty line
	Open       func() (io.Reader, error) // the octets from the start; called once an attempt; closed if it is an io.Closer; nil: there are none
	Key        func() [32]byte           // SHA-256 of the message as it arrived; called only when suspicion falls on it

	// Parsed returns the shared parse; it is called once an attempt, and only if the plugin's
	// manifest asks for it. nil: there is none.
	Parsed func() (*sdk.Parsed, error)

	// Body returns where a new body goes (sdk.ReplaceBody). It is called at the first frame of one, once an
	// attempt: what an attempt before wrote is void. Whoever gave it owns what was written, also after a failure. An
	// error of the writer makes the answer invalid, so that the writer says how large a body may be. nil: a new body is invalid.
	Body func() (io.Writer, error)

	// By is set by Ask where another version than Plugin.Manifest is about has answered, the canary: what that one says about itself.
	By *sdk.Manifest
}

// phase returns the phase.
func (q *Question) phase() sdk.Phase {
	if q.Phase == "" {
		return sdk.PhaseContent
	}
	return q.Phase
}

// length is how many octets of content a plugin wants and may have.
func (q *Question) length(m *sdk.Manifest) int64 {
	var n int64
	switch {
	case q.Open == nil:
	case m.Want == sdk.WantAll:
		n = q.Size
	case m.Want == sdk.WantHeader:
		n = min(q.HeaderSize, q.Size)
	}
	if m.MaxContent > 0 {
		n = min(n, m.MaxContent)
	}
	return n
}

// parsed reports whether the shared parse is to be sent.
func (q *Question) parsed(m *sdk.Manifest) bool {
	if !m.Parsed || q.Parsed == nil {
		return false
	}
	switch q.phase() {
	case sdk.PhaseContent, sdk.PhaseRoute, sdk.PhaseEvent:
		return true
	}
	return false
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

// parse calls the question's Parsed, unless nobody waits for the answer any more.
func (c *content) parse() (*sdk.Parsed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	parsed, err := c.parsed()
	if err == nil && parsed == nil {
		err = errors.New("there is no shared parse")
	}
	if err != nil {
		c.err = err
	}
	return parsed, err
}

// content is the octets of one attempt, and their parse. After close nothing is read from the message,
// even if a sender still runs: the message may be gone by then.
type content struct {
	length int64
	parsed func() (*sdk.Parsed, error) // nil: not asked for

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
