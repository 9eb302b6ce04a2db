package policytest

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Cache is a tlspolicy.Cache in memory.
type Cache struct {
	Now func() time.Time // nil: time.Now

	mu     sync.Mutex
	values map[string][]byte
	until  map[string]time.Time
	sets   int
	broken bool
}

// Get implements tlspolicy.Cache.
func (c *Cache) Get(_ context.Context, key string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return nil, errors.New("the cache is broken")
	}
	if !c.now().Before(c.until[key]) {
		return nil, nil
	}
	return c.values[key], nil
}

// Set implements tlspolicy.Cache.
func (c *Cache) Set(_ context.Context, key string, value []byte, expires time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return errors.New("the cache is broken")
	}
	if c.values == nil {
		c.values, c.until = make(map[string][]byte), make(map[string]time.Time)
	}
	c.sets++
	c.values[key], c.until[key] = append([]byte(nil), value...), expires
	return nil
}

// Sets returns how often Set was called.
func (c *Cache) Sets() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sets
}

// Break lets every call fail, or mends that.
func (c *Cache) Break(broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = broken
}

func (c *Cache) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Clock is a time that stands still until it is moved.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock returns a clock that shows t.
func NewClock(t time.Time) *Clock { return &Clock{t: t} }

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Move puts the clock forward.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Largest returns the octets of the largest value.
func (c *Cache) Largest() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, v := range c.values {
		n = max(n, len(v))
	}
	return n
}
