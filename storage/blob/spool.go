package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// firstBuffer holds an ordinary message with its new header fields. Buffers are
	// not pooled: a plugin that is late may still read a draft that was discarded,
	// and clearing 8 KiB costs less than knowing that nobody does.
	firstBuffer = 8 << 10
	fileBuffer  = 16 << 10 // gathers writes into a file; not part of the budget
)

// Spool takes in one message. It is used by one goroutine, which ends it with
// Finish or Discard. Memory is taken at the first Write.
type Spool struct {
	store *Store
	mem   []byte   // all octets, or those not yet in the file
	taken int      // of the budget
	file  vfs.File // nil: everything is in mem
	name  string
	size  int64
	err   error // the first failure; everything later fails with it
	done  bool
}

// NewSpool returns an empty spool.
func (s *Store) NewSpool() *Spool { return &Spool{store: s} }

// NewSpool returns an empty spool of the store that d is in, for octets that stand
// beside it.
func (d *Draft) NewSpool() *Spool { return d.store.NewSpool() }

// Expect says how long the content will probably be (SMTP's SIZE), so that the
// buffer is made once. It is a hint from an untrusted peer: what is over the inline
// limit counts for nothing.
func (sp *Spool) Expect(size int64) {
	if sp.mem == nil && sp.file == nil && size > firstBuffer && size <= sp.store.inline {
		sp.reserve(int(size))
	}
}

// Size returns how much was written so far.
func (sp *Spool) Size() int64 { return sp.size }

// Write implements io.Writer; p is copied.
func (sp *Spool) Write(p []byte) (int, error) {
	if sp.err == nil && sp.done {
		sp.err = ErrDiscarded
	}
	if sp.err != nil {
		return 0, sp.err
	}
	if sp.file == nil && !sp.fits(len(p)) {
		if sp.err = sp.spill(); sp.err != nil {
			return 0, sp.err
		}
	}
	if sp.file == nil {
		sp.mem = append(sp.mem, p...)
		sp.size += int64(len(p))
		return len(p), nil
	}
	return sp.writeFile(p)
}

// fits makes room for n more octets in memory, if limits allow.
func (sp *Spool) fits(n int) bool {
	need := len(sp.mem) + n
	if int64(need) > sp.store.inline {
		return false
	}
	if need <= cap(sp.mem) {
		return true
	}
	return sp.reserve(max(need, min(2*cap(sp.mem), int(sp.store.inline)), min(firstBuffer, int(sp.store.inline))))
}

// reserve makes mem's capacity n if the budget has it.
func (sp *Spool) reserve(n int) bool {
	if !sp.store.budget.take(n - sp.taken) {
		return false
	}
	sp.taken = n
	mem := make([]byte, len(sp.mem), n)
	copy(mem, sp.mem)
	sp.mem = mem
	return true
}

// spill moves what is in memory to a file.
func (sp *Spool) spill() error {
	name := newName()
	path := sp.store.fs.PathJoin(sp.store.dir, incomingDir, name)
	f, err := sp.store.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("spool content: %w", err)
	}
	sp.file, sp.name = f, name
	if err := sp.flush(); err != nil {
		return err
	}
	sp.freeMem()
	sp.mem = make([]byte, 0, fileBuffer)
	return nil
}

// flush writes mem to the file. A vfs.File may change the slice that it writes,
// therefore only mem is ever given to it, never the caller's octets.
func (sp *Spool) flush() error {
	if len(sp.mem) == 0 {
		return nil
	}
	if _, err := sp.file.Write(sp.mem); err != nil {
		return fmt.Errorf("spool content %s: %w", sp.name, err)
	}
	sp.mem = sp.mem[:0]
	return nil
}

func (sp *Spool) writeFile(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(sp.mem) == cap(sp.mem) {
			if sp.err = sp.flush(); sp.err != nil {
				return n, sp.err
			}
		}
		k := min(len(p)-n, cap(sp.mem)-len(sp.mem))
		sp.mem = append(sp.mem, p[n:n+k]...)
		n += k
		sp.size += int64(k)
	}
	return n, nil
}

func (sp *Spool) freeMem() {
	sp.store.budget.give(sp.taken)
	sp.taken, sp.mem = 0, nil
}

// Discard throws the content away; after Finish it does nothing.
func (sp *Spool) Discard() {
	if sp.done {
		return
	}
	sp.done = true
	sp.freeMem()
	if sp.file != nil {
		sp.store.dropIncoming(sp.file, sp.name)
		sp.file = nil
	}
}

