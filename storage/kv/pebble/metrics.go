package pebble

import "time"

// Metrics implements kv.Engine. Sizes are octets, durations seconds; names that
// end in _total only grow while the store is open.
func (e *Engine) Metrics() map[string]float64 {
	if e.gate.enter() != nil {
		return nil
	}
	defer e.gate.leave()
	m := e.db.Metrics()
	total := m.Total()
	var flushed, compacted uint64
	for _, l := range m.Levels {
		flushed += l.TableBytesFlushed
		compacted += l.TableBytesCompacted
	}
	stall := time.Duration(e.stallNs.Load())
	if e.stalled.Load() {
		stall += time.Since(time.Unix(0, e.stallAt.Load()))
	}
	out := map[string]float64{
		"batches_total":           float64(e.group.applied.Load()),
		"syncs_total":             float64(e.group.syncs.Load()),
		"log_in_bytes_total":      float64(m.WAL.BytesIn),
		"log_written_bytes_total": float64(m.WAL.BytesWritten),
		"log_bytes":               float64(m.WAL.Size),
		"flushes_total":           float64(m.Flush.Count),
		"flushed_bytes_total":     float64(flushed),
		"compactions_total":       float64(m.Compact.Count),
		"compaction_moves_total":  float64(m.Compact.MoveCount),
		"compacted_bytes_total":   float64(compacted),
		"compaction_debt_bytes":   float64(m.Compact.EstimatedDebt),
		"memtable_bytes":          float64(m.MemTable.Size),
		"tables":                  float64(total.TablesCount),
		"table_bytes":             float64(total.TablesSize),
		"disk_bytes":              float64(m.DiskSpaceUsage()),
		"read_amplification":      float64(m.ReadAmp()),
		"cache_bytes":             float64(m.BlockCache.Size),
		"cache_hits_total":        float64(m.BlockCache.Hits),
		"cache_misses_total":      float64(m.BlockCache.Misses),
		"snapshots":               float64(m.Snapshots.Count),
		"tombstones":              float64(m.Keys.TombstoneCount),
		"stalls_total":            float64(e.stalls.Load()),
		"stall_seconds_total":     stall.Seconds(),
		"errors_total":            float64(e.bgErrors.Load()),
		"free_bytes":              float64(e.space.look()),
	}
	// Write amplification as E2 of the rules counts it: all octets written, log
	// included, for each octet that was given to Apply.
	if m.WAL.BytesIn > 0 {
		written := m.WAL.BytesWritten + flushed + compacted
		out["write_amplification"] = float64(written) / float64(m.WAL.BytesIn)
	}
	return out
}
