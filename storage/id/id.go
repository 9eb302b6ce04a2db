// Package id makes the identifiers of accounts, contents and stored messages: ten octets that sort by the time of their
// making, written as sixteen characters that a person can read aloud.
//
// An ID is 48 bits of milliseconds since 1970, most significant octet first, and 32 bits that are random at first and
// count up while the millisecond stays the same (or the clock goes back), so that the IDs of one process always rise. Two
// processes never share a store, so 32 random bits a millisecond are there against restarts with a clock that was set
// back, not against an opponent: an ID is a name and never a secret.
package id

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Size is the number of octets of an ID.
const Size = 10

// ID names an account, a content or a message; the zero ID names nothing.
type ID [Size]byte

// Crockford's alphabet has no I, L, O and U, and sorts like the octets it stands for.
var encoding = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// String returns the 16 characters of Crockford's base32 in upper case.
func (i ID) String() string { return encoding.EncodeToString(i[:]) }

// IsZero says whether i names nothing.
func (i ID) IsZero() bool { return i == ID{} }

// Time returns when i was made, to the millisecond.
func (i ID) Time() time.Time {
	var b [8]byte
	copy(b[2:], i[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:])))
}

// ErrMalformed is what Parse wraps.
var ErrMalformed = errors.New("not an identifier of 16 characters")

// Parse reads what String wrote, in upper or lower case; O is read as 0, and I and L as 1.
func Parse(s string) (ID, error) {
	var out ID
	if len(s) != 16 {
		return out, fmt.Errorf("%.20q: %w", s, ErrMalformed)
	}
	var up [16]byte
	for i := range up {
		c := s[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		switch c {
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		case '\r', '\n': // the decoder would pass over them
			c = '!'
		}
		up[i] = c
	}
	if _, err := encoding.Decode(out[:], up[:]); err != nil {
		return ID{}, fmt.Errorf("%.20q: %w", s, ErrMalformed)
	}
	return out, nil
}

// Source makes IDs that rise. It may be used from any goroutine; the zero Source is ready for use.
type Source struct {
	mu     sync.Mutex
	millis uint64
	low    uint32
}

// New returns an ID for the moment now, larger than every ID that s returned before.
func (s *Source) New(now time.Time) ID {
	millis := uint64(max(now.UnixMilli(), 0)) & (1<<48 - 1)
	s.mu.Lock()
	if millis > s.millis {
		var r [4]byte
		rand.Read(r[:]) // never fails: the runtime ends the process instead
		s.millis, s.low = millis, binary.BigEndian.Uint32(r[:])
	} else if s.low++; s.low == 0 { // the same millisecond or a clock that went back
		s.millis++
	}
	millis, low := s.millis, s.low
	s.mu.Unlock()

	var out ID
	out[0], out[1] = byte(millis>>40), byte(millis>>32)
	binary.BigEndian.PutUint32(out[2:], uint32(millis))
	binary.BigEndian.PutUint32(out[6:], low)
	return out
}
