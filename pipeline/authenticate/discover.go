package authenticate

import (
	"context"
	"strings"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// Discovery is how the record that holds for a domain is found, and what belongs to one organisation.
type Discovery string

// The ways. With "tree-walk" the list still has a word: a record at a name that it calls a public suffix, and that does
// not say by psd= what it is, makes nobody below it one organisation and is nobody's policy. Such records were written for
// the suffix's own mail under RFC 7489; taking them for more would let each customer of a registry pass for all others.
// What a domain says itself wins over the list, and the list wins over silence.
const (
	TreeWalk Discovery = "tree-walk" // RFC 9989 section 4.10
	ListOnly Discovery = "psl"       // RFC 7489 section 6.6.3 and 3.2
)

// walker finds records and organisations for one message, and asks for each name once.
type walker struct {
	dns  resolver.Lookup
	list bool // by the public suffix list
	seen []place
}

// place is what one name has.
type place struct {
	name   string
	record dmarcRecord
	found  bool
	err    error // it could not be found out
}

// at returns what a name has: one record, or none; several are none (RFC 7489 section 6.6.3 step 5, RFC 9989 section 4.10).
func (w *walker) at(ctx context.Context, name string) *place {
	for i := range w.seen {
		if w.seen[i].name == name {
			return &w.seen[i]
		}
	}
	p := place{name: name}
	texts, err := w.dns.LookupTXT(ctx, "_dmarc."+name)
	if err != nil && temporary(err) {
		p.err = err
	}
	versions := 0
	for _, text := range texts {
		if isDMARC(text) {
			if versions++; versions == 1 {
				p.record, p.found = parseDMARC(text)
			}
		}
	}
	if versions > 1 {
		p.found = false
	}
	w.seen = append(w.seen, p)
	return &w.seen[len(w.seen)-1]
}

// policy returns the record that holds for an author's domain and where it was found, "" if nowhere; an error means that
// this could not be found out.
func (w *walker) policy(ctx context.Context, domain string) (record dmarcRecord, at string, err error) {
	if w.list {
		for _, name := range []string{domain, organizational(domain)} {
			if p := w.at(ctx, name); p.err != nil || p.found {
				return p.record, p.name, p.err
			}
		}
		return record, "", nil
	}
	if p := w.at(ctx, domain); p.err != nil || p.found {
		return p.record, p.name, p.err
	}
	org, suffix, err := w.walk(ctx, domain)
	if err != nil {
		return record, "", err
	}
	for _, name := range []string{org, suffix} {
		if name == "" {
			continue
		}
		if p := w.at(ctx, name); p.found {
			return p.record, p.name, nil
		}
	}
	return record, "", nil
}

// organization returns the domain under which an organisation has everything.
func (w *walker) organization(ctx context.Context, domain string) (string, error) {
	if w.list {
		return organizational(domain), nil
	}
	org, _, err := w.walk(ctx, domain)
	return org, err
}

// mostLabels is how many labels the second name of a walk has at most: a walk asks for eight names, however many a domain has.
const mostLabels = 7

// walk is the tree walk of RFC 9989 section 4.10, with the choice of section 4.10.2: the organisation's domain, and the
// public suffix domain above it if that says psd=y.
func (w *walker) walk(ctx context.Context, domain string) (org, suffix string, err error) {
	org = domain
	for name := domain; name != ""; {
		p := w.at(ctx, name)
		switch {
		case p.err != nil:
			return "", "", p.err
		case !p.found || p.record.psd == 0 && name != domain && isSuffix(name):
		case p.record.psd == 'n':
			return name, "", nil
		case p.record.psd == 'y' && name != domain:
			return oneBelow(domain, name), name, nil
		case p.record.psd == 'y':
			return domain, "", nil
		default:
			org = name
		}
		_, name, _ = strings.Cut(name, ".")
		for strings.Count(name, ".") >= mostLabels {
			_, name, _ = strings.Cut(name, ".")
		}
	}
	return org, "", nil
}

// oneBelow returns the name one label below an ancestor of domain.
func oneBelow(domain, ancestor string) string {
	rest := strings.TrimSuffix(domain, "."+ancestor)
	return rest[strings.LastIndexByte(rest, '.')+1:] + "." + ancestor
}

// aligned compares an authenticated domain with the author's (RFC 7489 section 3.1), both as A-labels. An error means that
// this could not be found out. The author's organisation is asked for first, and of the authenticated domain nothing that
// is not in it: whoever owns another domain could let its DNS fail, and an open question would spare his message.
func (w *walker) aligned(ctx context.Context, authenticated, author string, strict bool) (bool, error) {
	if authenticated == author {
		return true, nil
	}
	if strict || authenticated == "" || topLabel(authenticated) != topLabel(author) {
		return false, nil
	}
	org, err := w.organization(ctx, author)
	if err != nil {
		return false, err
	}
	if authenticated != org && !strings.HasSuffix(authenticated, "."+org) {
		return false, nil
	}
	other, err := w.organization(ctx, authenticated)
	return other == org, err
}

func topLabel(domain string) string { return domain[strings.LastIndexByte(domain, '.')+1:] }
