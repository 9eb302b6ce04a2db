package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Greet reads the server's greeting (RFC 5321 section 3.1). A reply that is not 2yz is returned as it is.
func (c *Conn) Greet() (Reply, error) {
	name := ""
	first := true
	r, err := c.readReply(c.times.Greeting, func(line []byte) {
		if first {
			word, _, _ := bytes.Cut(line, []byte(" "))
			name = cleaned(word, 255)
			first = false
		}
	})
	if err != nil {
		return r, fmt.Errorf("read the greeting: %w", err)
	}
	if r.Code/100 == 3 {
		return r, c.fail(&ProtocolError{What: errClass, Got: r.String()})
	}
	c.Name = name
	return r, nil
}

// Hello says EHLO, or LHLO, and learns what the server offers. A server that does not know EHLO (500, 502, 504, RFC 5321
// section 4.1.4) is told HELO. With one that closes at EHLO, HelloOld may work
// on a new connection. A TLS handshake that the server ends only now is a *HandshakeError.
func (c *Conn) Hello() (Reply, error) {
	verb := "EHLO "
	if c.options.LMTP {
		verb = "LHLO "
	}
	x := Extensions{ESMTP: true}
	first := true
	c.queue(verb, c.options.Hostname, "\r\n")
	err := c.flush(c.times.Hello)
	var r Reply
	if err == nil {
		r, err = c.readReply(c.times.Hello, func(line []byte) {
			if !first {
				x.parse(line)
			}
			first = false
		})
	}
	switch {
	case err != nil && c.tls != nil && alert(err):
		return r, &HandshakeError{err}
	case err != nil:
		return r, fmt.Errorf("say %s: %w", strings.TrimSpace(verb), err)
	case r.OK():
		c.Extensions, c.saidHello = x, true
		return r, nil
	case !c.options.LMTP && c.tls == nil && (r.Code == 500 || r.Code == 502 || r.Code == 504):
		return c.HelloOld()
	}
	return r, c.odd(r)
}

// HelloOld says HELO: a server that knows no extensions.
func (c *Conn) HelloOld() (Reply, error) {
	r, err := c.ask(c.times.Hello, "HELO "+c.options.Hostname)
	if err != nil {
		return r, fmt.Errorf("say HELO: %w", err)
	}
	if r.OK() {
		c.Extensions, c.saidHello = Extensions{}, true
		return r, nil
	}
	return r, c.odd(r)
}

// odd turns a 3yz where it makes no sense into an error.
func (c *Conn) odd(r Reply) error {
	if r.Code/100 == 3 {
		return c.fail(&ProtocolError{What: errClass, Got: r.String()})
	}
	return nil
}

// StartTLS asks for TLS (RFC 3207) and makes the handshake with the configuration, which is not changed. A reply that is
// not 220 is returned as it is, and the connection goes on without TLS; after an error it is broken. Hello has to follow.
func (c *Conn) StartTLS(ctx context.Context, config *tls.Config) (Reply, error) {
	r, err := c.ask(c.times.Hello, "STARTTLS")
	if err != nil {
		return r, fmt.Errorf("say STARTTLS: %w", err)
	}
	if r.Code != 220 {
		return r, c.odd(r)
	}
	if len(c.in) > 0 { // somebody in between may have put them there, to be taken for what TLS protects
		return r, c.fail(&ProtocolError{What: errInjected, Got: cleaned(c.in, 80)})
	}
	if err := c.limit(c.times.TLS); err != nil {
		return r, c.fail(err)
	}
	t := tls.Client(c.raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return r, c.fail(&HandshakeError{err})
	}
	state := t.ConnectionState()
	c.conn, c.tls, c.in = t, &state, nil
	c.Extensions, c.saidHello = Extensions{}, false
	return r, nil
}

// alert reports whether the peer ended TLS with an alert. In TLS 1.3 its handshake ends after ours: what it refuses then, for want of a
// certificate of ours for one, arrives in place of the first reply.
func alert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// HandshakeError says that TLS could not be agreed on: the certificate was refused, or the two have nothing in common, or the
// connection ended in the middle of it.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Err.Error() }

func (e *HandshakeError) Unwrap() error { return e.Err }
