package queue

import "time"

// class says how much is known of a site. What is proven goes before what is unknown, and that before what fails, and each
// class leaves something for the others: neither thousands of dead destinations nor a flood for living ones can take all
// connections. Unknown ones for which something has just come have a class of their own: they do not wait
// behind thousands that came before them and may all be dead.
type class uint8

const (
	good class = iota
	recent
	unknown
	failing
	classes
)

// recently is how long a site is in class recent.
const recently = 10 * time.Second

func (st *site) class(now time.Time) class {
	switch {
	case st.failures > 0:
		return failing
	case st.proven:
		return good
	case now.Sub(st.fresh) < recently:
		return recent
	}
	return unknown
}

// room reports whether another trip of a class may begin. Failing ones have a quarter of all connections, they and those that
// are unknown for long a half, all that are not proven three quarters, and an eighth is kept from the proven ones.
func (r *remote) room(c class) bool {
	old := r.begun[unknown] + r.begun[failing]
	rest := old + r.begun[recent]
	switch {
	case r.begun[good]+rest >= r.most:
		return false
	case c == good:
		return r.begun[good] < max(r.most-max(r.most/8, 1), 1)
	case c == failing && r.begun[failing] >= max(r.most/4, 1), c != recent && old >= max(r.most/2, 1):
		return false
	}
	return rest < max(r.most*3/4, 1)
}

// turn says which site of a class is next: the first, but of those of which nothing is known the newest every other
// time, so that nobody waits for all that came at the same time.
func (r *remote) turn(c class) *site {
	if c == recent || c == unknown {
		if r.late = !r.late; r.late {
			return r.rings[c].Back().Value.(*site)
		}
	}
	return r.rings[c].Front().Value.(*site)
}

// demote moves those that are not recent any more behind the unknown ones. The newest is at the back of
// both rings.
func (r *remote) demote(now time.Time) {
	for e := r.rings[recent].Front(); e != nil; e = r.rings[recent].Front() {
		st := e.Value.(*site)
		if st.class(now) == recent {
			return
		}
		st.delist()
		st.ring, st.elem = &r.rings[unknown], r.rings[unknown].PushBack(st)
	}
}
