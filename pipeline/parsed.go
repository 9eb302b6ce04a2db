package pipeline

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sluicemail/sluice/sdk"
)

// parses are the shared parses of a message, one for each version that a plugin
// wanted parsed (RULES C7).
type parses struct {
	mu   sync.Mutex
	made map[*Version]*parse
}

// parse is made by whoever asks first; the others wait, which the bounds of a parse
// keep short.
type parse struct {
	once   sync.Once
	parsed *sdk.Parsed
	err    error
}

func (m *Message) parsed(v *Version) (*sdk.Parsed, error) {
	if m.via == nil || m.via.Parse == nil {
		return nil, errors.New("parse the message: this pipeline has no parser")
	}
	m.parses.mu.Lock()
	one := m.parses.made[v]
	if one == nil {
		if m.parses.made == nil || len(m.parses.made) >= MaxVersions { // those of earlier stages
			m.parses.made = make(map[*Version]*parse, 1)
		}
		one = &parse{}
		m.parses.made[v] = one
	}
	m.parses.mu.Unlock()
	one.once.Do(func() {
		defer func() { // over what a stranger wrote; a plugin fails, not the server
			if p := recover(); p != nil {
				one.err = fmt.Errorf("parse the message: %v", p)
			}
		}()
		r, err := m.Open(v)
		if err != nil {
			one.err = fmt.Errorf("parse the message: %w", err)
			return
		}
		one.parsed = m.via.Parse(r, r.Size())
	})
	return one.parsed, one.err
}
