package wire

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// Extensions are what a server offered in its reply to EHLO or LHLO. After HELO it is the zero value.
type Extensions struct {
	ESMTP       bool  // it answered EHLO or LHLO rather than HELO
	Pipelining  bool  // RFC 2920
	EightBit    bool  // 8BITMIME, RFC 6152
	UTF8        bool  // SMTPUTF8, RFC 6531
	Chunking    bool  // RFC 3030
	DSN         bool  // RFC 3461
	StartTLS    bool  // RFC 3207
	RequireTLS  bool  // RFC 8689
	Enhanced    bool  // ENHANCEDSTATUSCODES, RFC 2034
	SizeOffered bool  // SIZE, RFC 1870
	Size        int64 // octets that it takes at most; 0: it did not say
	Auth        []string
	RcptMax     int // LIMITS RCPTMAX (RFC 9422): recipients a transaction; 0: it did not say
	MailMax     int // LIMITS MAILMAX: transactions a connection; 0: it did not say
}

// maxMechanisms bounds the list of AUTH.
const maxMechanisms = 32

// parse takes one line of the reply to EHLO, after the first, without its code (RFC 5321 section 4.1.1.1). Keywords are
// compared without case. What is not known, or not well-formed, is passed over.
func (x *Extensions) parse(line []byte) {
	keyword, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
	if len(keyword) > 64 {
		return
	}
	word := strings.ToUpper(string(keyword))
	switch word {
	case "PIPELINING":
		x.Pipelining = true
	case "8BITMIME":
		x.EightBit = true
	case "SMTPUTF8":
		x.UTF8 = true
	case "CHUNKING":
		x.Chunking = true
	case "DSN":
		x.DSN = true
	case "STARTTLS":
		x.StartTLS = true
	case "REQUIRETLS":
		x.RequireTLS = true
	case "ENHANCEDSTATUSCODES":
		x.Enhanced = true
	case "SIZE":
		x.size(rest)
	case "LIMITS":
		x.limits(rest)
	case "AUTH":
		x.auth(rest)
	default:
		// "AUTH=PLAIN LOGIN", from before RFC 2554, is still said by servers for clients that know no better.
		if first, found := strings.CutPrefix(word, "AUTH="); found {
			x.auth([]byte(first))
			x.auth(rest)
		}
	}
}

// size reads the argument of SIZE (RFC 1870 section 3); 0 is no limit.
func (x *Extensions) size(arg []byte) {
	x.SizeOffered = true
	if n, err := strconv.ParseInt(string(bytes.TrimSpace(arg)), 10, 64); err == nil && n > 0 {
		x.Size = n
	}
}

// auth reads mechanisms (RFC 4954 section 3).
func (x *Extensions) auth(args []byte) {
	for _, m := range bytes.Fields(args) {
		if len(x.Auth) >= maxMechanisms {
			return
		}
		if len(m) > 20 { // RFC 4422 section 3.1
			continue
		}
		if name := strings.ToUpper(string(m)); !x.offers(name) {
			x.Auth = append(x.Auth, name)
		}
	}
}

func (x *Extensions) offers(mechanism string) bool {
	for _, m := range x.Auth {
		if m == mechanism {
			return true
		}
	}
	return false
}

// limits reads "RCPTMAX=20 MAILMAX=5" (RFC 9422 section 4). A limit that is no positive number is passed over.
func (x *Extensions) limits(args []byte) {
	for _, arg := range bytes.Fields(args) {
		name, value, found := bytes.Cut(arg, []byte("="))
		n, err := strconv.ParseInt(string(value), 10, 32)
		if !found || err != nil || n < 1 || n > math.MaxInt32 {
			continue
		}
		switch strings.ToUpper(string(name)) {
		case "RCPTMAX":
			x.RcptMax = int(n)
		case "MAILMAX":
			x.MailMax = int(n)
		}
	}
}
