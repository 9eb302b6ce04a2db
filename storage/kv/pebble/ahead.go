package pebble

import "github.com/cockroachdb/pebble/v2/vfs"

// ahead writes zeros in front of a log that grows. A sync of octets that are
// written over zeros is a write of data alone; a sync of a file that has grown is
// one of the file system's journal too, which is a third of a lone writer's wait.
// Pebble's own preallocation does not help: it leaves the size and the state of the
// blocks for later. Logs that Pebble uses again have their blocks, so after the
// first few logs nothing is written twice.
//
// Readers of logs take zeros for the end, as they do with preallocated files. If
// the zeros can't be written (a full disk) the log goes on without them.
type ahead struct {
	file vfs.File // a second handle, so that the log's own position stays
	step int64    // octets of zeros at a time
	end  int64    // of what was written to the log
	zero int64    // the file is written up to here
}

// maxAheadStep makes one message of 4 KiB in a hundred wait for more zeros.
const maxAheadStep = 512 << 10

// aheadStep returns how many zeros are written at a time: a log is about as large
// as a memtable.
func aheadStep(memTableSize uint64) int64 {
	return max(16<<10, min(int64(memTableSize/64), maxAheadStep))
}

var zeros [maxAheadStep]byte

// newAhead is for a log whose file has so many octets already.
func newAhead(fs guardFS, name string, c vfs.DiskWriteCategory, size int64) *ahead {
	f, err := fs.FS.OpenReadWrite(name, c)
	if err != nil {
		return nil
	}
	return &ahead{file: f, step: fs.step, zero: size}
}

// reserve is called before n octets are written to the log.
func (a *ahead) reserve(n int) {
	if a == nil {
		return
	}
	a.end += int64(n)
	if a.end <= a.zero || a.file == nil {
		return
	}
	from := max(a.zero, a.end-int64(n))
	to := (a.end/a.step + 1) * a.step
	for from < to {
		part := min(to-from, a.step)
		if _, err := a.file.WriteAt(zeros[:part], from); err != nil {
			a.close()
			return
		}
		from += part
	}
	a.zero = to
}

func (a *ahead) close() {
	if a != nil && a.file != nil {
		_ = a.file.Close() // nothing is lost with it
		a.file = nil
	}
}
