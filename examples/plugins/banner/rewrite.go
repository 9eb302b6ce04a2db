package main

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"regexp"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/sdk"
)

// rewrite returns the new body: the old one, octet by octet, but for the first text and the first HTML that a reader is shown.
// nil: there is nothing that a banner can be written into.
func (b *banner) rewrite(octets []byte, parsed *sdk.Parsed) []byte {
	at := bytes.Index(octets, []byte("\r\n\r\n"))
	if at < 0 {
		return nil
	}
	var body []byte
	done := int64(at + 4) // octets before it are in body, or of the header
	marked := make(map[string]bool)
	for i, part := range parsed.Parts { // in the order of the message
		end := part.Offset + part.Length
		if marked[part.Type] || part.Offset < done || end > int64(len(octets)) || !shown(parsed.Parts, i) {
			continue
		}
		replaced, ok := b.mark(part, octets[part.Offset:end])
		if !ok {
			continue
		}
		body = append(append(body, octets[done:part.Offset]...), replaced...)
		done, marked[part.Type] = end, true
	}
	body = append(body, octets[done:]...)
	if len(marked) == 0 || bareCR(body) {
		return nil
	}
	return body
}

// bareCR finds what a new body must not have, and hardly any old one has.
func bareCR(body []byte) bool {
	for i, octet := range body {
		if octet == '\r' && (i+1 == len(body) || body[i+1] != '\n') {
			return true
		}
	}
	return false
}

// shown reports whether a part is text that a reader sees at once: no attachment, and not in a message that is attached.
func shown(parts []sdk.Part, i int) bool {
	part := parts[i]
	if part.Type != "text/plain" && part.Type != "text/html" || part.Disposition == "attachment" || part.Name != "" {
		return false
	}
	for up := part.Parent; up >= 0; up = parts[up].Parent {
		if !strings.HasPrefix(parts[up].Type, "multipart/") {
			return false
		}
	}
	return !slices.ContainsFunc([]string{"utf-16", "utf-32", "utf-7", "iso-2022", "ibm", "cp037"}, func(prefix string) bool {
		return strings.HasPrefix(part.Charset, prefix) // where ASCII is not ASCII
	})
}

// mark puts the banner into the octets of a part, in the encoding that the part has already: the header, which says what
// that is, may be far away and stays as it is.
func (b *banner) mark(part sdk.Part, encoded []byte) ([]byte, bool) {
	switch part.Encoding {
	case "", "7bit", "8bit", "binary":
		return b.insert(part.Type, encoded), true
	case "quoted-printable":
		plain, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(encoded)))
		if err != nil {
			return nil, false
		}
		var out bytes.Buffer
		w := quotedprintable.NewWriter(&out)
		_, err = w.Write(b.insert(part.Type, plain))
		if err != nil || w.Close() != nil {
			return nil, false
		}
		return out.Bytes(), true
	case "base64":
		plain, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(encoded)))
		if err != nil {
			return nil, false
		}
		return base64Lines(b.insert(part.Type, plain)), true
	}
	return nil, false // nobody knows what that is
}

var bodyTag = regexp.MustCompile(`(?i)<body[^>]*>`)

func (b *banner) insert(mediaType string, text []byte) []byte {
	if mediaType == "text/plain" {
		return append([]byte(b.Text+"\r\n\r\n"), text...)
	}
	at := 0
	if tag := bodyTag.FindIndex(text); tag != nil {
		at = tag[1]
	}
	return slices.Concat(text[:at], []byte("\r\n"+b.HTML+"\r\n"), text[at:])
}

// base64Lines encodes in lines of 76 characters (RFC 2045 section 6.8).
func base64Lines(plain []byte) []byte {
	all := base64.StdEncoding.EncodeToString(plain)
	var out []byte
	for len(all) > 0 {
		n := min(76, len(all))
		out = append(append(out, all[:n]...), "\r\n"...)
		all = all[n:]
	}
	return out
}
