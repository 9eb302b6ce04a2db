package bayes

import (
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Of tokens that have to go, those go first that no lesson had for longest, and among equals the rarest. ranks is how many
// steps of that are told apart.
const (
	ranks      = 4 * 1000
	expireStep = 20000 // tokens that are looked at in one transaction
)

// rank is higher for tokens that are missed less.
func (c count) rank(day uint64) int {
	age := 0
	if day > c.day {
		age = int(min(day-c.day, ranks/4-1))
	}
	return age*4 + 3 - int(min(c.spam+c.ham, 4)-min(c.spam+c.ham, 1))
}

// expire cuts a table to a number of tokens. Each step is a transaction of its own, so that memory and the
// time that learning waits stay small, and a crash between two leaves a sound table.
func (s *store) expire(name string, most uint64, now time.Time) error {
	day := today(now)
	var histogram [ranks]uint64
	total := uint64(0)
	err := s.db.View(func(tx *bolt.Tx) error {
		d := view(tx, name)
		if d == nil {
			return nil
		}
		return d.tokens.ForEach(func(_, value []byte) error {
			histogram[decodeCount(value).rank(day)]++
			total++
			return nil
		})
	})
	if err != nil || total <= most {
		return err
	}
	// All above cut go, and of those at cut as many as are still too many, chosen by their hashes.
	surplus, cut := total-most, ranks-1
	for ; cut > 0 && histogram[cut] <= surplus; cut-- {
		surplus -= histogram[cut]
	}
	share := uint64(float64(surplus) / float64(max(histogram[cut], 1)) * (1 << 32))
	goes := func(hash uint64, c count) bool {
		r := c.rank(day)
		return r > cut || r == cut && hash*0x9e3779b97f4a7c15>>32 < share
	}
	next := []byte{}
	for next != nil && err == nil {
		err = s.db.Update(func(tx *bolt.Tx) error {
			var err error
			next, err = expireSome(tx, name, next, goes)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("expire tokens of %s: %w", name, err)
	}
	return nil
}

// expireSome looks at the tokens from a key on, and returns the key to go on with, or nil.
func expireSome(tx *bolt.Tx, name string, from []byte, goes func(uint64, count) bool) (next []byte, err error) {
	d := view(tx, name)
	if d == nil {
		return nil, nil
	}
	var gone [][]byte
	c := d.tokens.Cursor()
	k, v := c.Seek(from)
	for n := 0; k != nil && n < expireStep; n++ {
		if len(k) != 8 || goes(binary.BigEndian.Uint64(k), decodeCount(v)) {
			gone = append(gone, append([]byte(nil), k...))
		}
		k, v = c.Next()
	}
	if k != nil {
		next = append([]byte(nil), k...)
	}
	for _, key := range gone {
		if err := d.tokens.Delete(key); err != nil {
			return nil, err
		}
		change(&d.counts.Tokens, false)
	}
	return next, d.save()
}
