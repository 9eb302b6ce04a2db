package bayes

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// opinion is what somebody holds a message for.
type opinion byte

const (
	ham opinion = iota + 1
	spam
	disputed // two accounts disagree: it counts for nothing
)

func (o opinion) String() string {
	return [...]string{"unknown", "ham", "spam", "disputed"}[min(o, 3)]
}

// lesson is what is kept of a message that was learned, under a hash of all its tokens.
type lesson struct {
	opinion opinion
	counted bool   // its tokens are in the table
	account uint64 // hash of who said so last
	place   uint64 // key in the bucket order
}

func (l lesson) encode() []byte {
	b := []byte{byte(l.opinion), 0}
	if l.counted {
		b[1] = 1
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, l.account), l.place)
}

func decodeLesson(b []byte) (l lesson, ok bool) {
	if len(b) != 18 {
		return l, false
	}
	return lesson{opinion(b[0]), b[1] == 1, binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint64(b[10:])}, true
}

// messageKey tells messages apart by the tokens that are counted for them, so that what is taken out later
// is exactly what was put in, whatever else differs between two copies.
func messageKey(tokens []token) []byte {
	hashes := make([]uint64, len(tokens))
	for i, t := range tokens {
		hashes[i] = t.hash
	}
	slices.Sort(hashes)
	h := sha256.New()
	var b [8]byte
	for _, n := range hashes {
		binary.BigEndian.PutUint64(b[:], n)
		h.Write(b[:])
	}
	return h.Sum(nil)[:16]
}

// errQuota: an account has taught enough for a day.
var errQuota = errors.New("the account has given its lessons for today")

// learn takes the opinion of an account about a message; "" is the administrator. It is durable when learn returns. The
// result is a sentence for the log.
//
//   - A message that is known to be what the account says counts once.
//   - One that the same account, or the administrator, now holds for the opposite is taken out and counted anew.
//   - One about which another account said the opposite is taken out and disputed; a third opinion decides.
//   - One that is recognised already, by a wide margin, is noted and not counted: tokens that every message of a kind
//     has would otherwise drown those that tell kinds apart (thick threshold training, Siefkes et al. 2004).
func (s *store) learn(name, account string, o opinion, tokens []token, limits limits, now time.Time) (string, error) {
	result, full := "", false
	err := s.db.Update(func(tx *bolt.Tx) (err error) {
		result, full, err = s.learnIn(tx, name, account, o, tokens, limits, now)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("learn a message as %s: %w", o, err)
	}
	if full {
		err = s.expire(name, limits.tokens/4*3, now)
	}
	return result, err
}

// learnIn is learn inside a transaction. It reports whether the table has become too large.
func (s *store) learnIn(tx *bolt.Tx, name, account string, o opinion, tokens []token, limits limits, now time.Time) (result string, full bool, err error) {
	who := siphash(s.k0, s.k1, []byte("account\x00"+account))
	if account != "" {
		if err := takeQuota(tx, who, limits.perDay, now); err != nil {
			return "", false, err
		}
	}
	d, err := edit(tx, name)
	if err != nil {
		return "", false, err
	}
	if result, err = d.lesson(messageKey(tokens), who, account == "", o, tokens, limits, now); err != nil {
		return "", false, err
	}
	return result, d.counts.Tokens > limits.tokens, d.save()
}

func today(now time.Time) uint64 { return uint64(max(now.Unix(), 0)) / 86400 }

// takeQuota counts one more lesson of an account on this day, and forgets the days before.
func takeQuota(tx *bolt.Tx, who uint64, most uint64, now time.Time) error {
	b := tx.Bucket(quotaBucket)
	day := binary.BigEndian.AppendUint32(nil, uint32(today(now)))
	c := b.Cursor()
	for k, _ := c.First(); k != nil && string(k[:min(4, len(k))]) < string(day); k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	key := binary.BigEndian.AppendUint64(day, who)
	n := uint32(0)
	if old := b.Get(key); len(old) == 4 {
		n = binary.BigEndian.Uint32(old)
	}
	if uint64(n) >= most {
		return errQuota
	}
	return b.Put(key, binary.BigEndian.AppendUint32(nil, n+1))
}

// lesson changes the record of one message, and the table with it.
func (d *database) lesson(key []byte, who uint64, admin bool, o opinion, tokens []token, limits limits, now time.Time) (string, error) {
	l, known := decodeLesson(d.lessons.Get(key))
	switch {
	case !known:
		place, err := d.order.NextSequence()
		if err != nil {
			return "", err
		}
		l.place = place
		if err := d.order.Put(tokenKey(place), key); err != nil {
			return "", err
		}
		if err := d.forgetOldest(place, limits.lessons); err != nil {
			return "", err
		}
	case l.opinion == o:
		return "known", nil
	case l.opinion == disputed && l.account == who && !admin:
		return "disputed", nil
	}
	if known && l.opinion != disputed {
		if l.counted {
			if err := d.tell(tokens, l.opinion, false, today(now)); err != nil {
				return "", err
			}
		}
		change(d.lessonsOf(l.opinion), false)
		if l.account != who && !admin {
			l = lesson{opinion: disputed, account: who, place: l.place}
			return "disputed", d.lessons.Put(key, l.encode())
		}
	}
	change(d.lessonsOf(o), true)
	l = lesson{opinion: o, account: who, place: l.place, counted: !d.sure(tokens, o)}
	if l.counted {
		if err := d.tell(tokens, o, true, today(now)); err != nil {
			return "", err
		}
	}
	return "learned", d.lessons.Put(key, l.encode())
}

func (d *database) lessonsOf(o opinion) *uint64 {
	if o == spam {
		return &d.counts.Spam
	}
	return &d.counts.Ham
}

// sure reports whether a message is recognised without being learned. While there is little to compare with, nothing is.
func (d *database) sure(tokens []token, o opinion) bool {
	if d.counts.CountedSpam < enough || d.counts.CountedHam < enough {
		return false
	}
	e := d.evidence(tokens)
	return o == spam && e.strength > thick || o == ham && e.strength < -thick
}

// ready reports whether the database has seen enough of both kinds to speak.
func (d *database) ready(limits limits) bool {
	return d != nil && d.counts.Spam >= limits.minSpam && d.counts.Ham >= limits.minHam && d.counts.CountedSpam > 0 && d.counts.CountedHam > 0
}

// forgetOldest keeps the records of messages to the newest. The tokens of those that go stay counted.
func (d *database) forgetOldest(newest, most uint64) error {
	c := d.order.Cursor()
	for k, key := c.First(); k != nil && len(k) == 8 && binary.BigEndian.Uint64(k)+most <= newest; k, key = c.First() {
		if err := d.lessons.Delete(key); err != nil {
			return err
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}
