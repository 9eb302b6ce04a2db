package pop3

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// maxLine bounds a line that a client sends, CRLF included. RFC 2449 section 4
// has 255 for commands; RFC 4422 leaves room for longer AUTH answers.
const maxLine = 4096

// command is one parsed command line.
type command struct {
	verb string // upper case
	arg  string // what follows the first space, as it was sent
}

var (
	errSyntax = errors.New("syntax error")
	errBase64 = errors.New("invalid base64")
)

// parseCommand reads a command line without its line end. Verbs are three or
// four letters (RFC 1939 section 3); arguments are separated by one space. The
// argument of PASS may itself hold spaces, so arg is kept as it is. Control
// characters are refused, and so are octets above 127 except in arguments, where
// an address or a password may be UTF-8.
func parseCommand(line []byte) (command, error) {
	verb, arg, _ := bytes.Cut(line, []byte{' '})
	if len(verb) < 3 || len(verb) > 4 {
		return command{}, errSyntax
	}
	for _, c := range verb {
		if (c|0x20) < 'a' || (c|0x20) > 'z' {
			return command{}, errSyntax
		}
	}
	for _, c := range arg {
		if c < ' ' || c == 0x7f {
			return command{}, errSyntax
		}
	}
	return command{verb: strings.ToUpper(string(verb)), arg: string(arg)}, nil
}

// fields splits an argument into at most n numbers-to-be; a trailing space, which
// old clients send, is ignored.
func (c command) fields() []string { return strings.Fields(c.arg) }

// parseNumber reads a message number or a line count: digits only.
func parseNumber(s string) (int, bool) {
	if len(s) == 0 || len(s) > 9 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// credentials are what a client wants to log in with.
type credentials struct{ user, password string }

// parsePlain reads the base64 of a PLAIN answer (RFC 4616 section 2). "=" stands
// for an empty answer (RFC 5034 section 4). An authorization identity other than
// the user is refused (RULES B7).
func parsePlain(encoded []byte) (credentials, error) {
	if string(encoded) == "=" {
		encoded = nil
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, encoded)
	if err != nil {
		return credentials{}, errBase64
	}
	parts := bytes.Split(raw, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return credentials{}, errSyntax
	}
	if len(parts[0]) > 0 && !bytes.EqualFold(parts[0], parts[1]) {
		return credentials{}, errCredentials
	}
	return credentials{user: string(parts[1]), password: string(parts[2])}, nil
}
