package bayes

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicemail/sluice/plugins/internal/boltfile"
)

// The file bayes.db (bbolt) has these buckets:
//
//	meta     version: 1; key: 16 random octets, the key of every hash
//	quota    DAY (4 octets) + account's hash (8): lessons of the account on that day (4)
//	site, or @ADDRESS with per_account, each a database:
//	         counts: 5 numbers of 8 octets: lessons of spam and ham, those of them whose tokens were counted, tokens in all
//	         tokens: hash (8): messages of spam, of ham, day of the last lesson, as varints
//	         lessons: message (16): opinion, counted, account's hash (8), place in order (8)
//	         order: number (8): message (16), oldest first
//
// Numbers are big-endian. No word, address or subject is in it: hashes under the key only.
var (
	metaBucket    = []byte("meta")
	quotaBucket   = []byte("quota")
	tokensBucket  = []byte("tokens")
	lessonsBucket = []byte("lessons")
	orderBucket   = []byte("order")
	countsKey     = []byte("counts")
)

// siteName is the database of everybody.
const siteName = "site"

// counts are the totals of a database.
type counts struct {
	Spam, Ham               uint64 // lessons
	CountedSpam, CountedHam uint64 // lessons whose tokens are in the table
	Tokens                  uint64
}

func (c counts) encode() []byte {
	var b []byte
	for _, n := range []uint64{c.Spam, c.Ham, c.CountedSpam, c.CountedHam, c.Tokens} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeCounts(b []byte) (c counts) {
	for _, into := range []*uint64{&c.Spam, &c.Ham, &c.CountedSpam, &c.CountedHam, &c.Tokens} {
		if len(b) >= 8 {
			*into, b = binary.BigEndian.Uint64(b), b[8:]
		}
	}
	return c
}

// count is what is known of one token.
type count struct {
	spam, ham uint64
	day       uint64
}

func (c count) encode() []byte {
	b := binary.AppendUvarint(make([]byte, 0, 10), c.spam)
	return binary.AppendUvarint(binary.AppendUvarint(b, c.ham), c.day)
}

func decodeCount(b []byte) (c count) {
	for _, into := range []*uint64{&c.spam, &c.ham, &c.day} {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return c
		}
		*into, b = n, b[size:]
	}
	return c
}

// store is the plugin's memory. It is safe for use from many goroutines.
type store struct {
	db     *bolt.DB
	k0, k1 uint64
}

// openStore opens or makes the database in a directory. A file that another process holds is waited for.
func openStore(ctx context.Context, dir string) (*store, error) {
	wait := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	db, err := boltfile.Open(filepath.Join(dir, "bayes.db"), wait)
	if err != nil {
		return nil, fmt.Errorf("open the database of lessons: %w", err)
	}
	s := &store{db: db}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the database of lessons: %w", err), db.Close())
	}
	return s, nil
}

// open reads the key, or makes it. Without need nothing is written, so that a full disk is no reason not to start.
func (s *store) open() error {
	ready := false
	err := s.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if ready = meta != nil && meta.Get([]byte("version")) != nil && tx.Bucket(quotaBucket) != nil; ready {
			return s.read(meta)
		}
		return nil
	})
	if err != nil || ready {
		return err
	}
	return s.db.Update(s.prepare)
}

func (s *store) prepare(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(quotaBucket); err != nil {
		return err
	}
	if version := meta.Get([]byte("version")); version == nil {
		key := make([]byte, 16)
		if _, err := rand.Read(key); err != nil {
			return err
		}
		if err := errors.Join(meta.Put([]byte("version"), []byte{1}), meta.Put([]byte("key"), key)); err != nil {
			return err
		}
	}
	return s.read(meta)
}

// read takes the key out of the file.
func (s *store) read(meta *bolt.Bucket) error {
	if version := meta.Get([]byte("version")); len(version) != 1 || version[0] != 1 {
		return fmt.Errorf("it has format %v, and this program knows format 1 only", version)
	}
	key := meta.Get([]byte("key"))
	if len(key) != 16 {
		return errors.New("its key is damaged; remove bayes.db and train again")
	}
	s.k0, s.k1 = binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[8:])
	return nil
}

func (s *store) close() error { return s.db.Close() }

// database is one table of tokens inside a transaction.
type database struct {
	root, tokens, lessons, order *bolt.Bucket
	counts                       counts
}

// view opens a database for reading; nil is one that does not exist yet.
func view(tx *bolt.Tx, name string) *database {
	root := tx.Bucket([]byte(name))
	if root == nil {
		return nil
	}
	d := &database{root: root, tokens: root.Bucket(tokensBucket), lessons: root.Bucket(lessonsBucket), order: root.Bucket(orderBucket)}
	if d.tokens == nil || d.lessons == nil || d.order == nil {
		return nil
	}
	d.counts = decodeCounts(root.Get(countsKey))
	return d
}

// edit opens a database for writing and makes it if need be.
func edit(tx *bolt.Tx, name string) (*database, error) {
	root, err := tx.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return nil, err
	}
	for _, inner := range [][]byte{tokensBucket, lessonsBucket, orderBucket} {
		if _, err := root.CreateBucketIfNotExists(inner); err != nil {
			return nil, err
		}
	}
	return view(tx, name), nil
}

func (d *database) save() error { return d.root.Put(countsKey, d.counts.encode()) }

func tokenKey(hash uint64) []byte { return binary.BigEndian.AppendUint64(nil, hash) }

// tell adds a message to the table, or takes it out again.
func (d *database) tell(tokens []token, o opinion, add bool, day uint64) error {
	total := &d.counts.CountedHam
	if o == spam {
		total = &d.counts.CountedSpam
	}
	change(total, add)
	for _, t := range tokens {
		key := tokenKey(t.hash)
		old := d.tokens.Get(key)
		if old == nil && !add {
			continue // expired since
		}
		c := decodeCount(old)
		into := &c.ham
		if o == spam {
			into = &c.spam
		}
		change(into, add)
		if c.spam == 0 && c.ham == 0 {
			if err := d.tokens.Delete(key); err != nil {
				return err
			}
			change(&d.counts.Tokens, false)
			continue
		}
		if old == nil {
			d.counts.Tokens++
		}
		c.day = day
		if err := d.tokens.Put(key, c.encode()); err != nil {
			return err
		}
	}
	return nil
}

func change(n *uint64, add bool) {
	if add {
		*n++
	} else if *n > 0 {
		*n--
	}
}

func putKey(key *[8]byte, hash uint64) { binary.BigEndian.PutUint64(key[:], hash) }
