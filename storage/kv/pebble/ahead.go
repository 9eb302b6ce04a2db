package pebble

import "github.com/cockroachdb/pebble/v2/vfs"

// ahead writes zeros in front of a log that grows. A sync of octets that are
// written over zeros is a write of data alone; a sync of a file that has grown is
// one of the file system's journal too, which is a third of a lone writer's wait.
// Pebble's own preallocation does not help: it leaves the size and the state of the
// blocks for later. Logs that Pebble uses again have their blocks and need none of
// this, so after the first few logs nothing is written twice.
//
// Readers of logs take zeros for the end, as they do with preallocated files. If
// the zeros can't be written (a full disk) the log goes on without them.
type ahead struct {
	file vfs.File // a second handle, so that the log's own position stays
	end  int64    // of what was written to the log
	zero int64    // the file is written up to here
}

const (
	aheadStep = 1 << 20
	aheadPart = 256 << 10
)

var zeros [aheadPart]byte

func newAhead(fs vfs.FS, name string, c vfs.DiskWriteCategory) *ahead {
	f, err := fs.OpenReadWrite(name, c)
	if err != nil {
		return nil
	}
	return &ahead{file: f}
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
	to := (a.end/aheadStep + 1) * aheadStep
	for from < to {
		part := min(to-from, aheadPart)
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
