package parse

// Kind is a kind of ambiguity, as in sdk.Ambiguity.
type Kind struct {
	Name string
	Text string // one sentence, as PROTOCOL.md has it; a message's own may say more
}

// The kinds. A test holds this list, PROTOCOL.md and the test messages together.
const (
	notParsed            = "not-parsed"
	duplicateField       = "duplicate-field"
	badHeaderLine        = "bad-header-line"
	nulOctet             = "nul"
	eightBitHeader       = "8bit-header"
	severalFrom          = "several-from"
	controlInFrom        = "control-in-from"
	badType              = "bad-type"
	commentInType        = "comment-in-type"
	oddFolding           = "odd-folding"
	duplicateParameter   = "duplicate-parameter"
	splitParameter       = "split-parameter"
	encodedWordParameter = "encoded-word-parameter"
	conflictingName      = "conflicting-name"
	oddName              = "odd-name"
	noBoundary           = "no-boundary"
	sameBoundary         = "same-boundary"
	boundaryPrefix       = "boundary-prefix"
	oddBoundary          = "odd-boundary"
	missingClose         = "missing-close"
	afterClose           = "after-close"
	encodedContainer     = "encoded-container"
	alternativeAttached  = "alternative-attachment"
	unknownEncoding      = "unknown-encoding"
	encodingCase         = "encoding-case"
	badBase64            = "bad-base64"
	unknownCharset       = "unknown-charset"
	uuencode             = "uuencode"
	yenc                 = "yenc"
	partialMessage       = "partial-message"
	externalBody         = "external-body"
	tnef                 = "tnef"
)

// Kinds lists every kind of ambiguity that Parse reports.
func Kinds() []Kind {
	return []Kind{
		{notParsed, "The message could not be taken apart at all; it is shown as one opaque part."},
		{duplicateField, "A field that may appear once appears again; the first counts here, others take the last."},
		{badHeaderLine, "A header line is no field, or has white space before its colon; some programs end the header there, or skip the line."},
		{nulOctet, "A NUL octet is in a header or a text; some programs stop reading there."},
		{eightBitHeader, "A header has octets over 127 that are not UTF-8, so their meaning is anybody's guess."},
		{severalFrom, "There are several From fields, or several addresses in From; programs show and check different ones."},
		{controlInFrom, "An encoded word in From, Sender or Reply-To decodes to NUL, a line break or another control character, which hides the rest of the address."},
		{badType, "Content-Type cannot be read; some programs guess."},
		{commentInType, "Content-Type or Content-Disposition has a comment, which some programs take for a part of the value."},
		{oddFolding, "A parameter is folded in the middle, where some programs stop reading it."},
		{duplicateParameter, "A parameter appears twice; the first counts here, others take the last."},
		{splitParameter, "A parameter comes in pieces (RFC 2231 section 3), which some programs do not put together."},
		{encodedWordParameter, "A parameter has encoded words, which RFC 2047 forbids there; some programs decode them."},
		{conflictingName, "The names in Content-Disposition and Content-Type, or the two forms of one, differ."},
		{oddName, "A file name has control characters, or ones that change the direction of writing, and so shows as another."},
		{noBoundary, "A multipart has no boundary, or its boundary never appears; it is shown as text."},
		{sameBoundary, "A multipart has the boundary of one that it is in."},
		{boundaryPrefix, "A boundary is the beginning of another one, which some programs mistake for it."},
		{oddBoundary, "A boundary is longer than 70 octets, has characters that it may not have, or is written as in RFC 2231."},
		{missingClose, "A multipart ends without its closing delimiter; something may be missing, or belong elsewhere."},
		{afterClose, "Delimiter lines follow the closing delimiter of a multipart; some programs see parts there."},
		{encodedContainer, "A multipart or a message is in base64 or quoted-printable, which is forbidden; some programs decode it and see parts."},
		{alternativeAttached, "An alternative of a multipart/alternative is an attachment, of which some programs show nothing."},
		{unknownEncoding, "Content-Transfer-Encoding is none of RFC 2045, or has more behind it; some programs guess."},
		{encodingCase, "base64 or quoted-printable is not written in small letters, as some programs expect it."},
		{badBase64, "Base64 has other characters inside, goes on after its padding, or ends too early; programs decode different octets."},
		{unknownCharset, "The charset of a text is not known here; others may know it."},
		{uuencode, "A text has a file in uuencode, which some programs show as an attachment."},
		{yenc, "A text has a file in yEnc, which some programs show as an attachment."},
		{partialMessage, "The message is a piece of a larger one (message/partial), which the reader's program may put together."},
		{externalBody, "The content is elsewhere (message/external-body), and may be another when it is fetched."},
		{tnef, "The attachment is TNEF (winmail.dat), which some programs take apart."},
	}
}

func sentence(kind string) string {
	for _, k := range Kinds() {
		if k.Name == kind {
			return k.Text
		}
	}
	return ""
}
