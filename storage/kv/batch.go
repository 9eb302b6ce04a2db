package kv

// Op is one change in a Batch.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte // for OpDeleteRange the exclusive upper key
}

// OpKind says what an Op does.
type OpKind uint8

// The kinds of change.
const (
	OpSet OpKind = iota + 1
	OpDelete
	OpDeleteRange
)

// Batch is an ordered list of changes; a later change of a key wins. The zero
// Batch is empty and ready for use. A Batch is not safe for concurrent use. It
// keeps the slices that it is given: callers must not change them until the
// batch was applied.
type Batch struct {
	ops  []Op
	size int
}

// Set gives key the value value.
func (b *Batch) Set(key, value []byte) { b.add(Op{OpSet, key, value}) }

// Delete removes key; it need not exist.
func (b *Batch) Delete(key []byte) { b.add(Op{OpDelete, key, nil}) }

// DeleteRange removes all keys in [lower, upper).
func (b *Batch) DeleteRange(lower, upper []byte) { b.add(Op{OpDeleteRange, lower, upper}) }

func (b *Batch) add(op Op) {
	b.ops = append(b.ops, op)
	b.size += len(op.Key) + len(op.Value) + 16
}

// Ops returns the changes in order; the slice belongs to the batch.
func (b *Batch) Ops() []Op { return b.ops }

// Len returns the number of changes.
func (b *Batch) Len() int { return len(b.ops) }

// Size returns about how many octets the batch takes in the engine's log.
func (b *Batch) Size() int { return b.size }

// Reset empties the batch and keeps its memory, but nothing of what it was given.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops, b.size = b.ops[:0], 0
}
