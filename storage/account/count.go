package account

import "time"

const (
	// maxWrong is how many wrong passwords of an account from a peer are known again: one for each program of a
	// household that has not heard of the new one.
	maxWrong = 8
	// maxProofs is how many passwords are compared with the one that worked, although the peer or the account is refused.
	maxProofs    = 20
	proofForgets = forgetAfter / maxProofs
)

// level is a number that falls by one whenever a while has gone by. So a house of many people is not refused for what
// happened in it all day, and whoever is refused need not be silent to be heard again.
type level struct {
	n     int
	since time.Time // when it last fell, or rose from 0
}

// at returns the level at a time.
func (l *level) at(now time.Time, falls time.Duration) int {
	switch gone := now.Sub(l.since) / falls; {
	case l.n == 0 || gone == 0 && !now.Before(l.since):
	case now.Before(l.since): // the clock was ahead
		l.since = now
	case int64(gone) >= int64(l.n):
		l.n = 0
	default:
		l.n -= int(gone)
		l.since = l.since.Add(gone * falls)
	}
	return l.n
}

func (l *level) add(now time.Time, falls time.Duration) {
	if l.at(now, falls) == 0 {
		l.since = now
	}
	l.n++
}

// count is what is known of a peer, or of an account from a peer.
type count struct {
	failures level
	pending  int           // attempts of which nothing is known yet
	settled  chan struct{} // closed when one of them is; nil: nobody waits
	told     bool          // the log has a line about the refusal
}

// over says how far beyond the free failures an attempt would be; negative: not at all. If it would be when all that are
// under way failed, settled is closed once one of them is known.
func (c *count) over(now time.Time, falls time.Duration, free int) (over int, settled <-chan struct{}) {
	n := c.failures.at(now, falls)
	if n >= free {
		return n + c.pending - free, nil
	}
	c.told = false
	if n+c.pending < free {
		return -1, nil
	}
	if c.settled == nil {
		c.settled = make(chan struct{})
	}
	return -1, c.settled
}

func (c *count) settle() {
	c.pending--
	if c.settled != nil {
		close(c.settled)
		c.settled = nil
	}
}

// pairCount is the count of an account from a peer, and the passwords that were wrong.
type pairCount struct {
	count
	tried [maxWrong]tried
	next  int // where the next one goes
}

// tried is a wrong password.
type tried struct {
	password mark
	state    uint64 // of the directory, when it was wrong
}

// isWrong reports whether a password is known to be wrong: it was, and no account has changed since.
func (c *pairCount) isWrong(password mark, state uint64) bool {
	for _, t := range c.tried {
		if t.password == password && t.state == state {
			return true
		}
	}
	return false
}

// wrong remembers a wrong password and reports whether it was wrong before.
func (c *pairCount) wrong(password mark, state uint64) (again bool) {
	for i := range c.tried {
		if c.tried[i].password == password {
			c.tried[i].state = max(c.tried[i].state, state)
			return true
		}
	}
	c.tried[c.next] = tried{password, state}
	c.next = (c.next + 1) % maxWrong
	return false
}

// proof is the password that worked last for an account from a peer.
type proof struct {
	password mark
	guessed  level // how many others were compared with it while something was refused
}

// tally is what happened to logins since the start.
type tally struct {
	Accepted  uint64 // right
	Rejected  uint64 // wrong
	Repeated  uint64 // wrong, and known to be: the same password again
	Undecided uint64 // nothing was found out: busy, a trouble of ours
	Refused   uint64 // not looked at, for what failed before
	Delayed   uint64 // held back, for what failed before; counted again by how it ended
	Vouched   uint64 // let in at once in spite of that, because this password worked here before; as Delayed
	Accounts  uint64 // how often an account began to be refused from an address
	Addresses uint64 // how often an address began to be refused
}

// Logins counts what happened to logins since the start.
type Logins tally

// Logins returns what happened to logins so far.
func (d *Directory) Logins() Logins {
	d.guesses.mu.Lock()
	defer d.guesses.mu.Unlock()
	return Logins(d.guesses.tally)
}
