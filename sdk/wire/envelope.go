package wire

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicemail/sluice/sdk"
)

// ToEnvelope puts an envelope on the wire. proto3 strings are UTF-8: octets of
// the peer that are not become U+FFFD. The result shares maps and slices with e
// where they are UTF-8 already, so e must not change until it is sent.
func ToEnvelope(e *sdk.Envelope) *Envelope {
	out := &Envelope{
		Id: e.ID, Session: e.Session, Origin: string(e.Origin), Server: valid(e.Server), Pipeline: valid(e.Pipeline),
		Listener: valid(e.Listener), ClientAddr: valid(e.ClientAddr), ClientPort: uint32(e.ClientPort),
		ClientName: valid(e.ClientName), Helo: valid(e.Helo), Esmtp: e.ESMTP, Tls: e.TLS, Cipher: e.Cipher,
		Login: valid(e.Login), Sender: valid(e.Sender), DeclaredSize: e.Size, Body: valid(e.Body), Smtputf8: e.SMTPUTF8,
		EnvId: valid(e.EnvID), Ret: valid(e.Ret), Score: e.Score, Tags: validMap(e.Tags), Auth: validMap(e.Auth),
	}
	if !e.Received.IsZero() {
		out.ReceivedUnixNano = e.Received.UnixNano()
	}
	if len(e.Recipients) == 0 {
		return out
	}
	list := make([]Recipient, len(e.Recipients))
	out.Recipients = make([]*Recipient, len(list))
	for i := range e.Recipients {
		r := &e.Recipients[i]
		list[i].Address, list[i].Accounts = valid(r.Address), validAll(r.Accounts)
		list[i].Notify, list[i].Orcpt, list[i].Hops = validAll(r.Notify), valid(r.ORcpt), validAll(r.Hops)
		out.Recipients[i] = &list[i]
	}
	return out
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// validAll returns list itself if all of it is UTF-8, and nil for an empty one.
func validAll(list []string) []string {
	for i, s := range list {
		if utf8.ValidString(s) {
			continue
		}
		out := make([]string, len(list))
		copy(out, list[:i])
		for k := i; k < len(list); k++ {
			out[k] = valid(list[k])
		}
		return out
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// validMap returns m itself if all of it is UTF-8, and nil for an empty one.
func validMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	clean := true
	for k, v := range m {
		clean = clean && utf8.ValidString(k) && utf8.ValidString(v)
	}
	if clean {
		return m
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[valid(k)] = valid(v)
	}
	return out
}

// FromEnvelope reads an envelope. The result shares maps and slices with e.
func FromEnvelope(e *Envelope) sdk.Envelope {
	out := sdk.Envelope{
		ID: e.GetId(), Session: e.GetSession(), Origin: sdk.Origin(e.GetOrigin()), Server: e.GetServer(),
		Pipeline: e.GetPipeline(), Listener: e.GetListener(), ClientAddr: e.GetClientAddr(),
		ClientPort: uint16(min(e.GetClientPort(), 1<<16-1)), ClientName: e.GetClientName(), Helo: e.GetHelo(),
		ESMTP: e.GetEsmtp(), TLS: e.GetTls(), Cipher: e.GetCipher(), Login: e.GetLogin(), Sender: e.GetSender(),
		Size: e.GetDeclaredSize(), Body: e.GetBody(), SMTPUTF8: e.GetSmtputf8(), EnvID: e.GetEnvId(), Ret: e.GetRet(),
		Score: e.GetScore(), Tags: e.GetTags(), Auth: e.GetAuth(),
	}
	if n := e.GetReceivedUnixNano(); n != 0 {
		out.Received = time.Unix(0, n)
	}
	if n := len(e.GetRecipients()); n > 0 {
		out.Recipients = make([]sdk.Recipient, n)
	}
	for i, r := range e.GetRecipients() {
		out.Recipients[i] = sdk.Recipient{
			Address: r.GetAddress(), Accounts: r.GetAccounts(), Notify: r.GetNotify(), ORcpt: r.GetOrcpt(), Hops: r.GetHops(),
		}
	}
	return out
}
