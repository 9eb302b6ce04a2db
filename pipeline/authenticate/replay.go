package authenticate

import (
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/storage/mime"
)

// maxNamed bounds how many addresses of To and Cc are looked at; those behind count as not there.
const maxNamed = 1000

// replay returns what shows that a message is one that was signed for others: the signatures that passed, which are the same
// each time it is sent (RFC 6376 section 8.6), and how many of the recipients stand in fields that one of them covers.
func replay(m *pipeline.Message, list []dkimResult) (signatures []string, named string) {
	to, cc := 0, 0 // how many fields of that name are covered, from the lowest up
	for i := range list {
		if r := &list[i]; r.result == resultPass {
			signatures = append(signatures, r.domain+"/"+r.selector+"/"+r.signature)
			to, cc = max(to, dkim.CountName(r.names, "To")), max(cc, dkim.CountName(r.names, "Cc"))
		}
	}
	there := namedIn(m.Arrived().Fields(), to, cc)
	n := 0
	for _, r := range m.Recipients {
		if there[sameForm(splitAddress(r.Address))] {
			n++
		}
	}
	switch n {
	case 0:
		return signatures, "none"
	case len(m.Recipients):
		return signatures, "all"
	}
	return signatures, "some"
}

// namedIn returns the addresses in the lowest fields To and Cc, as many of each as are covered.
func namedIn(fields []pipeline.Field, to, cc int) map[string]bool {
	there := make(map[string]bool)
	room := maxNamed
	for i := len(fields) - 1; i >= 0 && to+cc > 0 && room > 0; i-- {
		left := &cc
		if strings.EqualFold(fields[i].Name, "To") {
			left = &to
		} else if !strings.EqualFold(fields[i].Name, "Cc") {
			continue
		}
		if *left == 0 {
			continue
		}
		*left--
		for _, a := range mime.Addresses(fields[i].Value(), room) {
			there[sameForm(a.Mailbox, a.Host)] = true
			room--
		}
	}
	return there
}

// sameForm returns an address in the form in which two are the same: local parts without case (RULES A10), domains as A-labels.
func sameForm(local, domain string) string {
	if ascii, ok := asciiDomain(domain); ok {
		domain = ascii
	}
	return strings.ToLower(local + "@" + domain)
}
