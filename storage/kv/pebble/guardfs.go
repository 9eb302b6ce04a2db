package pebble

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS is the file system that Pebble (v2.1.7) gets. It makes up for two
// things in it; each can go when Pebble does it itself.
//
// A directory is synced before a marker file is made in it. Pebble makes a
// manifest, syncs its content, makes the marker that names it, and only then syncs
// the directory that both are in (versionSet.create, UpdateVersionLocked). POSIX
// lets a crash in between keep the marker and lose the manifest, and then the store
// does not open. The usual file systems of Linux keep the order; the crash tests do
// not.
//
// A log that cannot be written, synced or begun, and a directory that cannot be
// synced, are fatal here and now. Pebble panics at some of these places with a
// mutex in a state that turns the panic into an abort of the runtime
// (DB.rotateWAL), and at others notices only with the next sync.
type guardFS struct {
	vfs.FS
	log   *logger
	armed *atomic.Bool // false while opening: then errors are returned
	step  int64        // zeros ahead of a log, in octets
}

// Create implements vfs.FS.
func (fs guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(fs.PathBase(name), "marker.") {
		if err := fs.syncDir(name); err != nil {
			return nil, fmt.Errorf("sync directory before %s: %w", name, err)
		}
	}
	f, err := fs.FS.Create(name, c)
	g, err := fs.guard(name, f, err)
	if log, ok := g.(logFile); ok && err == nil {
		log.ahead = newAhead(fs, name, c, 0)
		return log, nil
	}
	return g, err
}

// Remove implements vfs.FS. Pebble removes the old marker before it syncs the
// directory with the new one (atomicfs.Marker.Move): POSIX lets a crash in between
// lose both, and then the store looks like one that was never made.
func (fs guardFS) Remove(name string) error {
	if strings.HasPrefix(fs.PathBase(name), "marker.") {
		if err := fs.syncDir(name); err != nil {
			return fmt.Errorf("sync directory before removing %s: %w", name, err)
		}
	}
	return fs.FS.Remove(name)
}

// syncDir syncs the directory that name is in.
func (fs guardFS) syncDir(name string) error {
	d, err := fs.OpenDir(fs.PathDir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// OpenDir implements vfs.FS.
func (fs guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return logFile{f, fs, name, nil}, nil
}

// ReuseForWrite implements vfs.FS.
func (fs guardFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(old, name, c)
	g, err := fs.guard(name, f, err)
	if log, ok := g.(logFile); ok && err == nil {
		if info, err := f.Stat(); err == nil { // it may have been the log of a smaller memtable
			log.ahead = newAhead(fs, name, c, info.Size())
		}
		return log, nil
	}
	return g, err
}

func (fs guardFS) guard(name string, f vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return f, err
	}
	if err := fs.check("begin", name, err); err != nil {
		return nil, err
	}
	return logFile{f, fs, name, nil}, nil
}

func (fs guardFS) check(what, name string, err error) error {
	if err != nil && fs.armed.Load() {
		fs.log.Fatalf("%s %s: %v", what, name, err)
	}
	return err
}

// Unwrap implements vfs.FS.
func (fs guardFS) Unwrap() vfs.FS { return fs.FS }

// logFile is a log that is being written, or a directory.
type logFile struct {
	vfs.File
	fs    guardFS
	name  string
	ahead *ahead // nil: the file has its blocks already
}

func (f logFile) Write(p []byte) (int, error) {
	f.ahead.reserve(len(p))
	n, err := f.File.Write(p)
	return n, f.fs.check("write", f.name, err)
}

func (f logFile) Sync() error { return f.fs.check("sync", f.name, f.File.Sync()) }

func (f logFile) SyncData() error { return f.fs.check("sync", f.name, f.File.SyncData()) }

func (f logFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	return full, f.fs.check("sync", f.name, err)
}

// Stat is asked of a log that is used again.
func (f logFile) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.fs.check("stat", f.name, err)
}

func (f logFile) Close() error {
	f.ahead.close()
	return f.fs.check("close", f.name, f.File.Close())
}
