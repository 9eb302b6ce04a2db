package dmarc

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
)

// Write returns the XML document of f. What RFC 7489 appendix C does not know is left out or put into its words, so
// that the document is valid whatever was observed; f itself stays as it is.
func Write(f *Feedback) ([]byte, error) {
	if len(f.Records) == 0 {
		return nil, fmt.Errorf("write the report about %s: it has no records", f.Policy.Domain)
	}
	out := *f
	out.Version = "1.0"
	p := &out.Policy
	p.NP, p.Testing, p.Discovery = "", "", ""
	p.ADKIM, p.ASPF = oneOf(p.ADKIM, "r", "s"), oneOf(p.ASPF, "r", "s")
	p.P = oneOf(p.P, "none", "quarantine", "reject")
	if p.SP == "" { // required, and the same as p by default (section 6.3)
		p.SP = p.P
	}
	p.SP = oneOf(p.SP, "none", "quarantine", "reject")
	if p.Percent == "" {
		p.Percent = "100"
	}
	if p.FO == "" {
		p.FO = "0"
	}
	out.Records = make([]Record, len(f.Records))
	for i := range f.Records {
		out.Records[i] = valid(f.Records[i])
	}
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	e := xml.NewEncoder(&b)
	e.Indent("", " ")
	if err := e.Encode(&out); err != nil {
		return nil, fmt.Errorf("write the report about %s: %w", f.Policy.Domain, err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// valid puts a record into the words of the schema.
func valid(r Record) Record {
	e := &r.Row.Evaluated
	e.Disposition = oneOf(e.Disposition, "none", "quarantine", "reject")
	e.DKIM, e.SPF = oneOf(e.DKIM, "fail", "pass"), oneOf(e.SPF, "fail", "pass")
	e.Reasons = slices.Clone(e.Reasons)
	for i := range e.Reasons {
		o := &e.Reasons[i]
		known := oneOf(o.Type, "other", "forwarded", "sampled_out", "trusted_forwarder", "mailing_list", "local_policy")
		if known != o.Type && o.Comment == "" {
			o.Comment = o.Type
		}
		o.Type = known
	}
	r.Results.DKIM = slices.Clone(r.Results.DKIM)
	for i := range r.Results.DKIM {
		k := &r.Results.DKIM[i]
		k.Result = oneOf(k.Result, "none", "pass", "fail", "policy", "neutral", "temperror", "permerror")
	}
	r.Results.SPF = slices.Clone(r.Results.SPF)
	if len(r.Results.SPF) == 0 { // required: not checked is no result
		r.Results.SPF = []SPF{{Domain: r.Identifiers.EnvelopeFrom, Result: "none"}}
	}
	for i := range r.Results.SPF {
		s := &r.Results.SPF[i]
		s.Scope = oneOf(s.Scope, "mfrom", "helo")
		s.Result = oneOf(s.Result, "none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")
	}
	return r
}

// oneOf returns word if it is among the words, else the first of them.
func oneOf(word, first string, others ...string) string {
	if slices.Contains(others, word) {
		return word
	}
	return first
}