// Finish ends the content. Nothing is durable yet. After an error the spool is
// discarded.
func (sp *Spool) Finish() (*Draft, error) {
	if sp.err == nil && sp.done {
		sp.err = ErrDiscarded
	}
	if sp.err == nil && sp.file != nil {
		sp.err = sp.flush()
	}
	if sp.err != nil {
		sp.Discard()
		return nil, sp.err
	}
	sp.done = true
	d := &Draft{store: sp.store, size: sp.size}
	if sp.file != nil {
		d.file, d.name = sp.file, sp.name
		return d, nil
	}
	d.mem, d.taken = sp.mem, sp.taken
	if d.mem == nil {
		d.mem = []byte{}
	}
	return d, nil
}

// dropIncoming closes and removes a file that nobody will ask for. If that fails
// the next start sweeps it.
func (s *Store) dropIncoming(f vfs.File, name string) {
	path := s.fs.PathJoin(s.dir, incomingDir, name)
	err := errors.Join(f.Close(), s.fs.Remove(path))
	if err != nil && !oserror.IsNotExist(err) {
		s.log.Warn("store: unfinished content stays until the next start", "file", path, "err", err)
	}
}

// Draft is content that is complete and belongs to nobody yet. Its methods may be
// called from any goroutine.
type Draft struct {
	store *Store
	size  int64
	mem   []byte // nil: in a file

	mu        sync.RWMutex // guards what follows
	file      vfs.File
	name      string
	taken     int
	persisted bool
	discarded bool
	err       error // a failed Persist; it is not tried again
}

var _ io.ReaderAt = (*Draft)(nil)

// Size returns the number of octets.
func (d *Draft) Size() int64 { return d.size }

// Bytes returns all octets if they are in memory, else nil. Nobody may change
// them; they stay valid after Discard.
func (d *Draft) Bytes() []byte { return d.mem }

// ReadAt implements io.ReaderAt. After Discard it returns ErrDiscarded.
func (d *Draft) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.discarded:
		return 0, ErrDiscarded
	case d.file == nil:
		return readMem(d.mem, p, off)
	}
	n, err := d.file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read content %s: %w", d.name, err)
	}
	return n, err
}

// Persist makes the content durable as far as that is this package's work, and
// returns how to refer to it. For Inline the caller writes Bytes in the batch
// that names it. Calling it again returns the same.
func (d *Draft) Persist(ctx context.Context) (Ref, error) {
	if err := ctx.Err(); err != nil {
		return Ref{}, fmt.Errorf("persist content: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.err != nil:
		return Ref{}, d.err
	case d.discarded:
		return Ref{}, fmt.Errorf("persist content: %w", ErrDiscarded)
	case d.mem != nil:
		return Ref{Kind: Inline, Size: d.size}, nil
	case !d.persisted:
		if err := d.persistFile(); err != nil {
			d.err = fmt.Errorf("persist content %s: %w", d.name, err)
			return Ref{}, d.err
		}
		d.persisted = true
	}
	return Ref{File, d.name, d.size}, nil
}

// persistFile: the octets first, then the name, then the directory that has it
// (RULES B3). That the old name is gone need not be durable: it is swept.
func (d *Draft) persistFile() error {
	s := d.store
	if err := d.file.Sync(); err != nil {
		return err
	}
	if err := s.haveDir(d.name); err != nil {
		return err
	}
	final := s.path(d.name)
	if err := s.fs.Rename(s.fs.PathJoin(s.dir, incomingDir, d.name), final); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.fs.PathDir(final)); err != nil {
		// Nothing names it; leaving it would only leave an orphan.
		return errors.Join(err, s.fs.Remove(final))
	}
	return nil
}

// Discard releases memory and the open file; what Persist has put in place stays.
// Later calls do nothing, so it can be deferred.
func (d *Draft) Discard() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.discarded {
		return
	}
	d.discarded = true
	d.store.budget.give(d.taken)
	if d.file == nil {
		return
	}
	if !d.persisted {
		d.store.dropIncoming(d.file, d.name)
	} else if err := d.file.Close(); err != nil {
		d.store.log.Warn("store: close content", "file", d.name, "err", err)
	}
	d.file = nil
}

// Withdraw is Discard for a draft whose Ref was not used after all: the batch was
// given up before it was applied. It removes what Persist has put in place.
func (d *Draft) Withdraw() error {
	d.Discard()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.persisted {
		return nil
	}
	d.persisted = false
	return d.store.Remove(Ref{File, d.name, d.size})
}

// newName begins with the time, so that a listing is in order of arrival, and
// ends in chance, so that files spread over the directories.
func newName() string {
	var b [nameLen / 2]byte
	ms := time.Now().UnixMilli()
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	_, _ = rand.Read(b[6:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}
