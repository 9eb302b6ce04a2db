package pebble

import (
	"bytes"
	"runtime"
	"sort"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
)

// formatMajorVersion is pinned (RULES B5). FormatTableFormatV6 has log records
// that tell corruption from the end of the log, columnar blocks and a checksum in
// the footer of tables. FormatValueSeparation would add nothing: values are not
// separated, since the log and the memtable carry them whole anyway.
const formatMajorVersion = pebbledb.FormatTableFormatV6

func (e *Engine) pebbleOptions() *pebbledb.Options {
	o := &pebbledb.Options{
		FS:                          guardFS{e.opts.FS, e.log, &e.open, aheadStep(e.opts.MemTableSize)},
		Logger:                      e.log,
		Cache:                       e.cache,
		EventListener:               e.listener(),
		FormatMajorVersion:          formatMajorVersion,
		MemTableSize:                e.opts.MemTableSize,
		MemTableStopWritesThreshold: 4, // room for a burst while one is flushed
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       48, // rather read from many tables than refuse mail
		LBaseMaxBytes:               256 << 20,
		MaxOpenFiles:                512,
		CompactionConcurrencyRange: func() (int, int) {
			return 1, max(2, runtime.GOMAXPROCS(0)/2)
		},
	}
	o.TargetFileSizes[0] = 8 << 20
	if len(e.opts.Boundaries) > 0 {
		o.Experimental.SpanPolicyFunc = spanPolicy(e.opts.Boundaries)
	}
	return o
}

// spanPolicy ends a table at each of bounds, which are ascending.
func spanPolicy(bounds [][]byte) pebbledb.SpanPolicyFunc {
	return func(start []byte) (pebbledb.SpanPolicy, []byte, error) {
		i := sort.Search(len(bounds), func(i int) bool { return bytes.Compare(bounds[i], start) > 0 })
		if i == len(bounds) {
			return pebbledb.SpanPolicy{}, nil, nil
		}
		return pebbledb.SpanPolicy{}, bounds[i], nil
	}
}

// listener keeps what Admit and Metrics need and passes on what an operator
// should hear.
func (e *Engine) listener() *pebbledb.EventListener {
	return &pebbledb.EventListener{
		BackgroundError: func(err error) {
			// Pebble tries again at once, so on a full disk this comes very often.
			n, now, last := e.bgErrors.Add(1), time.Now().UnixNano(), e.bgLogged.Load()
			if now-last > int64(10*time.Second) && e.bgLogged.CompareAndSwap(last, now) {
				e.opts.Logger.Error("store: background work failed, it is tried again", "times", n, "err", err)
			}
		},
		WriteStallBegin: func(i pebbledb.WriteStallBeginInfo) {
			e.stallAt.Store(time.Now().UnixNano())
			e.stalls.Add(1)
			e.stalled.Store(true)
			e.opts.Logger.Warn("store: writes stall", "why", i.Reason)
		},
		WriteStallEnd: func() {
			e.stalled.Store(false)
			d := time.Duration(time.Now().UnixNano() - e.stallAt.Load())
			e.stallNs.Add(int64(d))
			e.opts.Logger.Info("store: writes go on", "after", d)
		},
	}
}
