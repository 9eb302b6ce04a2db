package sdk

// Parsed is the shared parse of a message: what its parts are, as decoded as a
// reader would see them, so that plugins need not parse MIME themselves. Where
// readers differ about a message, Ambiguities says so. It is bounded (RULES C7): 1,000
// parts, depth 50, 1 MiB of text, 1,000 URLs.
type Parsed struct {
	Parts       []Part      // in the order of the message, the message itself first
	URLs        []string    // from text and HTML parts, each once, in order
	Ambiguities []Ambiguity //
	Truncated   bool        // a limit was reached: there is more than is shown
}

// Part is a leaf, a multipart, or a message within the message.
type Part struct {
	Parent      int    // index into Parsed.Parts; -1 for the first
	Section     string // as in IMAP (RFC 9051 section 6.4.5), "1.2"; "" for the message itself
	Type        string // media type, small letters: "text/plain"
	Charset     string // as given, small letters, or ""
	Encoding    string // Content-Transfer-Encoding, small letters; "" is 7bit
	Disposition string // "attachment", "inline", another word, or ""
	Name        string // file name, RFC 2231 and RFC 2047 decoded, or ""
	Offset      int64  // of the part's body among the message's octets
	Length      int64  // octets of the body before decoding
	Text        string // of text/* leaves: decoded, UTF-8, HTML with its tags; "" if over the limit
}

// Ambiguity is something that programs read differently (DRILLS E3.1); a scanner may
// see another message than the reader does.
type Ambiguity struct {
	Kind string // "duplicate-field", "no-boundary", "same-boundary", ...; listed in PROTOCOL.md
	Part int    // index into Parsed.Parts, or -1 for the message as a whole
	Text string // one sentence for a person
}
