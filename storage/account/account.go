package account

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
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
	b = codec.AppendString(b, a.Address)
	return codec.AppendStrings(b, a.SendAs)
}

// DecodeRecord reads an account's record.
func DecodeRecord(i id.ID, value []byte) (Account, error) {
	d := codec.Record(value, recordVersion)
	a := Account{ID: i}
	a.Created = time.Unix(d.Int(), 0).UTC()
	a.Quota = int64(d.Uint() & (1<<63 - 1))
	a.Address = d.String()
	if a.SendAs = d.Strings(); len(a.SendAs) > maxSendAs {
		d.Fail()
	}
	if d.Bad() {
		return Account{}, d.End("account " + i.String())
	}
	return a, nil
}
