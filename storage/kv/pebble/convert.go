package pebble

import (
	"fmt"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"github.com/sluicemail/sluice/storage/kv"
)

// The limits of package kv, RULES B2: every engine may rely on them, so this one
// holds callers to them although it could take more.
const (
	maxKey   = 1 << 10
	maxValue = 1 << 20
	maxBatch = 16 << 20
)

// batchSlack is room for the header of Pebble's batch.
const batchSlack = 64

func checkLimits(b *kv.Batch) error {
	if b.Size() > maxBatch {
		return fmt.Errorf("batch of %d octets is over the limit of %d", b.Size(), maxBatch)
	}
	for _, op := range b.Ops() {
		if len(op.Key) > maxKey {
			return fmt.Errorf("key of %d octets is over the limit of %d", len(op.Key), maxKey)
		}
		if len(op.Value) > maxValue {
			return fmt.Errorf("value of %d octets for key %.64q is over the limit of %d", len(op.Value), op.Key, maxValue)
		}
	}
	return nil
}

// convert writes the changes of b into pb, whose buffer is large enough already:
// each octet is copied once.
func convert(pb *pebbledb.Batch, b *kv.Batch) error {
	for _, op := range b.Ops() {
		var err error
		switch op.Kind {
		case kv.OpSet:
			d := pb.SetDeferred(len(op.Key), len(op.Value))
			copy(d.Key, op.Key)
			copy(d.Value, op.Value)
			err = d.Finish()
		case kv.OpDelete:
			err = pb.Delete(op.Key, nil)
		case kv.OpDeleteRange:
			err = pb.DeleteRange(op.Key, op.Value, nil)
		default:
			err = fmt.Errorf("unknown change %d", op.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
