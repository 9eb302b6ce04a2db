// Package boltfile opens the state files (bbolt) of shipped plugins so that a damaged one is found when the plugin starts, and not in
// the middle of somebody's message.
//
// bbolt believes what is in its file: it maps it into memory and follows the numbers in it. A file that was cut off, or has garbage in
// it, ends the process with SIGBUS or a panic at whichever question comes upon it, again and again. So Open makes sure that the file is as long
// as it says, and reads every page and entry once, with faults and panics turned into errors (0.1 s for a million entries).
//
// A file that is being made has another name until it is complete (NAME.new), so that a crash or a full disk leaves none that is half made. One of
// zeros alone, which a power failure may leave, is made again. Any other that is damaged is left for the administrator, whose
// it is to say that what was in it is lost.
//
// Failures: every error names the file. What was damaged while the process runs still ends it; then the next start says why.
package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Open opens or makes the file at path. One that another process holds is waited for.
func Open(path string, wait time.Duration) (*bolt.DB, error) {
	if err := makeNew(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db, err := open(path, wait)
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another process has held it for %s", path, wait.Round(time.Millisecond))
	case errors.Is(err, errDamaged):
		return nil, fmt.Errorf("open %s: %w; put a copy of it in its place, or remove it and lose what is in it", path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// errDamaged: the file is there, and not what it should be.
var errDamaged = errors.New("the file is damaged")

func damaged(cause any) error { return fmt.Errorf("%w (%v)", errDamaged, cause) }

// open opens a file that is there. A panic leaves it open and locked; the process can do nothing better than end.
func open(path string, wait time.Duration) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil { // what bbolt says of a page that is none, and what the system says of one that isn't there
			db, err = nil, damaged(cause)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: max(wait, time.Millisecond), FreelistType: bolt.FreelistMapType})
	var system *fs.PathError
	var number syscall.Errno
	switch {
	case errors.Is(err, berrors.ErrTimeout) || errors.As(err, &system) || errors.As(err, &number):
		return nil, err
	case err != nil: // what is left are complaints about the content, and not all of them have a name
		return nil, damaged(err)
	}
	if err := db.View(look); err != nil {
		return nil, errors.Join(damaged(err), db.Close())
	}
	return db, nil
}

// look reads everything once.
func look(tx *bolt.Tx) error {
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("it has %d octets of %d", info.Size(), tx.Size())
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return lookInto(b) })
}

func lookInto(b *bolt.Bucket) error {
	var last []byte
	sum := byte(0)
	err := b.ForEach(func(k, v []byte) error {
		if last != nil && bytes.Compare(last, k) >= 0 {
			return errors.New("its entries are out of order")
		}
		last = k
		if v == nil {
			return lookInto(b.Bucket(k))
		}
		if len(v) > 0 {
			sum ^= v[len(v)-1]
		}
		return nil
	})
	runtime.KeepAlive(sum) // so that the last octet of each value is read
	return err
}

// makeNew makes a file that isn't there under another name, and gives it its own when it is complete and on disk.
func makeNew(path string) error {
	born, err := wasBorn(path)
	if err != nil || born {
		return err
	}
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(draft, 0o600, &bolt.Options{Timeout: time.Second})
	if err == nil {
		err = db.Close()
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// wasBorn reports whether there is anything at path but zeros.
func wasBorn(path string) (bool, error) {
	const most = 4 * 65536 // octets that a new file has, at most
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	head, err := io.ReadAll(io.LimitReader(f, most+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	return len(head) > most || len(bytes.Trim(head, "\x00")) > 0, nil
}
