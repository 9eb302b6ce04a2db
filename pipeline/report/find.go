package report

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicemail/sluice/pipeline/report/dmarc"
	"github.com/sluicemail/sluice/pipeline/report/tlsreport"
	"github.com/sluicemail/sluice/storage/mime"
)

// Bounds on what is read of others (DRILLS E2.6).
const (
	MaxUnpacked = 25 << 20 // octets of one document
	MaxMessage  = 50 << 20 // octets of a message or file
	maxRatio    = 300      // of unpacked to packed: a report of equal rows has 100
	freeRatio   = 1 << 20  // octets that may be unpacked at any ratio
	maxPacked   = 12 << 20 // octets of one attachment
	maxEntries  = 100      // of a zip file
	maxFound    = 20       // reports in one message
	maxParts    = 100      // of a message that are looked at
)

// Found is a report that was found, one of the two kinds.
type Found struct {
	DMARC *dmarc.Feedback   `json:"dmarc,omitempty"`
	TLS   *tlsreport.Report `json:"tls,omitempty"`
}

// ErrNoReport means that a message or file holds no report.
var ErrNoReport = errors.New("there is no DMARC or TLS report in it")

// Find returns the reports in r: a document, packed or not, or a message with such attachments. With an error there may be
// reports too: those that could be read.
func Find(r io.ReaderAt, size int64) ([]Found, error) {
	if size > MaxMessage {
		return nil, fmt.Errorf("find reports: it has %d octets, more than %d", size, MaxMessage)
	}
	start := make([]byte, min(size, 512))
	if _, err := r.ReadAt(start, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("find reports: %w", err)
	}
	if kindOf(start) != "" {
		text := make([]byte, size)
		if _, err := r.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("find reports: %w", err)
		}
		return open(text, true)
	}
	return inMessage(r, size)
}

// kindOf tells by the first octets what something is: "gzip", "zip", "xml", "json", or "".
func kindOf(start []byte) string {
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return "gzip"
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return "zip"
	}
	text := bytes.TrimLeft(bytes.TrimPrefix(start, []byte("\xef\xbb\xbf")), " \t\r\n")
	switch {
	case bytes.HasPrefix(text, []byte("<")):
		return "xml"
	case bytes.HasPrefix(text, []byte("{")):
		return "json"
	}
	return ""
}

// inMessage looks into the leaves of a message, at whatever depth, whatever their type says: senders call reports
// application/octet-stream as well.
func inMessage(r io.ReaderAt, size int64) (list []Found, err error) {
	summary := mime.Parse(r, size, mime.DefaultLimits())
	parts := 0
	var problems []error
	var walk func(p *mime.Part)
	walk = func(p *mime.Part) {
		for _, child := range p.Children {
			walk(child)
		}
		if len(p.Children) > 0 || parts == maxParts || len(list) >= maxFound || !mayHold(p) {
			return
		}
		parts++
		text, err := body(r, p)
		if err == nil && kindOf(text) != "" {
			var found []Found
			found, err = open(text, true)
			list = append(list, found...)
		}
		if err != nil && !errors.Is(err, ErrNoReport) {
			problems = append(problems, err)
		}
	}
	if summary.Root != nil {
		walk(summary.Root)
	}
	if len(list) == 0 && len(problems) == 0 {
		problems = append(problems, ErrNoReport)
	}
	return list[:min(len(list), maxFound)], errors.Join(problems...)
}

// mayHold leaves out what people read: a letter that begins with "<" is none.
func mayHold(p *mime.Part) bool {
	return p.Type != "text" || p.Subtype == "xml" || p.Disposition == "attachment"
}

// body returns the decoded octets of a part.
func body(r io.ReaderAt, p *mime.Part) ([]byte, error) {
	in, err := mime.Decoder(p.Encoding, io.NewSectionReader(r, p.BodyStart, p.Size()))
	if err != nil {
		return nil, fmt.Errorf("decode an attachment: %w", err)
	}
	return readAll(in, maxPacked, "an attachment")
}

// readAll reads to the end, but no more than most octets.
func readAll(r io.Reader, most int64, what string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("read %s: it has more than %d octets", what, most)
	}
	return text, nil
}

// open reads one document, or the one inside what is packed. Nobody packs twice.
func open(text []byte, packed bool) ([]Found, error) {
	switch kind := kindOf(text[:min(len(text), 512)]); {
	case kind == "gzip" && packed:
		inner, err := unzip(text)
		if err != nil {
			return nil, err
		}
		return open(inner, false)
	case kind == "zip" && packed:
		return openZip(text)
	case kind == "xml":
		f, err := dmarc.Read(bytes.NewReader(text))
		switch {
		case errors.Is(err, dmarc.ErrNotFeedback):
			return nil, ErrNoReport
		case err != nil:
			return nil, err
		}
		return []Found{{DMARC: f}}, nil
	case kind == "json":
		r, err := tlsreport.Read(text)
		switch {
		case errors.Is(err, tlsreport.ErrNotReport):
			return nil, ErrNoReport
		case err != nil:
			return nil, err
		}
		return []Found{{TLS: r}}, nil
	}
	return nil, ErrNoReport
}

// unzip unpacks gzip.
func unzip(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the report: %w", err)
	}
	return unpack(z, int64(len(packed)))
}

// unpack reads what comes out of a decompressor, as long as it is in proportion to what went in.
func unpack(r io.Reader, packed int64) ([]byte, error) {
	most := min(MaxUnpacked, max(packed*maxRatio, freeRatio))
	return readAll(r, most, "what is packed")
}

// openZip unpacks the documents in a zip file.
func openZip(packed []byte) (list []Found, err error) {
	// The library makes an object for each entry before anybody can count them.
	if bytes.Count(packed, []byte("PK\x01\x02")) > maxEntries {
		return nil, fmt.Errorf("unpack the report: the zip file has more than %d entries", maxEntries)
	}
	z, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		return nil, fmt.Errorf("unpack the report: %w", err)
	}
	var problems []error
	left := int64(MaxUnpacked) // of all entries together: several may share the same packed octets
	for _, entry := range z.File {
		name := strings.ToLower(entry.Name)
		if !strings.HasSuffix(name, ".xml") && !strings.HasSuffix(name, ".json") || len(list) == maxFound {
			continue
		}
		text, err := unpackEntry(entry, left)
		left -= int64(len(text))
		if err == nil {
			var found []Found
			found, err = open(text, false)
			list = append(list, found...)
		}
		if err != nil && !errors.Is(err, ErrNoReport) {
			problems = append(problems, err)
			break
		}
	}
	if len(list) == 0 && len(problems) == 0 {
		return nil, ErrNoReport
	}
	return list, errors.Join(problems...)
}

func unpackEntry(entry *zip.File, left int64) ([]byte, error) {
	r, err := entry.Open()
	if err != nil {
		return nil, fmt.Errorf("unpack the report: %w", err)
	}
	defer r.Close()
	most := min(left, max(min(int64(entry.CompressedSize64), maxPacked)*maxRatio, freeRatio))
	return readAll(r, most, "what is packed")
}
