// Package lru is a bounded map that forgets what was used least recently. It is not safe for concurrent use: its owner has
// a lock already.
package lru

import "container/list"

// Cache holds at most Max entries. Make one with New.
type Cache[K comparable, V any] struct {
	max   int
	list  *list.List // most recently used first
	items map[K]*list.Element
}

type item[K comparable, V any] struct {
	key   K
	value V
}

// New returns an empty cache of at most max entries; at least one.
func New[K comparable, V any](max int) *Cache[K, V] {
	if max < 1 {
		max = 1
	}
	return &Cache[K, V]{max: max, list: list.New(), items: make(map[K]*list.Element)}
}

// Get returns the value of key and marks it as used.
func (c *Cache[K, V]) Get(key K) (v V, ok bool) {
	e, ok := c.items[key]
	if !ok {
		return v, false
	}
	c.list.MoveToFront(e)
	return e.Value.(*item[K, V]).value, true
}

// Put sets the value of key, and forgets the entry that was used least recently if there are too many.
func (c *Cache[K, V]) Put(key K, value V) {
	if e, ok := c.items[key]; ok {
		e.Value.(*item[K, V]).value = value
		c.list.MoveToFront(e)
		return
	}
	c.items[key] = c.list.PushFront(&item[K, V]{key, value})
	if len(c.items) > c.max {
		c.Delete(c.list.Back().Value.(*item[K, V]).key)
	}
}

// Delete forgets key.
func (c *Cache[K, V]) Delete(key K) {
	if e, ok := c.items[key]; ok {
		c.list.Remove(e)
		delete(c.items, key)
	}
}

// Clear forgets everything.
func (c *Cache[K, V]) Clear() {
	c.list.Init()
	clear(c.items)
}

// Len returns the number of entries.
func (c *Cache[K, V]) Len() int { return len(c.items) }
