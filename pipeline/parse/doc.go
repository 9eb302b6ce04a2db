// Package parse makes the shared parse of a message (RULES C7): its parts with decoded
// names and types, the text of its text parts, the URLs in them, and a list of what
// programs read differently. The core makes it once for all plugins that ask for it; the octets
// themselves every plugin gets besides, whatever this package makes of them.
//
// Parse never fails and never panics. The structure is that of storage/mime, so it is what
// IMAP clients are told too; a message that makes this code panic becomes one opaque part with
// the ambiguity "not-parsed". Work is linear in the size of the message: one pass
// for the structure, one over each part that is text or base64. Memory is bounded by the limits
// below, whatever arrives; over one of them Parsed.Truncated is set.
//
//	1,000 parts, depth 50, 1 MiB of headers       storage/mime
//	1 MiB of text, decoded                        a part that does not fit has none
//	1,000 URLs of at most 2,000 octets, 1 MiB     longer ones are left out
//	1,000 octets of a file name                   the end is kept, where the extension is
//	200 ambiguities, each kind once a part
//
// so that the whole is less than 3 MiB on the wire.
//
// All input is untrusted. What is handed out is UTF-8; names and URLs may still hold
// anything that UTF-8 can say.
//
// RFC 2045, 2046, 2047, 2231, 5322; DRILLS E3.1 lists the tricks, draft-chen-email-mime-ambiguity-defense
// and "Inbox Invasion" (CCS 2024) where they are from. sdk/PROTOCOL.md lists the kinds of ambiguity.
package parse

// The limits; see above.
const (
	maxText        = 1 << 20
	maxURLs        = 1000
	maxURL         = 2000
	maxURLOctets   = 1 << 20
	maxName        = 1000
	maxWord        = 200 // types, charsets, encodings, dispositions
	maxStrings     = 512 << 10
	maxHeaders     = 1 << 20
	maxAmbiguities = 200
)
