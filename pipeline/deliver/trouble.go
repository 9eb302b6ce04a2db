package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// trouble is why a server, or one address of it, took nothing from us: the next one may be tried. It is no answer about a message.
type trouble struct {
	name   string // of the server
	remote string // its plain name
	text   string // what happened, clean
	reply  wire.Reply
	status string // enhanced status code
	tls    string
	never  bool // it takes no mail at all, or not this message ever
	pace   pipeline.Pace
}

// line is what stands in the trace.
func (t *trouble) line() string {
	if t.name == "" {
		return t.text
	}
	return t.name + ": " + t.text
}

func (d *dialer) trouble(text, status string) *trouble {
	return &trouble{name: d.name(), remote: d.target.String(), text: text, status: status, pace: pipeline.PaceWait}
}

// lost is a connection that was not made, or ended.
func (d *dialer) lost(doing string, err error, status string) *trouble {
	return d.trouble(doing+": "+cause(err), status)
}

// unsafe is a connection that is not protected as the policy wants: later it may be. The policy is that of the domain, and others
// with the same servers do not wait for it, but for a relay's.
func (d *dialer) unsafe(text string, err error) *trouble {
	t := d.trouble(text, "4.7.5")
	if !d.a.plan.fixed {
		t.pace = pipeline.PaceSame
	}
	var policy *tlspolicy.Error
	if errors.As(err, &policy) && policy.Status != "" {
		t.status = policy.Status
	}
	return t
}

// ofTLS says why there is no TLS, as cause does: errors of the network have our address and port in them, and this goes into notices.
func ofTLS(err error) string {
	var handshake *wire.HandshakeError
	if errors.As(err, &handshake) {
		return "TLS handshake: " + cause(handshake.Err)
	}
	return cause(err)
}

// refused is a server that turns the connection away. Only 521 says for certain that it never takes mail (RFC 7504); 554 in the
// greeting (RFC 5321 section 3.1) is what a list that has us by mistake says too, or a server that is being worked on, and
// would return all that waits for it.
func (d *dialer) refused(at string, reply wire.Reply) *trouble {
	t := d.trouble(at+": "+reply.String(), statusOf(reply, atHello))
	t.reply = reply
	t.never = reply.Code == 521
	if reply.Temporary() {
		t.pace = pipeline.PaceSlow // 421 as a greeting: too many connections, in most cases
	}
	if t.never {
		t.pace = pipeline.PaceNever
	}
	return t
}

// cause returns why a connection failed, without the addresses that stand elsewhere.
func cause(err error) string {
	var op *net.OpError
	var call *os.SyscallError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "it took too long"
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return "the connection was closed"
	case errors.Is(err, context.Canceled):
		return "given up"
	case errors.As(err, &call):
		return clean(call.Err.Error())
	case errors.As(err, &op):
		return clean(fmt.Sprint(op.Err))
	}
	return clean(err.Error())
}
