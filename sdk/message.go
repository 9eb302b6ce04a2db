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

// Envelope is what is known about a message beside its octets. In the phases
// before content it holds what is known by then.
type Envelope struct {
	ID         string      // queue ID; "" in connect
	Session    string      // the connection, as in the log; "" if generated
	Origin     Origin      //
	Received   time.Time   // when its transaction began; in connect, when the client connected
	Server     string      // hostname of this server
	Pipeline   string      // name of the pipeline in TOML
	Listener   string      // name of the listener in TOML
	ClientAddr string      // IP address of the peer, after PROXY; "" if generated
	ClientPort uint16      // its port, or 0
	ClientName string      // verified reverse name of the peer, or ""
	Helo       string      // argument of EHLO, HELO or LHLO
	ESMTP      bool        // EHLO or LHLO rather than HELO
	TLS        string      // "TLS 1.3", or "" without TLS
	Cipher     string      // name of the cipher suite, or ""
	Login      string      // the account's address if Origin is Login
	Sender     string      // MAIL FROM without angle brackets; "" is the null sender
	Size       int64       // SIZE of MAIL FROM (RFC 1870); 0 if not said
	Body       string      // "7BIT", "8BITMIME" or "" (RFC 6152)
	SMTPUTF8   bool        // RFC 6531
	EnvID      string      // ENVID, decoded (RFC 3461 section 4.4)
	Ret        string      // "FULL", "HDRS" or "" (RFC 3461 section 4.3)
	Recipients []Recipient // in the order of RCPT

	// Auth is what the stage authenticate found: "spf", "dkim", "arc", "dmarc", "iprev",
	// "auth" with results as in RFC 8601 ("pass", "fail", ...), "dkim.domains" with
	// the domains of signatures that passed, separated by spaces, "spf.domain",
	// and "dmarc.domain". Where a DKIM signature passed also "dkim.signatures", each of them
	// as "domain/selector/beginning of b=", and "dkim.named", "all", "some" or "none" of the
	// recipients being in a To or Cc that is signed: mail that is sent again and again to
	// people whom it does not name has the same one each time. No plugin can change it. nil before content.
	Auth map[string]string

	Score float64           // spam points of earlier phases and stages
	Tags  map[string]string // what plugins of earlier phases and stages said
}

// Recipient is one RCPT TO with what it resolved to.
type Recipient struct {
	Address  string   // without angle brackets
	Accounts []string // local accounts it leads to; empty if none
	Notify   []string // "NEVER", or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 section 4.1)
	ORcpt    string   // ORCPT as sent (RFC 3461 section 4.2), or ""
	Hops     []string // in route: where it would go, "mailbox alice@example.test"; in other phases empty
}

// Message is one question. It is valid until the plugin's Ask returns.
type Message struct {
	Envelope
	Phase Phase
	Size  int64 // octets of header and body; 0 before content

	// Content is the message as it will be delivered if nothing changes it
	// further: exact octets, lines ended by CRLF, as many as Manifest.Want and
	// MaxContent say. It can be read once. In the phases before content it is empty.
	Content io.Reader

	// Parsed returns the shared parse of the message, which the core makes once for
	// all plugins that ask for it (Manifest.Parsed). It arrives after the octets:
	// what has not been read of Content by then is thrown away. It fails when the
	// question was cancelled, and when the manifest does not ask for it.
	Parsed func() (*Parsed, error)

	Event *Event // in PhaseEvent, else nil
}
