package pebble

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
)

// spaceEvery is how old an answer of Admit about free space may be.
const spaceEvery = time.Second

// space watches the free space of the disk that a directory is on. There is no
// goroutine: the caller who finds the last answer too old asks again.
type space struct {
	fs   vfs.FS
	dir  string
	min  int64
	at   atomic.Int64 // monotonic nanoseconds since start of the last look, 0: never
	free atomic.Int64 // -1: not known
	t0   time.Time
}

func (s *space) init(fs vfs.FS, dir string, min int64) {
	s.fs, s.dir, s.min, s.t0 = fs, dir, min, time.Now()
	s.free.Store(-1)
}

// look returns the free octets, at most spaceEvery old, or -1 if the system does
// not say.
func (s *space) look() int64 {
	now := int64(time.Since(s.t0)) + 1
	at := s.at.Load()
	if (at == 0 || now-at > int64(spaceEvery)) && s.at.CompareAndSwap(at, now) {
		s.free.Store(usable(s.fs, s.dir))
	}
	return s.free.Load()
}

// usable returns the octets that an ordinary user may still write, or -1.
func usable(fs vfs.FS, dir string) int64 {
	u, err := fs.GetDiskUsage(dir)
	if err != nil {
		return -1
	}
	return int64(min(u.AvailBytes, 1<<62))
}

func (s *space) full() bool {
	if s.min < 0 {
		return false
	}
	free := s.look()
	return free >= 0 && free < s.min
}

// busyAfter is how long writes stall before new mail is refused. Shorter stalls
// are part of a burst and only slow it down.
const busyAfter = 500 * time.Millisecond

// Admit implements kv.Engine.
func (e *Engine) Admit() error {
	if e.stalled.Load() && time.Since(time.Unix(0, e.stallAt.Load())) > busyAfter {
		return kv.ErrBusy
	}
	if e.space.full() {
		return kv.ErrFull
	}
	return nil
}

// openBallast gives the ballast back when the disk is full, and lays it down when
// there is room for it.
func (e *Engine) openBallast() error {
	path := e.opts.Ballast
	if path == "" {
		return nil
	}
	free := usable(e.opts.FS, e.opts.FS.PathDir(path))
	_, err := e.opts.FS.Stat(path)
	there := err == nil
	if err != nil && !oserror.IsNotExist(err) {
		return fmt.Errorf("ballast %s: %w", path, err)
	}
	switch full := free >= 0 && e.opts.MinFree >= 0 && free < e.opts.MinFree; {
	case full && there:
		if err := e.opts.FS.Remove(path); err != nil {
			return fmt.Errorf("give back ballast %s: %w", path, err)
		}
		e.opts.Logger.Warn("store: the disk is full: the ballast file was given back, so that something can be deleted; new mail waits until there is space",
			"ballast", path, "freed", e.opts.BallastSize, "free", free, "min_free", e.opts.MinFree)
	case full:
		e.opts.Logger.Warn("store: the disk is full, and the ballast file was given back already", "ballast", path, "free", free)
	case !there && free >= 0 && free-e.opts.BallastSize >= e.opts.MinFree:
		return e.layBallast(path)
	}
	return nil
}

// layBallast reserves the space without writing it. Not getting it is no reason
// not to start.
func (e *Engine) layBallast(path string) error {
	f, err := e.opts.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("ballast %s: %w", path, err)
	}
	err = errors.Join(f.Preallocate(0, e.opts.BallastSize), f.Close())
	if err != nil {
		e.opts.Logger.Warn("store: no ballast file", "ballast", path, "err", err)
		if err := e.opts.FS.Remove(path); err != nil && !oserror.IsNotExist(err) {
			return fmt.Errorf("ballast %s: %w", path, err)
		}
	}
	return nil
}
