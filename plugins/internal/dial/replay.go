package dial

import (
	"io"
	"sync"
)

// Replay is a message's content that can be read again from its start as long as no
// more than a bounded part of it has been read. A question can be read only once, and a
// connection that dies under it must not cost a retry of the whole message by the peer.
//
// After Stop nothing is read from the content any more; a client that goes on reading in
// a goroutine of its own after its call returned, as net/http's does, so cannot read it
// after Ask returned.
type Replay struct {
	mu     sync.Mutex
	r      io.Reader
	keep   int
	head   []byte // what was read, while it is at most keep octets
	at     int    // next octet of head to give
	lost   bool   // more than keep octets were read
	failed bool   // r failed
	over   bool
}

// NewReplay returns a reader of r that remembers at most keep octets.
func NewReplay(r io.Reader, keep int) *Replay { return &Replay{r: r, keep: keep} }

// Read implements io.Reader.
func (p *Replay) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return 0, io.ErrClosedPipe
	}
	if p.at < len(p.head) {
		n := copy(b, p.head[p.at:])
		p.at += n
		return n, nil
	}
	n, err := p.r.Read(b)
	p.failed = p.failed || err != nil && err != io.EOF
	if p.lost || n == 0 {
		return n, err
	}
	if len(p.head)+n > p.keep {
		p.lost, p.head, p.at = true, nil, 0
		return n, err
	}
	p.head = append(p.head, b[:n]...)
	p.at = len(p.head)
	return n, err
}

// Rewind goes back to the start and reports whether it could.
func (p *Replay) Rewind() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost || p.failed || p.over {
		return false
	}
	p.at = 0
	return true
}

// Stop ends the reading: it waits for a Read that is under way, and later ones fail.
func (p *Replay) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.head, p.r = true, nil, nil
}
