package serve

import (
	"errors"
	"io"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// maxQueued is how many chunks may wait for the plugin to read them.
const maxQueued = 4

// body is the content of a question: fed by the handler, read by the plugin.
type body struct {
	mu    sync.Mutex
	moved sync.Cond
	queue [][]byte
	done  bool  // End came
	gone  bool  // Ask returned: throw the rest away
	err   error // cancelled

	wanted   bool         // the manifest asks for the parse
	wire     *wire.Parsed // once it came
	read     *sdk.Parsed  // once it was asked for
	draining bool         // Parsed was called: throw the rest away
	lost     bool         // and there was some
}

func newBody(wanted bool) *body {
	b := &body{wanted: wanted}
	b.moved.L = &b.mu
	return b
}

// feed waits while the plugin is behind.
func (b *body) feed(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) >= maxQueued && !b.gone && !b.draining && b.err == nil {
		b.moved.Wait()
	}
	if b.gone || b.err != nil || len(data) == 0 {
		return
	}
	if b.draining {
		b.lost = true
		b.moved.Broadcast()
		return
	}
	b.queue = append(b.queue, data)
	b.moved.Broadcast()
}

// waiting reports whether content is there that nobody has read.
func (b *body) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) > 0
}

// full reports whether feed would wait.
func (b *body) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) >= maxQueued && !b.gone && !b.draining && b.err == nil
}

// parse takes the shared parse; the first one counts.
func (b *body) parse(p *wire.Parsed) {
	b.mu.Lock()
	if b.wanted && b.wire == nil {
		b.wire = p
	}
	b.moved.Broadcast()
	b.mu.Unlock()
}

// parsed implements Message.Parsed.
func (b *body) parsed() (*sdk.Parsed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.wanted {
		return nil, errors.New("the manifest does not ask for the shared parse (Manifest.Parsed)")
	}
	b.draining, b.lost, b.queue = true, b.lost || len(b.queue) > 0, nil
	b.moved.Broadcast()
	for {
		switch {
		case b.err != nil:
			return nil, b.err
		case b.gone:
			return nil, errors.New("parse of a message after Ask returned")
		case b.wire != nil:
			if b.read == nil {
				b.read = wire.FromParsed(b.wire)
			}
			return b.read, nil
		case b.done:
			return nil, errors.New("the host sent no parse with this question")
		}
		b.moved.Wait()
	}
}

func (b *body) end() {
	b.mu.Lock()
	b.done = true
	b.moved.Broadcast()
	b.mu.Unlock()
}

func (b *body) fail(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	b.moved.Broadcast()
	b.mu.Unlock()
}

func (b *body) discard() {
	b.mu.Lock()
	b.gone, b.queue = true, nil
	b.moved.Broadcast()
	b.mu.Unlock()
}

// Read implements io.Reader. It fails once the question is cancelled, so that no
// verdict is formed about half a message.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.gone:
			return 0, errors.New("read of a message after Ask returned")
		case b.lost:
			return 0, errors.New("read of a message after Parsed threw the rest of it away")
		case len(b.queue) > 0:
			n := copy(p, b.queue[0])
			if b.queue[0] = b.queue[0][n:]; len(b.queue[0]) == 0 {
				b.queue = b.queue[1:]
				b.moved.Broadcast()
			}
			return n, nil
		case b.done:
			return 0, io.EOF
		}
		b.moved.Wait()
	}
}
