package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// newBody is the body that one attempt may give a message. The lane's reader writes it; after
// close nothing is written any more.
type newBody struct {
	open    func() (io.Writer, error)
	allowed bool // by the manifest: what is not is thrown away, and the core refuses the change

	mu     sync.Mutex
	w      io.Writer
	frames int
	err    error
	closed bool
}

func newBodyOf(q *Question, m *sdk.Manifest) *newBody {
	b := &newBody{allowed: slices.Contains(m.Changes, sdk.ReplaceBody)}
	if q.phase() == sdk.PhaseContent {
		b.open = q.Body
	}
	return b
}

// write takes one frame. After the first error the rest is thrown away.
func (b *newBody) write(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.err != nil {
		return
	}
	b.frames++
	switch {
	case !b.allowed:
		return
	case b.open == nil:
		b.err = errors.New("a new body where none can be")
		return
	case len(data) > wire.MaxChunk:
		b.err = fmt.Errorf("a piece of a new body has %d octets, more than %d", len(data), wire.MaxChunk)
		return
	}
	if b.w == nil {
		if b.w, b.err = b.open(); b.err != nil {
			return
		}
	}
	if _, err := b.w.Write(data); err != nil {
		b.err = fmt.Errorf("the new body: %w", err)
	}
}

func (b *newBody) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}

// agrees refuses a verdict that says other things about the body than its frames.
func (b *newBody) agrees(v *sdk.Verdict) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	replaces := hasReplaceBody(v.Changes)
	for i := range v.Recipients {
		replaces = replaces || hasReplaceBody(v.Recipients[i].Changes)
	}
	switch {
	case b.err != nil:
		return b.err
	case replaces && b.frames == 0 && b.allowed:
		return errors.New("a change replaces the body, and there is none")
	case !replaces && b.frames > 0:
		return errors.New("a new body, and no change that wants it")
	}
	return nil
}

func hasReplaceBody(changes []sdk.Change) bool {
	return slices.ContainsFunc(changes, func(c sdk.Change) bool { return c.Kind == sdk.ReplaceBody })
}
