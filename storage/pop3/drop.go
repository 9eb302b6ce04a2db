package pop3

import (
	"context"
	"io"
	"net/netip"
)

// backend is what a server needs from the store. Its methods are called from
// many goroutines. They return the errors of reply.go for what a client can do
// something about; every other error counts as temporary. A method returns soon
// after its context ends.
type backend interface {
	// login proves who the user is and returns the account's stable name.
	login(ctx context.Context, user, password string, peer netip.Addr) (owner string, err error)

	// open reads an account's maildrop. What it lists is durable.
	open(ctx context.Context, owner string) (maildrop, error)
}

// maildrop is a fixed list of messages. It belongs to one session.
type maildrop interface {
	messages() []message

	// open returns the octets of message i, or errGone if it was removed meanwhile.
	// The caller closes it.
	open(ctx context.Context, i int) (content, error)

	// remove removes messages by index; one that is already gone is no error. nil
	// means that all are removed and that this is durable.
	remove(ctx context.Context, which []int) error
}

// message is what a listing shows.
type message struct {
	size int64  // octets
	uidl string // 1 to 70 octets from 0x21 to 0x7E (RFC 1939 section 7)
}

// content is the octets of one message.
type content interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
