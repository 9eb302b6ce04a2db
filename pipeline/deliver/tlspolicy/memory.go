package tlspolicy

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
)

const (
	maxRemembered = 20_000              // servers in memory
	rememberTime  = 90 * 24 * time.Hour // since TLS was seen last
	writeTime     = 24 * time.Hour      // between two writes of a record that says the same
	doubtTime     = 24 * time.Hour      // for which a server that stopped to offer TLS is not believed
	cacheTime     = 5 * time.Second     // for one call of the Cache
)

// memory knows which servers have offered TLS.
type memory struct {
	cache  Cache
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	servers map[string]server
}

// server is what is remembered about one; in the Cache as JSON under "starttls/NAME:PORT".
type server struct {
	Form    int       `json:"form"`
	Seen    time.Time `json:"seen"`              // TLS, the last time, within a day; zero: never
	Refused time.Time `json:"refused,omitempty"` // since when there is none; zero: there is
}

const memoryForm = 1

func memoryKey(host mx.Host) string { return host.Name + ":" + strconv.Itoa(int(host.Port)) }

func (m *memory) init(o Options) {
	m.cache, m.logger, m.now = o.Cache, o.Logger, o.Now
	m.servers = make(map[string]server)
}

// expects reports whether TLS has to be there. The error is that of ctx.
func (m *memory) expects(ctx context.Context, key string) (bool, error) {
	m.mu.Lock()
	s, known := m.servers[key]
	m.mu.Unlock()
	if !known {
		s = m.load(ctx, key)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		m.mu.Lock()
		if now, raced := m.servers[key]; raced {
			s = now
		} else {
			m.set(key, s)
		}
		m.mu.Unlock()
	}
	now := m.now()
	return !s.Seen.IsZero() && now.Sub(s.Seen) < rememberTime && (s.Refused.IsZero() || now.Sub(s.Refused) < doubtTime), nil
}

// learn takes note that there was TLS, or none.
func (m *memory) learn(key string, offered bool) {
	now := m.now()
	m.mu.Lock()
	s := m.servers[key]
	was := s
	forgotten := false
	switch {
	case offered:
		if now.Sub(s.Seen) >= writeTime {
			s.Seen = now
		}
		s.Refused = time.Time{}
	case s.Seen.IsZero():
	case s.Refused.IsZero():
		s.Refused = now
	case now.Sub(s.Refused) >= doubtTime:
		s = server{}
		forgotten = true
	}
	changed := s != was
	if changed {
		m.set(key, s)
	}
	m.mu.Unlock()
	if !changed {
		return
	}
	m.save(key, s)
	switch {
	case forgotten:
		m.logger.Warn("no STARTTLS any more", "stage", "deliver", "server", key, "action", "believed", "why", "not offered for a day; mail goes in the clear")
	case !s.Refused.IsZero():
		m.logger.Warn("no STARTTLS any more", "stage", "deliver", "server", key, "action", "deferred", "why", "it was offered before; mail waits for a day at most")
	}
}

// set keeps what is known about a server, and forgets others if there are too many. The caller holds m.mu.
func (m *memory) set(key string, s server) {
	if _, known := m.servers[key]; !known && len(m.servers) >= maxRemembered {
		dropped := 0
		for other := range m.servers { // in no order; a tenth at a time. They are in the Cache still
			delete(m.servers, other)
			if dropped++; dropped == maxRemembered/10 {
				break
			}
		}
	}
	m.servers[key] = s
}

func (m *memory) load(ctx context.Context, key string) (s server) {
	if m.cache == nil {
		return server{}
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTime)
	defer cancel()
	value, err := m.cache.Get(ctx, "starttls/"+key)
	if err != nil || value == nil || json.Unmarshal(value, &s) != nil || s.Form != memoryForm {
		return server{}
	}
	s.Form = 0
	return s
}

func (m *memory) save(key string, s server) {
	if m.cache == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cacheTime)
	defer cancel()
	expires := s.Seen.Add(rememberTime)
	if s.Seen.IsZero() {
		expires = m.now()
	}
	s.Form = memoryForm
	value, err := json.Marshal(s)
	if err == nil {
		err = m.cache.Set(ctx, "starttls/"+key, value, expires)
	}
	if err != nil {
		m.logger.Warn("STARTTLS of a server not kept", "stage", "deliver", "server", key, "why", err.Error())
	}
}
