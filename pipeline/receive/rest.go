package receive

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"time"

	"github.com/emersion/go-smtp"
)

// restAfter is how long a client is silent before its connection rests. What a
// connection needs to begin again is a few microseconds, once.
const restAfter = time.Second

// A connection whose client is silent between two messages costs a goroutine with a deep stack and the library's buffers of
// 8 KiB, which are most of what it takes. So after a while it rests: the library is told that the connection has ended, and
// a goroutine of ours waits for the next octet. When that comes the library begins anew on the same gate and session. What it
// knew, that there was a greeting and an EHLO, it is told again; its answers to that are not the client's.
//
// A login is the library's alone to remember, so a connection with one does not rest; nor does one inside a transaction or
// in the middle of a line.

// pause waits for the client's next command, at most so long as a connection does not rest. It reports true when the library
// has to go.
func (g *gate) pause() bool {
	after, idle := g.server.options.restAfter, g.server.options.Limits.IdleTimeout.Std()
	if g.r < g.w || g.sasl || g.session.login != "" || !g.session.idle() || idle <= after {
		return false
	}
	now := time.Now()
	g.flush(writeTime)
	g.room()
	if g.dead || !g.arm(now.Add(after)) {
		return false // what follows sees it too
	}
	g.lineBy = now.Add(idle)
	n, err := g.conn.Read(g.buf)
	g.w = n
	var ne net.Error
	if n > 0 || !errors.As(err, &ne) || !ne.Timeout() || g.isStopping() {
		return false
	}
	g.resting = true
	return true
}

// rest waits for a client that is silent, on a goroutine of its own, and then gives the connection to a new library server.
func (g *gate) rest() {
	defer func() {
		if p := recover(); p != nil { // the library has no part in this
			g.server.options.Logger.Error("panic", "session", g.id, "stage", "receive", "why", fmt.Sprint(p), "stack", string(debug.Stack()))
			g.die("")
			_ = g.Close()
		}
	}()
	g.out = nil
	if err := g.wait(g.lineBy); err != nil {
		_ = g.Close()
		return
	}
	g.again = nil
	if g.greeted {
		verb := "HELO "
		switch {
		case g.server.options.Protocol == LMTP:
			verb = "LHLO "
		case g.esmtp:
			verb = "EHLO "
		}
		g.again = []byte(verb + g.session.helo + "\r\n")
		g.verb, g.pendingHelo = verb[:4], g.session.helo
	}
	g.mute = true
	g.serve()
}

// serve gives the connection to a library server of its own, which runs it in a goroutine of its own.
func (g *gate) serve() {
	o := &g.server.options
	lib := smtp.NewServer(smtp.BackendFunc(g.newSession))
	lib.Domain = o.Hostname
	lib.LMTP = o.Protocol == LMTP
	lib.MaxRecipients = o.Config.MaxRecipients
	lib.MaxMessageBytes = o.Config.MaxSize.Int64()
	lib.MaxLineLength = 0 // it would hold for content too; the gate has limits of its own
	lib.EnableSMTPUTF8, lib.EnableDSN, lib.EnableREQUIRETLS = true, true, true
	lib.AllowInsecureAuth = true // the gate knows about TLS, the library does not
	lib.ErrorLog = g.server.errors
	if !o.ImplicitTLS && g.tls == nil {
		lib.TLSConfig = g.server.tls // only so that EHLO offers STARTTLS
	}
	g.lib = lib
	_ = lib.Serve(&once{conn: g}) // starts the goroutine and returns
}

// once is a listener with one connection.
type once struct{ conn net.Conn }

func (o *once) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	return nil, io.EOF
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// newSession is the library's call at the first EHLO.
func (g *gate) newSession(*smtp.Conn) (smtp.Session, error) {
	g.session.greet()
	return g.session, nil
}
