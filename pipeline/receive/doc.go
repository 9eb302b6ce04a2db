// Package receive takes mail in: SMTP (RFC 5321), submission (RFC 6409) and LMTP (RFC 2033), on emersion/go-smtp behind a
// connection of our own.
//
// # Promises
//
//   - A 250 to the end of a message is the pipeline's: receive never says it by itself. A peer that goes away, in DATA or
//     in BDAT or while the filters work, leaves nothing behind (RULES A11).
//   - What ends a message is CRLF.CRLF and nothing else; content is never parsed as commands, whatever went wrong.
//   - The octets that are spooled are those that came, without the dots of transparency, and, from our own people and by
//     LMTP, with bare LF made CRLF (RULES A5). What receive adds (Received; Date and Message-ID for submission) and takes
//     away (Return-Path; Bcc for submission) are changes of the message's version, not of its octets.
//   - What a login may say in From and Sender is checked, and so is that these and Bcc are written so that every reader takes
//     them for what they are.
//   - Plugins that want to be are asked before the greeting, at MAIL and at RCPT, by the pipeline, and their opinion about the
//     connection stays with it until it ends. Where no plugin wants to be, nothing is asked, waited for or kept.
//   - Commands are taken in RFC 5321's order. Replies have enhanced codes (RFC 2034) and never the text of an inner error.
//   - Every read and write has a deadline, every line, header, message, recipient list and connection a limit. A
//     connection takes about 16 KiB, most of it the library's two buffers and a goroutine's stack, and some 14 more under
//     TLS; after a second without a command, and without a login, the library is out of it (rest.go) and 8 KiB are left.
//     While it sends it has a buffer of 16 KiB from a pool, and the spool, which has a budget shared by all.
//
// It owns the connection from Accept to Close and each message until Pipeline.Submit, nothing durable. It reads from
// strangers: commands (command.go, path.go), content (scan.go); both have fuzz targets.
//
// # How it stands on the library
//
// The library parses commands, keeps the state of the session and writes most replies. What it lacks or does otherwise
// than we need (LIBRARIES section 1) is done without changing it:
//
//   - Each connection has an smtp.Server of its own, over a listener that accepts once. So what EHLO offers can be the
//     connection's (no STARTTLS after STARTTLS), and the library's server-wide state and its Shutdown are out of the game.
//   - Between the library and the connection stands a net.Conn of ours, the gate, above TLS. TLS is made by the gate, with
//     a deadline; a failed handshake closes; whatever came behind STARTTLS in the clear closes; the client has to say EHLO
//     again. The library has AllowInsecureAuth set and offers what Session.AuthMechanisms returns: nothing without TLS.
//   - The gate gives the library one line at a time. So when Session.Data is called the library holds nothing of the
//     content, and the content is read from the gate's buffer by our reader (scan): twenty times as fast, right about
//     CR CR LF, exact about max_size, with a deadline for each read and for the whole. Then the library is given ".CRLF"
//     and sees the end of data. No octet of content passes through the library, so its line limit, its timeout and its
//     taking a body for commands after an error cannot happen. BDAT goes through the library's pipe; the gate counts the
//     chunk and tells a dropped connection from the end of a chunk.
//   - What must not reach the library the gate answers itself: commands out of order (503), a second MAIL, unknown verbs
//     and parameters, malformed addresses, lines that are too long or end in a bare LF or hold control characters, AUTH
//     where it is not offered, BDAT whose chunk the library would not read; HTTP, which is closed without a word. Blanks
//     at the end of a command are dropped. RCPT TO:<Postmaster> is given to the library as postmaster@HOSTNAME, and the
//     pipeline gets "postmaster". Addresses are the gate's own reading: the library's have lost their quotes.
//   - Replies are gathered and written when the next read would wait, so pipelined commands cost one write. They are never
//     rewritten; the queue ID comes into the 250 through the library's own *smtp.SMTPError.
//   - A deadline is set where something is waited for, not where the library thinks; its own are off.
//
// Left as the library has it, since it cannot be reached from outside without rewriting replies on the wire:
//
//   - Texts that RFC 5321 section 4.2 begins with our domain do not have it: "Hello CLIENT" to EHLO and HELO, "Bye" to
//     QUIT, the 421 after a panic. The greeting and our own 421 have it.
//   - 235 comes with 2.0.0 instead of 2.7.0 (RFC 4954 section 6); a malformed AUTH parameter of MAIL gets 500, not 501.
//   - A login is for the rest of the connection, so STARTTLS after AUTH is refused (503) instead of forgetting it.
//   - The sender and recipients are repeated in the 250 to MAIL and RCPT, quotes lost; nobody parses that.
//
// # Failures
//
// To the peer: a reply from the tables in reply.go and command.go. To the log: one line for each message, login and
// connection that was turned away, with the session's ID. A panic in a callback is the library's to recover (421), one in
// the gate the gate's.
//
// RFCs: 5321, 1870 (SIZE), 2033 (LMTP), 2034 and 3463 (enhanced codes), 2920 (PIPELINING), 3030 (CHUNKING), 3207 (STARTTLS),
// 3461 (DSN), 3848 ("with"), 4954 (AUTH), 6152 (8BITMIME), 6409 (submission), 6531 (SMTPUTF8), 9422 (LIMITS).
package receive
