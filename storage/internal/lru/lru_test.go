package lru

import "testing"

func TestCache(t *testing.T) {
	c := New[int, string](2)
	c.Put(1, "a")
	c.Put(2, "b")
	if v, ok := c.Get(1); !ok || v != "a" {
		t.Errorf("1 is %q, %v", v, ok)
	}
	c.Put(3, "c") // 2 was used least recently
	if _, ok := c.Get(2); ok || c.Len() != 2 {
		t.Error("2 stays")
	}
	c.Put(1, "A")
	if v, _ := c.Get(1); v != "A" || c.Len() != 2 {
		t.Errorf("1 is %q", v)
	}
	c.Delete(1)
	c.Delete(9)
	if _, ok := c.Get(1); ok || c.Len() != 1 {
		t.Error("1 stays")
	}
	c.Clear()
	if _, ok := c.Get(3); ok || c.Len() != 0 {
		t.Error("3 stays")
	}
	if d := New[int, int](0); d.max != 1 {
		t.Error("a cache of nothing")
	}
}
