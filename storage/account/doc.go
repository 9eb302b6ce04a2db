// Package account knows who exists and how they prove it (RULES B7).
//
// Directory finds accounts by address, through a bounded cache, and verifies passwords. It writes the keys
// system/address/ADDRESS, account/ID 'a' and account/ID 'c' (FORMAT.md) and nothing else; storage makes and removes
// accounts with it.
//
// # Addresses
//
// An address names an account without regard to case (RULES A10): the local part is put into NFC and lower case, the domain
// into lower-case A-labels. Subaddresses and aliases are not this package's business.
//
// # Passwords
//
// A credential holds argon2id (19 MiB, t=2, p=1) and the keys of SCRAM-SHA-256 (RFC 5802, 7677), so that both ways of
// logging in work from one record. Passwords are prepared by PRECIS OpaqueString (RFC 8265). They, and whatever derives
// from them, are never logged and never part of an error.
//
// At most GOMAXPROCS hashes are computed at once; who waits too long gets ErrBusy, a temporary failure. A verified login is
// remembered for ten minutes under an HMAC with a key of this process, which covers the credential's serial: a change makes
// it worthless. Unknown accounts cost the same time as a wrong password.
//
// # Guessing
//
// Wrong passwords are counted for each peer (an IPv6 /64 is one) and for each pair of account and peer; the same one again for the
// same pair counts once, and is answered without a hash until some account changes. After 5 for a pair, or 20 for a peer, every
// further attempt waits, twice as long each time, and after five of those it is refused with ErrBlocked. One failure is forgotten
// every 90 s (of a pair) or 36 s (of a peer), so that nothing is left of any after a quarter of an hour. No more attempts are under
// way at a time than could fail for nothing; the others wait for these. Nothing is counted for an account as such, so nobody
// elsewhere can lock its owner out.
//
// The password that worked last for a pair is let in whatever else is refused there: others behind the same address cannot lock
// out somebody who was here before, except by trying 20 more passwords for that very account within a quarter of an hour, because
// without an end to these comparisons they could guess for ever. Known good passwords are remembered as an HMAC under a key of
// this process, as many as remembered logins.
//
// Of peers in Config.Trusted many people share the address: there is no count of the peer, and what is over the limits
// of a pair is held back and not refused, five attempts at a time.
//
// Unknown accounts are counted and answered like known ones. Counters live in bounded memory, and one line of the log tells
// that a refusal began.
package account
