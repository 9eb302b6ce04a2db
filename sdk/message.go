package sdk

import (
	"io"
	"time"
)

// Origin says how a message came to us.
type Origin string

// The origins.
const (
	Stranger  Origin = "stranger"  // protocol smtp
	Trusted   Origin = "trusted"   // protocol smtp, client address listed in `trusted`
	Login     Origin = "login"     // submission, authenticated
	LMTP      Origin = "lmtp"      // protocol lmtp
	Generated Origin = "generated" // made by Sluice itself
)

// Envelope is what is known about a message beside its octets.
type Envelope struct {
	ID         string      // queue ID
	Origin     Origin      //
	Received   time.Time   // when its transaction began
	Listener   string      // name of the listener in TOML
	ClientAddr string      // IP address of the peer, after PROXY; "" if generated
	ClientName string      // verified reverse name of the peer, or ""
	Helo       string      // argument of EHLO, HELO or LHLO
	TLS        string      // "TLS 1.3", or "" without TLS
	Login      string      // the account's address if Origin is Login
	Sender     string      // MAIL FROM without angle brackets; "" is the null sender
	Recipients []Recipient // in the order of RCPT
	Tags       map[string]string
}

// Recipient is one RCPT TO with what it resolved to.
type Recipient struct {
	Address  string   // without angle brackets
	Accounts []string // local accounts it leads to; empty if none
}

// Message is one question about a message's content. It is valid until the
// plugin's Ask returns.
type Message struct {
	Envelope
	Size int64 // octets of header and body

	// Content is the message as it will be delivered if nothing changes it
	// further: exact octets, lines ended by CRLF. It can be read once.
	Content io.Reader
}
