package dmarc

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/sluicemail/sluice/storage/mime"
)

// Bounds on what is read.
const (
	MaxRecords  = 50_000 // that are kept; more are counted
	maxTokens   = 4000   // of one element below the root: a record with a hundred signatures has 1,700
	maxDepth    = 16     // a record has 5
	maxElements = 200_000
	maxEquals   = 400_000 // equals signs, of which each attribute has one: the decoder reads all of a tag before they can be counted
	maxText     = 300     // octets of one text: a domain has 253
	maxErrors   = 20
	maxAnything = 100 // signatures, SPF results and reasons of one record
)

// ErrNotFeedback is wrapped by the error about a document that is XML and no aggregate report.
var ErrNotFeedback = errors.New("it is not a DMARC aggregate report")

// Read reads one document. It fails on what is not XML, on what is not a report, and on what goes beyond the bounds of
// one element; r is read to its end at most.
func Read(r io.Reader) (*Feedback, error) {
	bounded := &tokens{raw: xml.NewDecoder(&equals{in: r})}
	bounded.raw.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		if !mime.KnownCharset(charset) {
			return nil, errors.New("unknown charset")
		}
		return &equals{in: mime.TextReader(charset, in)}, nil
	}
	d := xml.NewTokenDecoder(bounded)
	root, err := firstElement(d)
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	if root.Name.Local != "feedback" {
		return nil, fmt.Errorf("read the report: %w: its root is %q", ErrNotFeedback, clean(root.Name.Local))
	}
	f := &Feedback{}
	if err := f.read(d, bounded); err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	if f.Policy.Domain == "" {
		return nil, fmt.Errorf("read the report: %w: it names no domain", ErrNotFeedback)
	}
	return f, nil
}

// equals reads what in has, up to maxEquals equals signs.
type equals struct {
	in    io.Reader
	count int
}

// Read implements io.Reader.
func (e *equals) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if e.count += bytes.Count(p[:n], []byte("=")); e.count > maxEquals {
		return 0, errors.New("it has too many attributes")
	}
	return n, err
}

func firstElement(d *xml.Decoder) (xml.StartElement, error) {
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			err = ErrNotFeedback
		}
		if err != nil {
			return xml.StartElement{}, err
		}
		if start, ok := token.(xml.StartElement); ok {
			return start, nil
		}
	}
}

// read takes what is inside the root, element by element.
func (f *Feedback) read(d *xml.Decoder, bounded *tokens) error {
	for range maxElements {
		bounded.count = 0
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			if err := f.element(d, t); err != nil {
				return err
			}
		}
	}
	return errors.New("it has too many elements")
}

func (f *Feedback) element(d *xml.Decoder, start xml.StartElement) error {
	switch start.Name.Local {
	case "version":
		err := d.DecodeElement(&f.Version, &start)
		f.Version = clean(f.Version)
		return err
	case "report_metadata":
		f.Metadata = Metadata{}
		err := d.DecodeElement(&f.Metadata, &start)
		f.Metadata.clean()
		return err
	case "policy_published":
		f.Policy = Policy{}
		err := d.DecodeElement(&f.Policy, &start)
		f.Policy.clean()
		return err
	case "record":
		var r Record
		if err := d.DecodeElement(&r, &start); err != nil {
			return err
		}
		if len(f.Records) == MaxRecords || !r.clean() {
			f.Left++
			return nil
		}
		f.Records = append(f.Records, r)
		return nil
	}
	return d.Skip()
}

// tokens bounds what the decoder behind it may hand on.
type tokens struct {
	raw   *xml.Decoder
	count int // in this element
	depth int
}

// Token implements xml.TokenReader.
func (t *tokens) Token() (xml.Token, error) {
	token, err := t.raw.RawToken()
	if err != nil {
		return token, err
	}
	if t.count++; t.count > maxTokens {
		return nil, errors.New("one of its elements is too large")
	}
	switch e := token.(type) {
	case xml.StartElement:
		if t.depth++; t.depth > maxDepth {
			return nil, errors.New("its elements are nested too deep")
		}
		if len(e.Attr) > maxAnything {
			return nil, errors.New("one of its elements has too many attributes")
		}
	case xml.EndElement:
		t.depth--
	case xml.Directive: // a document type may define entities, which nobody needs here
		return nil, errors.New("it has a document type declaration")
	}
	return token, nil
}

func (m *Metadata) clean() {
	cleanAll(&m.OrgName, &m.Email, &m.Contact, &m.ReportID)
	m.Errors = m.Errors[:min(len(m.Errors), maxErrors)]
	for i := range m.Errors {
		cleanAll(&m.Errors[i])
	}
}

func (p *Policy) clean() {
	cleanAll(&p.Domain, &p.ADKIM, &p.ASPF, &p.P, &p.SP, &p.Percent, &p.FO, &p.NP, &p.Testing, &p.Discovery)
}

// clean cuts what a record says; false: it says nothing that could be counted.
func (r *Record) clean() bool {
	e := &r.Row.Evaluated
	cleanAll(&r.Row.SourceIP, &e.Disposition, &e.DKIM, &e.SPF)
	cleanAll(&r.Identifiers.EnvelopeTo, &r.Identifiers.EnvelopeFrom, &r.Identifiers.HeaderFrom)
	e.Reasons = cut(e.Reasons)
	for i := range e.Reasons {
		cleanAll(&e.Reasons[i].Type, &e.Reasons[i].Comment)
	}
	a := &r.Results
	a.DKIM, a.SPF = cut(a.DKIM), cut(a.SPF)
	for i := range a.DKIM {
		cleanAll(&a.DKIM[i].Domain, &a.DKIM[i].Selector, &a.DKIM[i].Result, &a.DKIM[i].Human)
	}
	for i := range a.SPF {
		cleanAll(&a.SPF[i].Domain, &a.SPF[i].Scope, &a.SPF[i].Result)
	}
	return r.Row.Count != badCount && r.Row.SourceIP != ""
}

// cut returns the first items of a list, without the room that the others took.
func cut[T any](list []T) []T {
	if len(list) <= maxAnything {
		return list
	}
	return slices.Clone(list[:maxAnything])
}

func cleanAll(texts ...*string) {
	for _, t := range texts {
		*t = clean(*t)
	}
}

// clean makes one line of printable text of bounded length of s.
func clean(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.Clone(s)) // not a piece of a larger text that would stay in memory
}
