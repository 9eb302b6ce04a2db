package rspamd

import (
	"net/http"
	"strings"

	"golang.org/x/net/idna"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Bounds on the Rcpt fields of a request: rspamd itself looks at 1,024, and closes the connection over a header of more than 80 KiB, so
// that a sender with many long addresses would not be looked at.
const (
	maxRecipients = 1000
	maxRcptOctets = 32 << 10
)

// scanHeader returns the header of a request to check a message: the envelope as rspamd's
// protocol has it (section "HTTP headers" of its documentation).
func scanHeader(m *sdk.Message, set *settings) http.Header {
	h := http.Header{}
	put := func(name, value string) {
		if value != "" {
			h.Set(name, plain.Value(value))
		}
	}
	put("User-Agent", "sluice")
	put("Queue-Id", m.ID)
	put("Log-Tag", m.ID)
	put("MTA-Name", m.Server)
	put("IP", m.ClientAddr)
	put("Helo", m.Helo)
	if m.ClientAddr != "" {
		h.Set("Hostname", "unknown") // rspamd's word for an address without a verified name
		put("Hostname", m.ClientName)
	}
	h.Set("From", "<"+plain.Value(mailAddress(m.Sender))+">") // with brackets, or the null sender would be no field at all
	octets := 0
	for _, r := range m.Recipients[:min(len(m.Recipients), maxRecipients)] {
		to := "<" + plain.Value(mailAddress(r.Address)) + ">"
		if octets += len("Rcpt: \r\n") + len(to); octets > maxRcptOctets {
			break
		}
		h.Add("Rcpt", to)
	}
	if len(m.Recipients) == 1 {
		put("Deliver-To", mailbox(&m.Recipients[0])) // whose statistics and settings count
	}
	put("User", m.Login)
	if m.TLS != "" {
		put("TLS-Version", strings.Replace(m.TLS, "TLS ", "TLSv", 1))
		put("TLS-Cipher", m.Cipher)
	}
	put("Settings-ID", set.SettingsID)
	put("Settings", set.Settings)
	return h
}

// mailAddress is an address with its domain as DNS has it (RFC 5890 section 2.3.2.1): rspamd 3 reads no others, and takes a message
// whose sender it cannot read for one without. For a local part that is not ASCII there is no other form.
func mailAddress(address string) string {
	at := strings.LastIndexByte(address, '@') + 1
	if ascii, err := idna.Lookup.ToASCII(address[at:]); err == nil && ascii != "" {
		return address[:at] + ascii
	}
	return address
}

// learnHeader returns the header of a request to learn a message.
func learnHeader(m *sdk.Message) http.Header {
	h := http.Header{}
	h.Set("User-Agent", "sluice")
	for name, value := range map[string]string{"Queue-Id": m.ID, "Log-Tag": m.ID, "Deliver-To": m.Event.Account} {
		if value != "" {
			h.Set(name, plain.Value(value))
		}
	}
	return h
}

// mailbox returns the account that a recipient leads to if it is one, else the address.
func mailbox(r *sdk.Recipient) string {
	if len(r.Accounts) == 1 {
		return r.Accounts[0]
	}
	return r.Address
}
