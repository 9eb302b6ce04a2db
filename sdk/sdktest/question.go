package sdktest

import (
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Mail returns a question about a message from a stranger to one local recipient. Line feeds of the
// text become CRLF.
func Mail(text string) *sdk.Message {
	m := question(sdk.PhaseContent)
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	m.Size, m.Content = int64(len(text)), strings.NewReader(text)
	m.Auth = map[string]string{"spf": "pass", "spf.domain": "example.org", "dkim": "none", "dmarc": "none", "iprev": "pass"}
	return m
}

// Connect returns the question that is asked when a client connects from an IP address.
func Connect(addr string) *sdk.Message {
	m := question(sdk.PhaseConnect)
	m.ID, m.ClientAddr, m.ClientName = "", addr, ""
	m.Helo, m.ESMTP, m.TLS, m.Cipher, m.Sender, m.Recipients = "", false, "", "", "", nil
	return m
}

// Sender returns the question that is asked at MAIL FROM; "" is the null sender.
func Sender(address string) *sdk.Message {
	m := question(sdk.PhaseSender)
	m.Sender, m.Recipients = address, nil
	return m
}

// Recipient returns the question that is asked at RCPT TO, of a recipient with a mailbox here.
func Recipient(address string) *sdk.Message {
	m := question(sdk.PhaseRecipient)
	m.Recipients = []sdk.Recipient{{Address: address, Accounts: []string{address}}}
	return m
}

// Route returns the question of a router about a message to the recipients, who have no accounts.
func Route(text string, recipients ...string) *sdk.Message {
	m := Mail(text)
	m.Phase, m.Recipients = sdk.PhaseRoute, nil
	for _, address := range recipients {
		m.Recipients = append(m.Recipients, sdk.Recipient{Address: address, Hops: []string{"smtp " + address[strings.LastIndexByte(address, '@')+1:]}})
	}
	return m
}

// Event returns an event about the message of Mail's envelope, without its content.
func Event(kind sdk.EventKind, recipient string) *sdk.Message {
	m := question(sdk.PhaseEvent)
	m.Event = &sdk.Event{Kind: kind, At: time.Now(), Recipient: recipient, Account: recipient}
	return m
}

// Learn returns EventLearnSpam or EventLearnHam, with the message that alice@example.test moved.
func Learn(kind sdk.EventKind, text string) *sdk.Message {
	m := Mail(text)
	m.Phase, m.Auth = sdk.PhaseEvent, nil
	m.Event = &sdk.Event{Kind: kind, At: time.Now(), Recipient: "alice@example.test", Account: "alice@example.test"}
	return m
}

// Command returns what `sluice plugin tell NAME WORD...` asks.
func Command(words ...string) *sdk.Message {
	return &sdk.Message{
		Envelope: sdk.Envelope{Origin: sdk.Generated, Received: time.Now(), Server: "mx.example.test"},
		Phase:    sdk.PhaseEvent, Content: strings.NewReader(""),
		Event: &sdk.Event{Kind: sdk.EventCommand, At: time.Now(), Words: words},
	}
}

// Parsed is for Message.Parsed of a question to a plugin that asks for the shared parse.
func Parsed(p *sdk.Parsed) func() (*sdk.Parsed, error) {
	return func() (*sdk.Parsed, error) { return p, nil }
}

func question(phase sdk.Phase) *sdk.Message {
	return &sdk.Message{
		Envelope: sdk.Envelope{
			ID: "TEST", Session: "test-1", Origin: sdk.Stranger, Received: time.Now(), Server: "mx.example.test", Pipeline: "inbound",
			Listener: "mx", ClientAddr: "192.0.2.1", ClientPort: 40000, ClientName: "mail.example.org", Helo: "mail.example.org", ESMTP: true,
			TLS: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", Sender: "sender@example.org",
			Recipients: []sdk.Recipient{{Address: "alice@example.test", Accounts: []string{"alice@example.test"}}},
		},
		Phase: phase, Content: strings.NewReader(""),
	}
}
