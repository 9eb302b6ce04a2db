package blob

import "sync/atomic"

// Budget bounds the octets that all spools and drafts together hold in memory
// (RULES A11). A nil Budget allows everything.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a Budget of limit octets.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Used returns how many octets are in memory now.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

func (b *Budget) take(n int) bool {
	if b == nil {
		return true
	}
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(int64(-n))
		return false
	}
	return true
}

func (b *Budget) give(n int) {
	if b != nil {
		b.used.Add(int64(-n))
	}
}
