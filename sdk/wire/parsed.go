package wire

import "github.com/sluicemail/sluice/sdk"

// ToParsed puts the shared parse of a message on the wire, for the question id. The
// result shares strings and the list of URLs with p.
func ToParsed(id uint64, p *sdk.Parsed) *Parsed {
	out := &Parsed{Id: id, Urls: validAll(p.URLs), Truncated: p.Truncated}
	if n := len(p.Parts); n > 0 {
		list := make([]Part, n)
		out.Parts = make([]*Part, n)
		for i := range p.Parts {
			from, to := &p.Parts[i], &list[i]
			to.Parent, to.Section, to.Type, to.Charset = int32(from.Parent), valid(from.Section), valid(from.Type), valid(from.Charset)
			to.Encoding, to.Disposition, to.Name = valid(from.Encoding), valid(from.Disposition), valid(from.Name)
			to.Offset, to.Length, to.Text = from.Offset, from.Length, valid(from.Text)
			out.Parts[i] = to
		}
	}
	if n := len(p.Ambiguities); n > 0 {
		out.Ambiguities = make([]*Ambiguity, n)
		for i, a := range p.Ambiguities {
			out.Ambiguities[i] = &Ambiguity{Kind: valid(a.Kind), Part: int32(a.Part), Text: valid(a.Text)}
		}
	}
	return out
}

// FromParsed reads the shared parse of a message. Indices are as they came.
func FromParsed(p *Parsed) *sdk.Parsed {
	out := &sdk.Parsed{URLs: p.GetUrls(), Truncated: p.GetTruncated()}
	if n := len(p.GetParts()); n > 0 {
		out.Parts = make([]sdk.Part, n)
	}
	for i, x := range p.GetParts() {
		out.Parts[i] = sdk.Part{
			Parent: int(x.GetParent()), Section: x.GetSection(), Type: x.GetType(), Charset: x.GetCharset(),
			Encoding: x.GetEncoding(), Disposition: x.GetDisposition(), Name: x.GetName(),
			Offset: x.GetOffset(), Length: x.GetLength(), Text: x.GetText(),
		}
	}
	for _, a := range p.GetAmbiguities() {
		out.Ambiguities = append(out.Ambiguities, sdk.Ambiguity{Kind: a.GetKind(), Part: int(a.GetPart()), Text: a.GetText()})
	}
	return out
}
