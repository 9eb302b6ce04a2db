package authenticate

import (
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// observe tells the observer of every author's domain that has a policy. What could not be found out is nobody's news.
func (s *Stage) observe(m *pipeline.Message, r *results) {
	if s.Reports == nil || m.Origin != sdk.Stranger || m.Peer == nil {
		return
	}
	for i := range r.dmarc {
		if d := &r.dmarc[i]; d.at != "" && d.result != resultTempError {
			s.Reports.ObserveDMARC(s.observation(m, r, d))
		}
	}
}

func (s *Stage) observation(m *pipeline.Message, r *results, d *dmarcResult) *pipeline.DMARCObservation {
	o := &pipeline.DMARCObservation{
		Time: s.Now(), Source: m.Peer.Addr.Unmap().WithZone(""), HeaderFrom: d.domain,
		Policy: pipeline.DMARCPolicy{
			Domain: d.at, Discovery: "treewalk", P: d.record.policy, SP: d.record.sp, NP: d.record.np,
			ADKIM: relaxedOr(d.record.strictDKIM), ASPF: relaxedOr(d.record.strictSPF),
			Percent: d.record.percent, Testing: d.record.testing, FO: d.record.fo, RUA: d.record.rua,
		},
		Disposition: d.disposition, SPFAligned: d.spf, DKIMAligned: d.dkim,
	}
	if s.Config.Discovery == ListOnly {
		o.Policy.Discovery = "psl"
	}
	if d.override != nil {
		o.Overrides = append(o.Overrides, *d.override)
	}
	if s.Config.DMARC != DMARCEnforce && d.disposition != policyNone {
		o.Disposition = policyNone
		o.Overrides = append(o.Overrides, pipeline.DMARCOverride{Type: "local_policy", Comment: "policies are not enforced here"})
	}
	_, sender := splitAddress(m.Sender)
	o.EnvelopeFrom, _ = asciiDomain(sender)
	for _, rcpt := range m.Recipients {
		_, domain := splitAddress(rcpt.Address)
		if domain, ok := asciiDomain(domain); ok && !contains(o.EnvelopeTo, domain) {
			o.EnvelopeTo = append(o.EnvelopeTo, domain)
		}
	}
	if p := r.spf; p != nil {
		o.SPF = pipeline.DMARCSPF{Domain: p.domain, Scope: "mfrom", Result: p.result}
		if p.helo {
			o.SPF.Scope = "helo"
		}
	}
	for i := range r.dkim {
		if k := &r.dkim[i]; k.domain != "" {
			o.DKIM = append(o.DKIM, pipeline.DMARCDKIM{Domain: k.domain, Selector: k.selector, Result: k.result})
		}
	}
	if d.result == resultPass {
		subject, _ := m.Arrived().Get("Subject")
		kind, _ := m.Arrived().Get("Content-Type")
		o.Report = pipeline.IsReport(subject.Value(), kind.Value())
	}
	return o
}

func relaxedOr(strict bool) string {
	if strict {
		return "s"
	}
	return "r"
}
