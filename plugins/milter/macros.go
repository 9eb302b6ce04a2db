package milter

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/sdk"
)

// pairs is a list of names and values of macros, in turn.
type pairs []string

// set adds a macro that has a value, unless the administrator gave it another.
func (s *session) set(list pairs, name, value string) pairs {
	if _, ours := s.settings.Macros[name]; ours || value == "" {
		return list
	}
	return append(list, name, value)
}

// unknownName is the name of a client without a verified one, as Postfix has it in macros.
const unknownName = "unknown"

// connectMacros are those that hold for the session, and the administrator's.
func (s *session) connectMacros(m *sdk.Message) (list pairs) {
	list = s.set(list, "j", m.Server)
	list = s.set(list, "v", "Sluice")
	list = s.set(list, "{daemon_name}", m.Listener)
	list = s.set(list, "{if_name}", m.Server)
	if m.ClientAddr != "" {
		name, ptr, resolve := unknownName, unknownName, "FAIL"
		from := "[" + m.ClientAddr + "]"
		if m.ClientName != "" {
			name, ptr, resolve, from = m.ClientName, m.ClientName, "OK", m.ClientName+" "+from
		}
		list = s.set(list, "_", from)
		list = s.set(list, "{client_addr}", m.ClientAddr)
		list = s.set(list, "{client_name}", name)
		list = s.set(list, "{client_ptr}", ptr)
		list = s.set(list, "{client_port}", decimal(int64(m.ClientPort)))
		list = s.set(list, "{client_resolve}", resolve)
	}
	for _, name := range slices.Sorted(maps.Keys(s.settings.Macros)) {
		list = append(list, name, s.settings.Macros[name])
	}
	return list
}

func (s *session) heloMacros(m *sdk.Message) (list pairs) {
	if m.TLS == "" {
		return nil
	}
	list = s.set(list, "{tls_version}", strings.Replace(m.TLS, "TLS ", "TLSv", 1))
	list = s.set(list, "{cipher}", m.Cipher)
	return s.set(list, "{cipher_bits}", cipherBits(m.Cipher))
}

// cipherBits is the length of the key that a cipher suite's name says, or "".
func cipherBits(suite string) string {
	switch {
	case strings.Contains(suite, "AES_128"):
		return "128"
	case strings.Contains(suite, "AES_256"), strings.Contains(suite, "CHACHA20"):
		return "256"
	}
	return ""
}

// authType stands for {auth_type} of everybody who logged in. The mechanism is not known to
// plugins; milters look whether there is a value (opendkim signs then).
const authType = "SASL"

func (s *session) mailMacros(m *sdk.Message) (list pairs) {
	list = s.set(list, "i", m.ID)
	if m.Login != "" {
		list = s.set(list, "{auth_authen}", m.Login)
		list = s.set(list, "{auth_type}", authType)
	}
	list = s.set(list, "{mail_addr}", m.Sender)
	list = s.set(list, "{mail_host}", domainOf(m.Sender))
	return s.set(list, "{mail_mailer}", "esmtp")
}

func (s *session) rcptMacros(m *sdk.Message, r *sdk.Recipient) (list pairs) {
	mailer := "esmtp"
	if len(r.Accounts) > 0 {
		mailer = "local"
	}
	list = s.set(list, "i", m.ID)
	list = s.set(list, "{rcpt_addr}", r.Address)
	list = s.set(list, "{rcpt_host}", domainOf(r.Address))
	return s.set(list, "{rcpt_mailer}", mailer)
}

// idMacros are those of DATA, the header's end and the message's end.
func (s *session) idMacros(m *sdk.Message) pairs { return s.set(nil, "i", m.ID) }

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// connection is the data of SMFIC_CONNECT: a name, a family, a port and an address. Who has no name
// is called by the address in brackets, as Sendmail does.
func connection(m *sdk.Message) []byte {
	addr, err := netip.ParseAddr(m.ClientAddr)
	if err != nil { // generated here, or by something without an address
		name := m.ClientName
		if name == "" {
			name = "localhost"
		}
		return append(appendText(nil, name), byte(milter.FamilyUnknown))
	}
	addr = addr.Unmap()
	family := milter.FamilyInet6
	if addr.Is4() {
		family = milter.FamilyInet
	}
	name := m.ClientName
	if name == "" {
		name = "[" + addr.String() + "]"
	}
	b := append(appendText(nil, name), byte(family), byte(m.ClientPort>>8), byte(m.ClientPort))
	return appendText(b, addr.WithZone("").String())
}

// mailArgs is the data of SMFIC_MAIL: the sender and the parameters of the command.
func mailArgs(m *sdk.Message) []byte {
	b := appendText(nil, "<"+m.Sender+">")
	add := func(key, value string) {
		if value != "" {
			b = appendText(b, key+"="+value)
		}
	}
	if m.Envelope.Size > 0 {
		add("SIZE", decimal(m.Envelope.Size))
	}
	add("BODY", m.Body)
	if m.SMTPUTF8 {
		b = appendText(b, "SMTPUTF8")
	}
	add("RET", m.Ret)
	add("ENVID", xtext(m.EnvID))
	return b
}

// rcptArgs is the data of SMFIC_RCPT.
func rcptArgs(r *sdk.Recipient) []byte {
	b := appendText(nil, "<"+r.Address+">")
	if len(r.Notify) > 0 {
		b = appendText(b, "NOTIFY="+strings.Join(r.Notify, ","))
	}
	if r.ORcpt != "" {
		b = appendText(b, "ORCPT="+r.ORcpt)
	}
	return b
}
