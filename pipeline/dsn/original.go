package dsn

import (
	"bytes"
	"errors"
	"io"
	"mime/quotedprintable"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/storage/mime"
)

// MaxReturned is the most of the original that is returned, in octets (RULES A8).
const MaxReturned = 64 << 10

// returnedOriginal is what the report says and returns of the original.
type returnedOriginal struct {
	octets    []byte // header, or the whole message; lines ended by CRLF
	full      bool
	cut       bool   // the header was longer than MaxReturned
	subject   string // decoded, one line, or ""
	messageID string // with angle brackets, or ""
}

// returned reads what is to be returned. RET=FULL concerns failures alone (RFC 3461 section 4.3).
func returned(r *Report, told []Recipient) (returnedOriginal, error) {
	var o returnedOriginal
	if r.Original == nil {
		return o, nil
	}
	failed := slices.ContainsFunc(told, func(rcpt Recipient) bool { return rcpt.Action == Failed })
	o.full = failed && strings.EqualFold(r.Ret, "FULL") && r.OriginalSize <= MaxReturned
	raw := make([]byte, min(r.OriginalSize, MaxReturned))
	if n, err := r.Original.ReadAt(raw, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(raw)) {
		return o, err
	}
	header := raw[:mime.HeaderEnd(raw)]
	o.cut = len(header) == MaxReturned && r.OriginalSize > MaxReturned
	if o.cut {
		header = header[:bytes.LastIndexByte(header, '\n')+1]
	}
	out := make([]byte, 0, len(raw)+16)
	end := 0
	for _, f := range mime.Fields(header) {
		end = f.End
		value := string(header[f.ValueStart:f.End])
		switch strings.ToLower(f.Name) {
		case "bcc", "resent-bcc":
			continue // DRILLS E2.8: a copy of the report must not tell whom nobody was to know of
		case "subject":
			o.subject = cleanUTF8(mime.DecodeWords(value), 200)
		case "message-id":
			o.messageID = messageID(value)
		}
		out = append(out, header[f.Start:f.End]...)
	}
	if o.full {
		out = append(out, raw[end:]...) // from the empty line on
	}
	o.octets = canonical(out)
	return o, nil
}

// messageID takes a Message-ID that is short and plain enough to be quoted in our fields.
func messageID(value string) string {
	id := strings.TrimSpace(value)
	if len(id) > 250 || len(id) < 3 || id[0] != '<' || id[len(id)-1] != '>' || !isASCII(id) ||
		strings.ContainsAny(id[1:len(id)-1], "<> \t\r\n\x00\x7f") || clean(id, 250) != id {
		return ""
	}
	return id
}

// canonical makes the copy fit for a mail: every line ended by CRLF and of at most 998 octets, no NUL. The original in the
// queue stays as it is; this is what is shown of it.
func canonical(in []byte) []byte {
	const longest = 998
	out := make([]byte, 0, len(in)+len(in)/64+2)
	column := 0
	for i, c := range in {
		switch {
		case c == '\n':
			out = append(out, '\r', '\n')
			column = 0
			continue
		case c == '\r':
			if i+1 < len(in) && in[i+1] == '\n' {
				continue
			}
			c = '?'
		case c == 0:
			c = '?'
		}
		if column >= longest-4 && c&0xc0 != 0x80 || column == longest {
			out = append(out, '\r', '\n', ' ')
			column = 1
		}
		out = append(out, c)
		column++
	}
	if column > 0 {
		out = append(out, '\r', '\n')
	}
	return out
}

// partOriginal returns the original, or its header.
func (b *builder) partOriginal() {
	o := &b.original
	if b.r.Original == nil {
		return
	}
	eight := hasEightBit(o.octets)
	switch {
	case o.full:
		kind, encoding := "message/rfc822", ""
		if eight {
			encoding = "8bit"
		}
		if b.international() {
			kind = "message/global" // RFC 6533 section 5
		}
		b.part(kind, encoding, "The message")
		b.out.Write(o.octets)
	case b.international():
		b.part("message/global-headers", "8bit", b.headerDescription())
		b.out.Write(o.octets)
	case eight: // RFC 6522 section 4 allows it for what is broken
		b.part("text/rfc822-headers; charset=utf-8", "quoted-printable", b.headerDescription())
		writeQuoted(&b.out, o.octets)
	default:
		b.part("text/rfc822-headers", "", b.headerDescription())
		b.out.Write(o.octets)
	}
	b.line("")
}

func (b *builder) headerDescription() string {
	if b.original.cut {
		return "The beginning of the message's header"
	}
	return "The message's header"
}

func writeQuoted(out *bytes.Buffer, text []byte) {
	q := quotedprintable.NewWriter(out)
	_, _ = q.Write(text) // into memory
	_ = q.Close()
}
