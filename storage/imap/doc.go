// Package imap serves mailboxes by IMAP4rev1: emersion/go-imap's imapserver parses
// commands and writes simple replies; store, sockets, FETCH and SEARCH are ours.
//
// # Promises
//
// Nothing that a crash could take back is shown: before an EXISTS, UID, flag,
// UIDVALIDITY or tagged OK leaves, the account's position is durable (RULES B1).
// FETCH reads only the octets that it sends, streamed from the store; ENVELOPE
// and BODYSTRUCTURE come from the stored mime.Summary. No reply holds an octet
// over 127 outside of literals unless the client enabled UTF8=ACCEPT.
//
// # How a connection is built
//
//	TCP or TLS -- wire -- imapserver.Conn -- session -- storage.Store
//
// A wire is the net.Conn that the library sees. It always carries clear text: TLS
// lies below it, with our own handshake and deadlines, so that the guard sees
// every command. The guard hands the library one complete line at a time, follows
// literals as the library accepts or refuses them, and cuts the connection where
// the library would go on to parse a message body as commands. Output is held
// back until the next read that has to wait, or 16 KiB.
//
// STARTTLS is answered by the wire: one library connection ends, the handshake is
// made, and another one begins on a server that allows logins, its greeting
// swallowed.
//
// A client that is silent for a second, or in IDLE for a tenth of one, costs a
// goroutine with 4 KiB of stack and about 3 KiB beside it: its connection rests, without
// the library, which begins anew when something comes (rest.go).
//
// A session that selected a mailbox shares the store's immutable UID sequence of
// one mailbox version and learns what changed since when it may tell the client
// (between commands, in IDLE, after EXPUNGE). It keeps no list of its own.
//
// # Untrusted input
//
// Everything from the client and everything in messages. Bounds: 48 KiB a command
// without literals, 64 literals and 64 KiB of them in a command that is no
// APPEND, 4 KiB a non-synchronizing literal (LITERAL-), 100 body sections a FETCH,
// nesting of SEARCH, the octets that a SEARCH reads, and Options.
//
// # What can fail
//
// A store that answers with an error is NO with a code (RFC 5530) and a line in
// the log; a body that cannot be read after its literal began closes the
// connection, since the stream would be out of step.
//
// # What cannot be had from outside the library
//
// Known, and left until the wire is ours (storage/imapwire): commands over 48 KiB
// (long UID sets) end the connection; an unknown command before the login does
// too; SEARCHRES, and so IMAP4rev2, are not offered, since RETURN (SAVE) is taken
// for ALL; ENABLE IMAP4rev2 is accepted all the same; unknown search keys are
// answered NO [SERVERBUG] and not BAD; one message an APPEND; literals over 4 KiB
// have to be synchronizing; the greeting's text is fixed; each session that does
// not rest holds two buffers of 4 KiB; commands run one at a time;
// no CONDSTORE, QRESYNC, SORT, THREAD, QUOTA, ID, NOTIFY (LIBRARIES 2.2).
//
// RFC 3501, 2177 (IDLE), 2342 (NAMESPACE), 3348 (CHILDREN), 3516 (BINARY), 3691
// (UNSELECT), 4315 (UIDPLUS), 4731 (ESEARCH), 4959 (SASL-IR), 5161 (ENABLE), 5258
// (LIST-EXTENDED), 5530, 5819 (LIST-STATUS), 6154 (SPECIAL-USE), 6851 (MOVE), 6855
// (UTF8=ACCEPT), 7888 (LITERAL-), 7889 (APPENDLIMIT), 8438 (STATUS=SIZE).
package imap
