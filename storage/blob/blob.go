// Package blob keeps the content of messages: it takes in octets as they arrive,
// hands them out at random offsets, and makes variants of them (RULES A4, B3).
//
// The way of content:
//
//	Store.NewSpool -> Spool.Write ... -> Spool.Finish -> Draft
//	Draft.Persist  -> Ref      (before the batch that names it)
//	Store.Open(Ref) -> Content (to read it, any time later)
//	Store.Remove(Ref)          (when nothing names it any more)
//
// Content up to the inline limit stays in memory and is written by the caller,
// as a value in the batch that names it (Ref.Kind Inline). Larger content is a
// file from its first octet over the limit, in DIR/incoming; Persist syncs it,
// renames it to DIR/xx/NAME and syncs the directory, so the spool is the content.
//
// Promises. A Ref of kind File that Persist returned names a file that survives
// a power failure whole. Opening a Store removes everything in DIR/incoming and
// nothing else. What was written is never changed.
//
// It owns DIR and everything below. All files are used through the vfs.FS that
// the engine uses too, so that crash tests hold both together.
//
// Failures. Every error names the file. After a failed sync a Draft cannot be
// persisted any more: the kernel may have dropped the octets. Memory in use is
// bounded by Budget; over it, content goes to files early. ReadRef and
// DecodeVariant read octets that may be damaged, and never panic.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound  = errors.New("no such content")
	ErrInUse     = errors.New("content is being read")
	ErrDiscarded = errors.New("content was discarded")
)

const (
	incomingDir = "incoming"

	// MaxInline is the largest inline limit: a value of the engine, RULES B2, less
	// some room for what is stored beside the content.
	MaxInline = 1<<20 - 1<<12

	dirCount = 256
)

// Store keeps content. Its methods may be called from any goroutine.
type Store struct {
	fs     vfs.FS
	dir    string
	inline int64
	budget *Budget
	log    *slog.Logger

	dirs  [dirCount]atomic.Bool // directories known to be there, durably
	dirMu sync.Mutex            // making one

	mu       sync.Mutex
	readers  map[string]int      // open readers of a file
	removing map[string]struct{} // files that Remove is unlinking
}

// Open opens the store in dir, creates what is missing, durably, and removes what
// a previous process left in dir/incoming. Content of more than inlineLimit
// octets becomes a file.
func Open(fs vfs.FS, dir string, budget *Budget, inlineLimit int64, logger *slog.Logger) (*Store, error) {
	if inlineLimit < 0 || inlineLimit > MaxInline {
		return nil, fmt.Errorf("open content store %s: inline limit %d is not between 0 and %d", dir, inlineLimit, MaxInline)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		fs: fs, dir: dir, inline: inlineLimit, budget: budget, log: logger,
		readers: map[string]int{}, removing: map[string]struct{}{},
	}
	incoming := fs.PathJoin(dir, incomingDir)
	for _, d := range []string{dir, incoming} {
		if err := makeDir(fs, d); err != nil {
			return nil, fmt.Errorf("open content store %s: %w", d, err)
		}
	}
	if err := s.sweep(incoming); err != nil {
		return nil, fmt.Errorf("open content store %s: %w", dir, err)
	}
	return s, nil
}

// makeDir makes path and its parents. When it returns, path and those that it
// made are durable; so is path itself if it was there, for an earlier process may
// have been killed before it could sync.
func makeDir(fs vfs.FS, path string) error {
	sync := []string{fs.PathDir(path)}
	for p := fs.PathDir(path); fs.PathDir(p) != p; p = fs.PathDir(p) {
		if _, err := fs.Stat(p); err == nil {
			break
		} else if !oserror.IsNotExist(err) {
			return err
		}
		sync = append(sync, fs.PathDir(p)) // p is new: its parent's list changes
	}
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, p := range sync {
		if err := syncDir(fs, p); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fs vfs.FS, path string) error {
	d, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) sweep(incoming string) error {
	names, err := s.fs.List(incoming)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for _, n := range names {
		if err := s.fs.Remove(s.fs.PathJoin(incoming, n)); err != nil && !oserror.IsNotExist(err) {
			return fmt.Errorf("sweep: %w", err)
		}
	}
	if len(names) > 0 {
		s.log.Info("store: removed unfinished content", "files", len(names))
	}
	return nil
}

// path is where the file name belongs.
func (s *Store) path(name string) string {
	return s.fs.PathJoin(s.dir, name[len(name)-2:], name)
}

// haveDir makes the directory of name, durably, if it is not there yet.
func (s *Store) haveDir(name string) error {
	var i int
	if _, err := fmt.Sscanf(name[len(name)-2:], "%02x", &i); err != nil {
		return err
	}
	if s.dirs[i].Load() {
		return nil
	}
	s.dirMu.Lock()
	defer s.dirMu.Unlock()
	if err := makeDir(s.fs, s.fs.PathJoin(s.dir, name[len(name)-2:])); err != nil {
		return err
	}
	s.dirs[i].Store(true)
	return nil
}

// Open opens content for reading. inline is called for content that is kept
// inside the engine and returns its octets, which nobody may change afterwards.
func (s *Store) Open(ref Ref, inline func() ([]byte, error)) (*Content, error) {
	switch ref.Kind {
	case Inline:
		b, err := inline()
		if err != nil {
			return nil, fmt.Errorf("open content: %w", err)
		}
		if int64(len(b)) != ref.Size {
			return nil, fmt.Errorf("open content: it has %d octets, not %d", len(b), ref.Size)
		}
		return &Content{mem: b, size: ref.Size}, nil
	case File:
		return s.openFile(ref)
	default:
		return nil, fmt.Errorf("open content: this release does not know content of kind %d", ref.Kind)
	}
}

func (s *Store) openFile(ref Ref) (*Content, error) {
	if err := checkName(ref.Name); err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	s.mu.Lock()
	if _, gone := s.removing[ref.Name]; gone {
		s.mu.Unlock()
		return nil, fmt.Errorf("open content %s: %w", ref.Name, ErrNotFound)
	}
	s.readers[ref.Name]++
	s.mu.Unlock()
	f, err := s.fs.Open(s.path(ref.Name))
	if err != nil {
		s.release(ref.Name)
		if oserror.IsNotExist(err) {
			err = ErrNotFound
		}
		return nil, fmt.Errorf("open content %s: %w", ref.Name, err)
	}
	return &Content{file: f, size: ref.Size, name: ref.Name, store: s}, nil
}

func (s *Store) release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers[name]--; s.readers[name] <= 0 {
		delete(s.readers, name)
	}
}

