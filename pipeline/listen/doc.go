// Package listen is the listener that SMTP, IMAP and POP3 share: it decides who may connect, and says who they are.
//
// Wrap puts it around a plain net.Listener. Its Accept returns a *Conn, whose RemoteAddr is the client's address by
// RULES D3: what the PROXY header says where the TCP peer is in proxy_from, otherwise the TCP peer. So a server that only
// knows net.Listener (IMAP and POP3 live below storage, which may not import the pipeline) gets all of this unaware.
//
// What it promises:
//
//   - At most max_connections connections are open, and at most max_connections_per_address from one client address
//     (an IPv6 client is its /64); loopback and trusted clients are exempt from the second. One over the limit is told
//     so in the protocol's own words and closed; it never waits.
//   - A peer in proxy_from has to send a PROXY header, version 1 or 2, within five seconds, else it is closed. Accept
//     never waits for it: each such connection is read in a goroutine of its own, which counts against max_connections.
//     PROXY LOCAL and UNKNOWN (health checks) keep the TCP peer's address and are never trusted.
//   - A peer that is not in proxy_from and begins with a PROXY header is closed as soon as that can be seen.
//   - max_session ends every connection, whatever deadline the server above sets.
//   - When the process runs out of descriptors, accepting pauses with a growing delay instead of spinning, and goes on
//     by itself; Stats tells readiness checks about it.
//   - Close stops accepting; connections live on until their servers end them, CloseConns ends them, and Wait waits.
//
// It reads from strangers: the PROXY header, with pires/go-proxyproto, from proxy_from only (fuzzed here), and up to twelve
// first octets of everybody else, which it only compares.
//
// It does no TLS. A server that wants TLS from the first octet wraps the Listener with tls.NewListener, since the PROXY
// header comes before the handshake.
package listen
