package receive

import (
	"context"
	"crypto/tls"
	"time"
)

// startTLS answers STARTTLS (RFC 3207) without the library, which would go on in the clear after a failed handshake and
// gives that no deadline.
func (g *gate) startTLS(_, arg string) {
	o := &g.server.options
	switch {
	case arg != "":
		g.fail(501, "5.5.4", "STARTTLS takes no argument")
	case g.tls != nil:
		g.outOfOrder("TLS is running already")
	case g.server.tls == nil:
		g.fail(502, "5.5.1", "There is no TLS here")
	case g.session.tx != nil:
		g.outOfOrder("Not in the middle of a message")
	case g.session.login != "":
		// What was known before the handshake has to be forgotten, and the library cannot forget a login.
		g.outOfOrder("STARTTLS comes before AUTH")
	case g.r < g.w:
		// Whoever is between the client and us could have put these octets there, to be taken for the client's own
		// under TLS (CVE-2011-0411).
		g.log("connection closed", "why", "data was sent behind STARTTLS")
		g.die("554 5.5.1 " + o.Hostname + " Nothing may follow STARTTLS before the handshake")
	default:
		g.reply(220, "2.0.0", "Ready to start TLS")
		g.flush(writeTime)
		g.handshake()
		g.greeted = false // RFC 3207 section 4.2: the client has to say EHLO again
		g.verb = ""
	}
}

// handshake puts TLS between the connection and the gate.
func (g *gate) handshake() {
	if g.dead {
		return
	}
	if g.server.tls == nil {
		g.die("")
		return
	}
	conn := tls.Server(g.raw, g.server.tls)
	ctx, cancel := context.WithTimeout(g.server.base, handshakeTime)
	defer cancel()
	_ = g.raw.SetDeadline(time.Now().Add(handshakeTime)) // what was set for the command before is about to pass
	if err := conn.HandshakeContext(ctx); err != nil {
		g.log("connection closed", "why", "TLS handshake failed", "err", err)
		g.dead = true // what is on the wire now is neither SMTP nor TLS
		return
	}
	_ = g.raw.SetDeadline(time.Now().Add(handshakeTime))
	state := conn.ConnectionState()
	g.conn, g.tls = conn, &tls.ConnectionState{Version: state.Version, CipherSuite: state.CipherSuite}
	g.lib.TLSConfig = nil // the EHLO of this connection offers STARTTLS no more
}

// serverTLS returns the configuration that is used: ALPN so that a browser which was led here fails (ALPACA), and no
// session tickets, on which some senders' libraries fail with Go (golang/go 70232).
func serverTLS(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.SessionTicketsDisabled = true
	c.NextProtos = []string{"smtp"}
	return c
}
