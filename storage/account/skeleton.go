package account

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/storage/id"
)

var errNotBuilt = errors.New("not built yet")

// Errors that callers tell apart with errors.Is.
var (
	ErrUnknown     = errors.New("no such account")
	ErrExists      = errors.New("the account exists already")
	ErrAddress     = errors.New("this is not a possible account address")
	ErrPassword    = errors.New("this is not a possible password")
	ErrCredentials = errors.New("wrong address or password")                // a permanent refusal of this login
	ErrBusy        = errors.New("too many logins at once, try again later") // temporary
	ErrBlocked     = errors.New("too many failed logins, try again later")  // temporary, for this peer
)

// Account is an account as the directory knows it.
type Account struct {
	ID      id.ID
	Address string // as it was written when the account was made
	Created time.Time
	Quota   int64    // octets; 0: none
	SendAs  []string // further addresses that it may send from
}

// Config is the table [login].
type Config struct{}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{} }

// Directory knows who exists and how they prove it. Its methods may be called from any goroutine.
type Directory struct{}

// Lookup returns the account of an address (compared without case), or ErrUnknown.
func (d *Directory) Lookup(ctx context.Context, address string) (Account, error) {
	return Account{}, errNotBuilt
}

// List visits all accounts in the order of their addresses.
func (d *Directory) List(ctx context.Context, visit func(Account) (more bool, err error)) error {
	return errNotBuilt
}

// SetPassword replaces the password, durable when it returns; remembered logins are forgotten.
func (d *Directory) SetPassword(ctx context.Context, address, password string) error {
	return errNotBuilt
}

// Verify checks a login from peer: ErrCredentials, ErrBusy, ErrBlocked or the context's error when it fails.
func (d *Directory) Verify(ctx context.Context, address, password string, peer netip.Addr) (Account, error) {
	return Account{}, errNotBuilt
}
