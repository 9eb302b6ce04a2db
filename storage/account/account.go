package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/storage/id"
)

// Errors that callers tell apart with errors.Is.
var (
	ErrUnknown     = errors.New("no such account")
	ErrExists      = errors.New("the account exists already")
	ErrAddress     = errors.New("this is not a possible address of an account")
	ErrPassword    = errors.New("this is not a possible password")
	ErrCredentials = errors.New("wrong address or password")
	ErrBusy        = errors.New("too many logins at once, try again later")
	ErrBlocked     = errors.New("too many failed logins, try again later")

	errCorrupt = errors.New("the stored value is damaged")
)

// Temporary says whether a login that failed with err may succeed later with the same password: the peer is told to try
// again, not that its password is wrong.
func Temporary(err error) bool { return err != nil && !errors.Is(err, ErrCredentials) }

// Account is an account as the directory knows it.
type Account struct {
	ID      id.ID
	Address string // as it was written when the account was made
	Created time.Time
	Quota   int64    // octets; 0: none
	SendAs  []string // further addresses that it may send from
}

// Keys of this package (FORMAT.md).
const (
	prefixAddress = "system/address/"
	prefixAccount = "account/"
	kindRecord    = 'a'
	kindCred      = 'c'
)

func accountKey(a id.ID, kind byte, tail string) []byte {
	b := make([]byte, 0, len(prefixAccount)+id.Size+1+len(tail))
	b = append(b, prefixAccount...)
	b = append(b, a[:]...)
	b = append(b, kind)
	return append(b, tail...)
}

// RecordKey is the key of an account's record, which DecodeRecord reads.
func RecordKey(a id.ID) []byte { return accountKey(a, kindRecord, "") }

const (
	recordVersion = 1
	maxSendAs     = 100
)

// appendRecord encodes a (FORMAT.md, "account").
func appendRecord(b []byte, a *Account) []byte {
	b = append(b, recordVersion)
	b = binary.AppendVarint(b, a.Created.Unix())
	b = binary.AppendUvarint(b, uint64(a.Quota))
	b = appendString(b, a.Address)
	b = binary.AppendUvarint(b, uint64(len(a.SendAs)))
	for _, s := range a.SendAs {
		b = appendString(b, s)
	}
	return b
}

// DecodeRecord reads an account's record.
func DecodeRecord(i id.ID, value []byte) (Account, error) {
	d := decoder{b: value}
	if d.byte() != recordVersion {
		d.bad = true
	}
	a := Account{ID: i}
	a.Created = time.Unix(d.int(), 0).UTC()
	a.Quota = int64(d.uint() & (1<<63 - 1))
	a.Address = string(d.bytes())
	n := d.uint()
	if n > maxSendAs {
		d.bad, n = true, 0
	}
	for range n {
		a.SendAs = append(a.SendAs, string(d.bytes()))
	}
	if d.bad {
		return Account{}, fmt.Errorf("read account %s: %w", i, errCorrupt)
	}
	return a, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads a value; after the first problem it reads zeros and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}
