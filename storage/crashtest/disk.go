package crashtest

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// kind is an operation on the disk, as messages show it.
type kind string

const (
	opCreate   kind = "create"
	opLink     kind = "link"
	opOpen     kind = "open"
	opRemove   kind = "remove"
	opRename   kind = "rename"
	opMkdir    kind = "mkdir"
	opLock     kind = "lock"
	opList     kind = "list"
	opStat     kind = "stat"
	opRead     kind = "read"
	opWrite    kind = "write"
	opSync     kind = "sync"
	opAllocate kind = "allocate"
)

// changes says that the disk differs afterwards, or what a crash leaves of it.
func (k kind) changes() bool {
	switch k {
	case opOpen, opList, opStat, opRead, opLock:
		return false
	}
	return true
}

// space says that a full disk refuses the operation.
func (k kind) space() bool {
	switch k {
	case opCreate, opLink, opMkdir, opWrite, opAllocate:
		return true
	}
	return false
}

// disk is a World's vfs.FS: MemFS with every operation going through World.op.
type disk struct{ w *World }

var _ vfs.FS = disk{}

func (d disk) file(k kind, name string, get func() (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := d.w.op(k, name, func() (err error) { f, err = get(); return err })
	if err != nil {
		return nil, err
	}
	return &file{f, d.w, name}, nil
}

func (d disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(opCreate, name, func() (vfs.File, error) {
		d.w.gone.Delete(name)
		return d.w.mem.Create(name, c)
	})
}

func (d disk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(opOpen, name, func() (vfs.File, error) { return d.w.mem.Open(name, opts...) })
}

func (d disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return d.file(opCreate, name, func() (vfs.File, error) {
		d.w.gone.Delete(name)
		return d.w.mem.OpenReadWrite(name, c, opts...)
	})
}

func (d disk) OpenDir(name string) (vfs.File, error) {
	return d.file(opOpen, name, func() (vfs.File, error) { return d.w.mem.OpenDir(name) })
}

func (d disk) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return d.file(opCreate, name, func() (vfs.File, error) {
		d.w.moved(old, name)
		return d.w.mem.ReuseForWrite(old, name, c)
	})
}

func (d disk) Link(old, name string) error {
	return d.w.op(opLink, name, func() error {
		d.w.gone.Delete(name)
		return d.w.mem.Link(old, name)
	})
}

func (d disk) Remove(name string) error {
	return d.w.op(opRemove, name, func() error {
		d.w.gone.Store(name, nil)
		return d.w.mem.Remove(name)
	})
}

func (d disk) RemoveAll(name string) error {
	return d.w.op(opRemove, name, func() error {
		d.w.gone.Store(name, nil)
		return d.w.mem.RemoveAll(name)
	})
}

func (d disk) Rename(old, name string) error {
	return d.w.op(opRename, name, func() error {
		d.w.moved(old, name)
		return d.w.mem.Rename(old, name)
	})
}

func (d disk) MkdirAll(name string, perm os.FileMode) error {
	return d.w.op(opMkdir, name, func() error { return d.w.mem.MkdirAll(name, perm) })
}

func (d disk) Lock(name string) (c io.Closer, err error) {
	err = d.w.op(opLock, name, func() (err error) { c, err = d.w.mem.Lock(name); return err })
	return c, err
}

func (d disk) List(dir string) (names []string, err error) {
	err = d.w.op(opList, dir, func() (err error) { names, err = d.w.mem.List(dir); return err })
	return names, err
}

func (d disk) Stat(name string) (info vfs.FileInfo, err error) {
	err = d.w.op(opStat, name, func() (err error) { info, err = d.w.mem.Stat(name); return err })
	return info, err
}

func (d disk) GetDiskUsage(path string) (vfs.DiskUsage, error) { return d.w.mem.GetDiskUsage(path) }
func (d disk) PathBase(p string) string                        { return d.w.mem.PathBase(p) }
func (d disk) PathDir(p string) string                         { return d.w.mem.PathDir(p) }
func (d disk) PathJoin(elem ...string) string                  { return d.w.mem.PathJoin(elem...) }
func (d disk) Unwrap() vfs.FS                                  { return nil }

// file is an open file of a disk.
type file struct {
	vfs.File // Close, Prefetch, Fd
	w        *World
	name     string
}

func (f *file) rw(k kind, p []byte, do func([]byte) (int, error)) (n int, err error) {
	err = f.w.op(k, f.name, func() (err error) { n, err = do(p); return err })
	return n, err
}

func (f *file) Read(p []byte) (int, error) { return f.rw(opRead, p, f.File.Read) }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	return f.rw(opRead, p, func(p []byte) (int, error) { return f.File.ReadAt(p, off) })
}

// Write puts down half of it when the disk is full, as real ones do.
func (f *file) Write(p []byte) (int, error) {
	n, err := f.rw(opWrite, p, f.File.Write)
	if errors.Is(err, syscall.ENOSPC) && len(p) > 1 {
		f.w.opMu.RLock()
		defer f.w.opMu.RUnlock()
		n, _ = f.File.Write(p[:len(p)/2])
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	return f.rw(opWrite, p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *file) Preallocate(off, n int64) error {
	return f.w.op(opAllocate, f.name, func() error { return f.File.Preallocate(off, n) })
}

func (f *file) Stat() (info vfs.FileInfo, err error) {
	err = f.w.op(opStat, f.name, func() (err error) { info, err = f.File.Stat(); return err })
	return info, err
}

func (f *file) Sync() error { return f.w.op(opSync, f.name, f.File.Sync) }

func (f *file) SyncData() error { return f.w.op(opSync, f.name, f.File.SyncData) }

func (f *file) SyncTo(n int64) (full bool, err error) {
	err = f.w.op(opSync, f.name, func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}
