// Package wire is the client's side of SMTP (RFC 5321) and LMTP (RFC 2033) over one connection that is already there. It
// knows the protocol and no policy: whom to connect to, whether TLS is demanded, what a reply means for a message, and
// whether a connection is used again are decided by its caller, package deliver.
//
// A connection goes through
//
//	New -> Greet -> Hello -> [StartTLS -> Hello] -> [Login] -> Send, Send, ... -> Quit
//
// What it promises:
//
//   - The peer is a stranger. A line of a reply has 8 KiB at most, a whole reply 64 KiB and 128 lines; what is longer ends
//     the connection. What a peer said is handed on as printable ASCII in one line of at most 500 octets (Reply).
//   - Every wait ends: each reply and each block written has the time of RFC 5321 section 4.5.3.2 (Times), never longer than
//     the deadline given to Bind, and the end of Bind's context ends it at once.
//   - What is sent is ours. Addresses and parameters are checked and quoted anew when they are written, so nothing in them can end a
//     command. Content goes out as lines that end in CRLF: a CR or LF that stands alone is found before the first octet leaves
//     (Scan), and a line that begins with a dot gets another (RFC 5321 section 4.5.2), so no content ends before its end and no
//     server can be made to see two messages in one (SMTP smuggling).
//   - Nothing that the peer sent before the TLS handshake counts after it: octets behind its reply to STARTTLS end the connection
//     (RFC 3207 section 5), and EHLO is said again (section 4.2).
//
// Round trips. With PIPELINING (RFC 2920) MAIL, RCPT and DATA go in one write, and the content in a second: two round trips
// a message. RCPTs are sent in windows whose replies are read before the next one, so that neither side waits for the other
// to read. If a peer takes no recipient and says 354 all the same, it gets a lone dot (RFC 2920 section 3.1).
//
// BDAT (RFC 3030) would need one round trip if it followed RCPT in the same write, but section 2 has the client read the
// replies to MAIL and RCPT first, and servers were built that rely on it; and what follows a refused MAIL would travel for
// nothing. So it saves no round trip over pipelined DATA. It saves the peer the search for the final dot (a fifth of both
// sides' CPU for a message of 1 MiB, nothing worth having for 64 KiB: BenchmarkLarge), and it can end without CRLF: it is
// used for content from ChunkFrom octets on, and for content whose last line has no CRLF, which DATA would have to add. One
// chunk, with LAST: chunks in between would make a peer that refuses at the first one no quicker, since its reply is read at
// the end.
//
// Errors are of the connection (it ended, or the peer broke the protocol); what a server says to a message is a Reply. After an
// error, and after a reply of 421, Usable is false.
//
// A Conn belongs to one goroutine; only the context of Bind acts from outside.
package wire