// InUse says whether anybody is reading the file that ref names. Inline content
// is never in use: its readers have a copy.
func (s *Store) InUse(ref Ref) bool {
	if ref.Kind != File {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readers[ref.Name] > 0
}

// Remove unlinks the file that ref names; for other kinds there is nothing to do.
// A file that is being read is left alone: the error is ErrInUse, and the
// collector tries again later. A file that is not there is no error. That it is
// gone is not durable: if it comes back after a crash, List shows it.
func (s *Store) Remove(ref Ref) error {
	if ref.Kind != File {
		return nil
	}
	if err := checkName(ref.Name); err != nil {
		return fmt.Errorf("remove content: %w", err)
	}
	s.mu.Lock()
	if s.readers[ref.Name] > 0 {
		s.mu.Unlock()
		return fmt.Errorf("remove content %s: %w", ref.Name, ErrInUse)
	}
	s.removing[ref.Name] = struct{}{}
	s.mu.Unlock()
	err := s.fs.Remove(s.path(ref.Name))
	s.mu.Lock()
	delete(s.removing, ref.Name)
	s.mu.Unlock()
	if err != nil && !oserror.IsNotExist(err) {
		return fmt.Errorf("remove content %s: %w", ref.Name, err)
	}
	return nil
}

// Entry is a file that List found.
type Entry struct {
	Ref     Ref
	ModTime time.Time
}

// List visits every persisted file in no particular order, until visit returns
// an error. Files with names that are not ours are passed over.
func (s *Store) List(ctx context.Context, visit func(Entry) error) error {
	for i := range dirCount {
		dir := s.fs.PathJoin(s.dir, fmt.Sprintf("%02x", i))
		names, err := s.fs.List(dir)
		if oserror.IsNotExist(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list content: %w", err)
		}
		for _, n := range names {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("list content: %w", err)
			}
			if checkName(n) != nil {
				continue
			}
			info, err := s.fs.Stat(s.fs.PathJoin(dir, n))
			if oserror.IsNotExist(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("list content: %w", err)
			}
			if err := visit(Entry{Ref{File, n, info.Size()}, info.ModTime()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Content is open for reading, from any goroutine. It must be closed, and not be
// read afterwards.
type Content struct {
	mem   []byte
	file  vfs.File
	size  int64
	name  string
	store *Store
	once  sync.Once
	err   error
}

var _ io.ReaderAt = (*Content)(nil)

// Size returns the number of octets.
func (c *Content) Size() int64 { return c.size }

// Bytes returns all octets if they are in memory, else nil. Nobody may change
// them; they stay valid after Close.
func (c *Content) Bytes() []byte { return c.mem }

// ReadAt implements io.ReaderAt.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if c.file == nil {
		return readMem(c.mem, p, off)
	}
	n, err := c.file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read content %s: %w", c.name, err)
	}
	return n, err
}

// Close ends reading; later calls do nothing.
func (c *Content) Close() error {
	c.once.Do(func() {
		if c.file == nil {
			return
		}
		if err := c.file.Close(); err != nil {
			c.err = fmt.Errorf("close content %s: %w", c.name, err)
		}
		c.store.release(c.name)
	})
	return c.err
}

func readMem(mem, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read content: negative offset %d", off)
	}
	if off >= int64(len(mem)) {
		return 0, io.EOF
	}
	n := copy(p, mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
