package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/report/dmarc"
	"github.com/sluicemail/sluice/storage/codec"
)

// The kinds of report.
const (
	kindDMARC = "dmarc"
	kindTLS   = "tls"
)

// The keys (storage/FORMAT.md): PREFIX PERIOD "/" DOMAIN "/" is a domain's head in a period, and with 16 octets more one of
// its rows. PERIOD is when it begins, to the minute.
const (
	dmarcPrefix = "system/report/dmarc/"
	tlsPrefix   = "system/report/tls/"
	periodForm  = "200601021504"
	headForm    = 1
	rowForm     = 1
	hashSize    = 16
)

func periodKey(prefix string, begin time.Time) string {
	return prefix + begin.UTC().Format(periodForm) + "/"
}

// parseKey takes a key apart; rest is "" for a head.
func parseKey(prefix string, key []byte) (period, domain, rest string, ok bool) {
	tail, found := strings.CutPrefix(string(key), prefix)
	if !found {
		return "", "", "", false
	}
	period, tail, _ = strings.Cut(tail, "/")
	domain, rest, ok = strings.Cut(tail, "/")
	return period, domain, rest, ok && len(period) == len(periodForm) && domain != ""
}

// after returns the key behind every key that begins with prefix.
func after(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++ // all end with "/"
	return end
}

// head is what is known of a domain in a period beside its rows.
type head struct {
	begin, end time.Time
	policy     pipeline.DMARCPolicy
	left       uint64 // messages that are in no row, because there are too many rows
}

func (h *head) encode() []byte {
	b := []byte{headForm}
	b = codec.AppendTime(b, h.begin)
	b = codec.AppendTime(b, h.end)
	p := &h.policy
	for _, text := range []string{p.Discovery, p.P, p.SP, p.NP, p.ADKIM, p.ASPF, p.FO} {
		b = codec.AppendString(b, text)
	}
	b = binary.AppendUvarint(b, uint64(max(p.Percent, 0)))
	b = codec.AppendBool(b, p.Testing)
	b = codec.AppendStrings(b, p.RUA)
	return binary.AppendUvarint(b, h.left)
}

func decodeHead(value []byte, domain string) (*head, error) {
	d := codec.Record(value, headForm)
	h := &head{begin: d.Time(), end: d.Time()}
	p := &h.policy
	p.Domain = domain
	for _, text := range []*string{&p.Discovery, &p.P, &p.SP, &p.NP, &p.ADKIM, &p.ASPF, &p.FO} {
		*text = d.String()
	}
	p.Percent = int(d.UpTo(100))
	p.Testing = d.Bool()
	p.RUA = d.Strings()
	h.left = d.Uint()
	return h, d.End("head of a report about " + domain)
}

// Bounds on one observation. What is beyond them says nothing to the reader of a report.
const (
	maxSignatures = 10
	maxReasons    = 4
	maxURI        = 500
	maxURIs       = 10
)

// encodeRow writes what the messages of a row have in common: everything but their number.
func encodeRow(o *pipeline.DMARCObservation) []byte {
	b := make([]byte, 0, 256)
	str := func(s string) { b = codec.AppendString(b, cut(s, 255)) }
	str(o.Source.Unmap().WithZone("").String())
	str(o.Disposition)
	b = codec.AppendBool(b, o.DKIMAligned)
	b = codec.AppendBool(b, o.SPFAligned)
	reasons := o.Overrides[:min(len(o.Overrides), maxReasons)]
	b = binary.AppendUvarint(b, uint64(len(reasons)))
	for _, r := range reasons {
		str(r.Type)
		str(r.Comment)
	}
	to := ""
	if len(o.EnvelopeTo) == 1 { // one message is counted once, whoever else got it
		to = o.EnvelopeTo[0]
	}
	str(to)
	str(o.EnvelopeFrom)
	str(o.HeaderFrom)
	keys := preferred(o.DKIM, o.HeaderFrom)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		str(k.Domain)
		str(k.Selector)
		str(k.Result)
	}
	str(o.SPF.Domain)
	str(o.SPF.Scope)
	str(o.SPF.Result)
	return b
}

// preferred returns the signatures that a row tells of, in the order of RFC 9990 section 3.1.3: those that pass and are
// of the author's domain, of its organisation, any others that pass, and then the rest.
func preferred(list []pipeline.DMARCDKIM, author string) []pipeline.DMARCDKIM {
	rank := func(k pipeline.DMARCDKIM) int {
		switch {
		case k.Result != "pass":
			return 3
		case k.Domain == author:
			return 0
		case organisation(k.Domain) == organisation(author):
			return 1
		}
		return 2
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b pipeline.DMARCDKIM) int { return rank(a) - rank(b) })
	return list[:min(len(list), maxSignatures)]
}

// hashOf names a row.
func hashOf(row []byte) (h [hashSize]byte) {
	sum := sha256.Sum256(row)
	copy(h[:], sum[:])
	return h
}

// rowValue is the record of a row.
func rowValue(count uint64, row []byte) []byte {
	b := append(make([]byte, 0, len(row)+11), rowForm)
	return append(binary.AppendUvarint(b, count), row...)
}

// countOf reads the number in a row's record.
func countOf(value []byte) (uint64, error) {
	d := codec.Record(value, rowForm)
	count := d.Uint()
	if d.Bad() {
		return 0, fmt.Errorf("read a row of a report: %w", codec.ErrDamaged)
	}
	return count, nil
}

// decodeRow makes a row into a record of the report.
func decodeRow(value []byte) (dmarc.Record, error) {
	d := codec.Record(bytes.Clone(value), rowForm)
	var r dmarc.Record
	r.Row.Count = dmarc.Count(d.Uint())
	r.Row.SourceIP = d.String()
	e := &r.Row.Evaluated
	e.Disposition = d.String()
	e.DKIM, e.SPF = passed(d.Bool()), passed(d.Bool())
	for range d.Count() {
		e.Reasons = append(e.Reasons, dmarc.Reason{Type: d.String(), Comment: d.String()})
	}
	r.Identifiers = dmarc.Identifiers{EnvelopeTo: d.String(), EnvelopeFrom: d.String(), HeaderFrom: d.String()}
	for range d.Count() {
		r.Results.DKIM = append(r.Results.DKIM, dmarc.DKIM{Domain: d.String(), Selector: d.String(), Result: d.String()})
	}
	s := dmarc.SPF{Domain: d.String(), Scope: d.String(), Result: d.String()}
	if s.Result != "" {
		r.Results.SPF = []dmarc.SPF{s}
	}
	return r, d.End("row of a report")
}

func passed(yes bool) string {
	if yes {
		return "pass"
	}
	return "fail"
}

// wanted says whether a report about what was observed could go anywhere, and makes the domain safe for a key.
func wanted(o *pipeline.DMARCObservation) (domain string, ok bool) {
	if o.Report || !o.Source.IsValid() || o.Source == (netip.Addr{}) || len(o.Policy.RUA) == 0 {
		return "", false
	}
	return asciiDomain(o.Policy.Domain)
}
