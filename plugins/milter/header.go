package milter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxHeader = 2 << 20 // octets of a header; the server's bound is half of it
	maxField  = 64000   // octets of a name and its value that are sent: libmilter ends a session over a frame of 64 KiB
	maxLabel  = 32000   // octets of a name; what has more in front of its colon is no field
	maxName   = 200     // octets of a name that a milter gives a field (PROTOCOL.md section 11)
	maxValue  = 60000   // the same of a value
	notAField = "X-Not-A-Field"
)

// field is one of a message's header.
type field struct {
	name  string
	value string // with its leading space; lines are ended by LF, the last by nothing
	bogus bool   // the line is no field: it is called notAField, and cannot be changed
}

// sent is the value as the milter gets it. Without SMFIP_HDR_LEADSPC one space behind the colon is
// left out (xxfi_header). cut says that there is more than fits into a frame.
func (f *field) sent(leading bool) (value string, cut bool) {
	value = f.value
	if !leading {
		value = strings.TrimPrefix(value, " ")
	}
	room := maxField - len(f.name)
	if len(value) <= room {
		return value, false
	}
	value = value[:room]
	if at := strings.LastIndexByte(value, '\n'); at > 0 {
		value = value[:at]
	}
	return value, true
}

// readHeader reads up to and including the empty line, or to the end.
func readHeader(r *bufio.Reader) ([]field, error) {
	var raw []byte
	for begin := true; ; {
		line, err := r.ReadSlice('\n')
		whole := !errors.Is(err, bufio.ErrBufferFull)
		if whole && err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the message: %w", err)
		}
		if begin && whole && isEmpty(line) {
			break // the empty line, or the end
		}
		if len(raw)+len(line) > maxHeader {
			return nil, fmt.Errorf("read the message: its header has more than %d octets", maxHeader)
		}
		raw = append(raw, line...)
		if whole && err != nil {
			break
		}
		begin = whole
	}
	return splitHeader(string(raw)), nil
}

func isEmpty(line []byte) bool {
	return len(line) == 0 || string(line) == "\r\n" || string(line) == "\n"
}

// splitHeader takes a header apart as the server does when it counts fields: a line that begins with a
// blank belongs to the one before, and blanks before a colon are none of the name's.
func splitHeader(raw string) []field {
	raw = strings.ReplaceAll(strings.ReplaceAll(raw, "\r\n", "\n"), "\x00", " ")
	var fields []field
	for raw != "" {
		end := 0
		for {
			at := strings.IndexByte(raw[end:], '\n')
			if at < 0 {
				end = len(raw)
				break
			}
			end += at + 1
			if end == len(raw) || raw[end] != ' ' && raw[end] != '\t' {
				break
			}
		}
		text := strings.TrimSuffix(raw[:end], "\n")
		raw = raw[end:]
		name, value, ok := strings.Cut(text, ":")
		name = strings.TrimRight(name, " \t")
		if !ok || name == "" || len(name) > maxLabel || strings.ContainsAny(name, "\n\r") {
			name, value, ok = notAField, " "+text, false
		}
		fields = append(fields, field{name: name, value: value, bogus: !ok})
	}
	return fields
}

// unfold makes one line of what a milter says: line breaks with the blanks around them become one space
// (RFC 5322 section 2.2.3; relaxed canonicalization, RFC 6376 section 3.4.2, does the same), so that
// nothing in it can begin another field.
func unfold(value string) string {
	value = strings.ToValidUTF8(strings.ReplaceAll(value, "\x00", " "), "\uFFFD")
	if !strings.ContainsAny(value, "\r\n") {
		return strings.Trim(value, " \t")
	}
	var b strings.Builder
	for value != "" {
		at := strings.IndexAny(value, " \t\r\n")
		if at < 0 {
			at = len(value)
		}
		b.WriteString(value[:at])
		value = value[at:]
		rest := strings.TrimLeft(value, " \t\r\n")
		blanks := value[:len(value)-len(rest)]
		if strings.ContainsAny(blanks, "\r\n") {
			blanks = " "
		}
		b.WriteString(blanks)
		value = rest
	}
	return strings.Trim(b.String(), " \t")
}
