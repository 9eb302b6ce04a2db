package pipeline

import (
	"strings"

	"github.com/sluicemail/sluice/sdk"
)

// Envelope returns what plugins see of the envelope, with all recipients.
func (m *Message) Envelope() sdk.Envelope {
	e := m.bareEnvelope()
	e.Recipients = make([]sdk.Recipient, len(m.Recipients))
	for i, r := range m.Recipients {
		e.Recipients[i] = r.shown(sdk.PhaseContent)
	}
	return e
}

func (m *Message) bareEnvelope() sdk.Envelope {
	e := sdk.Envelope{
		ID: m.ID.String(), Origin: m.Origin, Received: m.Received, Pipeline: m.Pipeline,
		Sender: m.Sender, Size: m.Params.Size, Body: m.Params.Body, SMTPUTF8: m.Params.SMTPUTF8,
		EnvID: m.Params.EnvID, Ret: m.Params.Ret,
		Auth: m.Auth.envelope(), Score: m.Score, Tags: m.Tags,
	}
	if m.via != nil {
		e.Server, e.Pipeline = m.via.Hostname, m.via.Name
	}
	if m.Peer != nil {
		m.Peer.fill(&e)
	}
	return e
}

func (p *Peer) fill(e *sdk.Envelope) {
	e.Session, e.Listener, e.ClientName, e.Helo, e.ESMTP = p.Session, p.Listener, p.Name, p.Helo, p.ESMTP
	e.TLS, e.Cipher, e.Login = p.TLS, p.Cipher, p.Login
	if p.Addr.IsValid() {
		e.ClientAddr, e.ClientPort = p.Addr.String(), p.Port
	}
}

// shown returns what plugins see of a recipient.
func (r *Recipient) shown(phase sdk.Phase) sdk.Recipient {
	s := sdk.Recipient{Address: r.Address, Accounts: r.Accounts, Notify: r.Params.Notify, ORcpt: r.Params.ORcpt}
	if phase == sdk.PhaseRoute && len(r.Hops) > 0 {
		s.Hops = make([]string, len(r.Hops))
		for i, h := range r.Hops {
			s.Hops[i] = strings.TrimSpace(h.Kind.String() + " " + h.Address)
		}
	}
	return s
}

// Auth is what the stage authenticate found out about a message, as it arrived.
// The results are the words of RFC 8601 section 2.7: "pass", "fail", "none",
// "temperror" and so on; "" where the method was not used. It is written once, by
// that stage, and no plugin can change it.
type Auth struct {
	SPF         string   // RFC 7208
	SPFDomain   string   // whose record it was, in A-labels
	DKIM        string   // the best result among the signatures (RFC 6376)
	DKIMDomains []string // of the signatures that passed, in A-labels
	Signatures  []string // those that passed: d=, s= and the beginning of b= (RFC 6008), with slashes between them
	Named       string   // how many recipients stand in a To or Cc that such a signature covers: "all", "some" or "none"; "" without one
	DMARC       string   // the strictest result among the authors' domains (RFC 7489)
	DMARCDomain string   // the author's domain that it is about
	DMARCFailed []string // all authors' domains for which it failed, in A-labels
	IPRev       string   // RFC 8601 section 3
	Login       string   // "pass" where somebody logged in (RFC 8601 section 2.7.4)
	ARC         string   // what became of the chain: none, pass or fail (RFC 8617 section 4.4); "" if nobody looked

	SenderVerified bool   // MAIL FROM is not forged: SPF passed for its domain, or DKIM for one aligned with it (RULES A7)
	Results        string // the value of our Authentication-Results field, for whoever seals the message

	shown map[string]string
}

// envelope returns the results as plugins see them. The map is made once.
func (a *Auth) envelope() map[string]string {
	if a == nil {
		return nil
	}
	if a.shown == nil {
		shown := make(map[string]string, 12)
		for _, r := range []struct{ name, value string }{
			{"spf", a.SPF}, {"spf.domain", a.SPFDomain}, {"dkim", a.DKIM}, {"dkim.domains", strings.Join(a.DKIMDomains, " ")},
			{"dkim.signatures", strings.Join(a.Signatures, " ")}, {"dkim.named", a.Named},
			{"dmarc", a.DMARC}, {"dmarc.domain", a.DMARCDomain}, {"iprev", a.IPRev}, {"auth", a.Login}, {"arc", a.ARC},
		} {
			if r.value != "" {
				shown[r.name] = r.value
			}
		}
		a.shown = shown
	}
	return a.shown
}
