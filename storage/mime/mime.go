// Package mime finds the structure of a message: its ENVELOPE, its
// BODYSTRUCTURE with the byte offsets of every part, and a short preview, in one
// pass over the octets.
//
// Parse never fails. What cannot be understood becomes an opaque part
// (text/plain or application/octet-stream) that spans the octets in question,
// and Summary.Defects says what was odd. Work is linear in the size of the
// message and memory is bounded by Limits, whatever arrives: parts, depth,
// header octets, header fields, addresses and the octets kept are all counted.
//
// A Summary is computed when a message is accepted and kept beside it
// (AppendBinary, Decode), so that IMAP FETCH reads only the octets it sends:
// Summary.Find maps a section such as 1.2.HEADER to ranges of the message.
// Offsets are those of the variant that was parsed; octets that a mailbox record
// puts in front (Return-Path, Delivered-To) are given to Find as a Front.
//
// All input is untrusted. Strings are kept as sent, unfolded, without any
// decoding: they may hold 8-bit octets, NUL and invalid UTF-8. Whoever writes
// them to a peer encodes them.
//
// RFC 5322 (3.4 addresses, 2.2.3 folding), RFC 2045 (5.1 parameters), RFC 2046
// (5.1 multipart), RFC 2047, RFC 2231, RFC 3501 (7.4.2), RFC 3516 (BINARY).
package mime

// Version of the parser. A stored Summary of an older version may be computed
// again when it is read.
const Version = 1

// Limits bound the work for one message. A zero field means its default.
type Limits struct {
	Parts        int // parts in the whole message
	Depth        int // nesting of multiparts and messages
	HeaderOctets int // octets of all headers of the message
	Fields       int // header fields of the message, all parts together
	Addresses    int // addresses kept
	Kept         int // octets of strings kept in the Summary
}

// DefaultLimits are those of RULES C7 and of the store's value limit.
func DefaultLimits() Limits {
	return Limits{Parts: 1000, Depth: 50, HeaderOctets: 1 << 20, Fields: 10000, Addresses: 10000, Kept: 384 << 10}
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ v, d *int }{
		{&l.Parts, &d.Parts}, {&l.Depth, &d.Depth}, {&l.HeaderOctets, &d.HeaderOctets},
		{&l.Fields, &d.Fields}, {&l.Addresses, &d.Addresses}, {&l.Kept, &d.Kept},
	} {
		if *f.v <= 0 {
			*f.v = *f.d
		}
	}
	return l
}

// Defects says what was odd about a message: filters may look at it, since each
// of these is read differently by different programs.
type Defects uint32

// The defects.
const (
	LimitParts         Defects = 1 << iota // more parts than allowed; the last part spans the rest
	LimitDepth                             // nested deeper than allowed; the part is opaque
	LimitHeader                            // header octets or fields over the limit were not looked at
	LimitKept                              // strings or addresses over the limit were dropped
	DuplicateField                         // a field that may appear once appears twice; the first counts
	DuplicateParameter                     // a parameter appears twice; the first counts
	NoBoundary                             // multipart without a usable boundary or without parts: opaque
	SameBoundary                           // nested multiparts use one boundary
	MissingClose                           // multipart without its closing delimiter
	BadHeaderLine                          // a header line that is no field
	EncodedContainer                       // message or multipart in base64 or quoted-printable
	BadContentType                         // Content-Type that does not parse: opaque
)

// Summary is what Parse found.
type Summary struct {
	Version    uint8
	Opaque     bool // not parsed: Root spans the message as text/plain
	Defects    Defects
	Size       int64
	Envelope   Envelope
	References []string // message IDs without angle brackets; at most 100: the first and the last ones
	Root       *Part
	Preview    string // plain text, UTF-8, at most 200 runes, no control characters
}

// Envelope is the ENVELOPE of RFC 3501 section 7.4.2. Strings are as sent, unfolded.
type Envelope struct {
	Present   Present
	Date      string
	Subject   string
	From      []Address
	Sender    []Address // empty if absent: IMAP then shows From
	ReplyTo   []Address // empty if absent: IMAP then shows From
	To        []Address
	Cc        []Address
	Bcc       []Address
	InReplyTo string
	MessageID string // with its angle brackets, as sent
}

// Present tells absent from empty for the four strings of an Envelope.
type Present uint8

// The bits of Present.
const (
	HasDate Present = 1 << iota
	HasSubject
	HasInReplyTo
	HasMessageID
)

// Address is one member of an address list. As in IMAP a group begins with
// Host == "" and Mailbox its name, and ends with both empty.
type Address struct {
	Name    string // display name, quotes removed, encoded words left alone
	Route   string // obsolete source route, without the colon
	Mailbox string // local part, quotes removed
	Host    string
}

// Param is a parameter as sent, in order; RFC 2231 pieces stay apart.
type Param struct{ Name, Value string }

// Part is a leaf, a multipart or an embedded message.
//
// HeaderStart..BodyStart is its MIME header with the empty line (for the root,
// the message header), BodyStart..BodyEnd its body. For message/rfc822 Embedded
// is set and Children[0] is the root of the message inside.
type Part struct {
	Type, Subtype     string // lower case
	Params            []Param
	ID                string
	Description       string
	Encoding          string // "" if not given: 7bit
	Disposition       string // "" if absent
	DispositionParams []Param
	Language          []string
	Location          string
	MD5               string
	HeaderStart       int64
	BodyStart         int64
	BodyEnd           int64
	Lines             int64     // line feeds in the body
	Embedded          *Envelope // of the message inside a message/rfc822 part
	Children          []*Part
}

// Multipart says whether p has numbered children.
func (p *Part) Multipart() bool { return p.Type == "multipart" }

// Size is the number of octets of the body, before decoding.
func (p *Part) Size() int64 { return p.BodyEnd - p.BodyStart }

// Param returns the first value of the parameter name, which is in lower case.
func (p *Part) Param(name string) (string, bool) { return findParam(p.Params, name) }

// Opaque is the Summary of a message that nobody could or would parse: a text of
// size octets without header knowledge beyond where the body starts.
func Opaque(size, bodyStart int64) *Summary {
	if bodyStart < 0 || bodyStart > size {
		bodyStart = 0
	}
	return &Summary{
		Version: Version, Opaque: true, Size: size,
		Root: &Part{Type: "text", Subtype: "plain", BodyStart: bodyStart, BodyEnd: size},
	}
}
