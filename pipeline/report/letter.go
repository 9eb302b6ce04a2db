package report

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// Letter is a report on its way out by mail.
type Letter struct {
	Kind  string // "dmarc" or "tls"
	About string // the domain that is reported about
	ID    string // the report's ID, which is the Message-ID without angle brackets
	From  string // address in From; the envelope's sender is null (RULES A8)
	To    string // the one recipient
	Text  []byte // the message, 7-bit, lines ended by CRLF
}

// paper is what a letter is made of.
type paper struct {
	kind, about, id, from, to, hostname string
	at                                  time.Time
	begin, end                          int64
	packed                              []byte // the report, gzip
}

// submitter is the domain that reports: that of the address in From, whose key signs the letter (RFC 8460 section 3:
// reports without a signature of the reporting domain are not looked at).
func (p *paper) submitter() string { return p.from[strings.LastIndexByte(p.from, '@')+1:] }

// fileName is that of RFC 7489 section 7.2.1.1 and of RFC 8460 section 5.1: who reports, about whom, the period, and what
// tells apart the reports of several servers of one domain.
func (p *paper) fileName() string {
	extension := "xml.gz"
	if p.kind == kindTLS {
		extension = "json.gz"
	}
	unique, _, _ := strings.Cut(p.id, "@") // PERIOD.HASH
	unique = unique[strings.IndexByte(unique, '.')+1:]
	return fmt.Sprintf("%s!%s!%d!%d!%s.%s", p.submitter(), p.about, p.begin, p.end, unique, extension)
}

// write makes the message (RFC 7489 section 7.2.1.1; RFC 8460 section 5.3). Every value in it was checked before.
func (p *paper) write() *Letter {
	var b bytes.Buffer
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	boundary := "report-" + strings.Map(func(r rune) rune {
		if r == '@' || r == '_' {
			return '.'
		}
		return r
	}, cut(p.id, 50))
	field("From", "<"+p.from+">")
	field("To", "<"+p.to+">")
	field("Subject", fmt.Sprintf("Report Domain: %s\r\n Submitter: %s\r\n Report-ID: <%s>", p.about, p.submitter(), p.id))
	field("Date", p.at.UTC().Format(time.RFC1123Z))
	field("Message-ID", "<"+p.id+">")
	field("Auto-Submitted", "auto-generated")
	media, words := "application/gzip", "an aggregate DMARC report"
	if p.kind == kindTLS {
		field("TLS-Report-Domain", p.about)
		field("TLS-Report-Submitter", p.submitter())
		field("TLS-Required", "No") // who has trouble with TLS has to hear of it (RFC 8460 section 3, RFC 8689 section 3)
		media, words = "application/tlsrpt+gzip", "an aggregate TLS report"
	}
	field("MIME-Version", "1.0")
	if p.kind == kindTLS {
		field("Content-Type", "multipart/report; report-type=\"tlsrpt\";\r\n boundary=\""+boundary+"\"")
	} else {
		field("Content-Type", "multipart/mixed; boundary=\""+boundary+"\"")
	}
	fmt.Fprintf(&b, "\r\n--%s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n", boundary)
	fmt.Fprintf(&b, "This is %s of the mail server\r\n%s\r\nabout the domain\r\n%s\r\nfrom %s to %s.\r\n", words, p.hostname, p.about,
		time.Unix(p.begin, 0).UTC().Format(time.RFC3339), time.Unix(p.end, 0).UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "\r\n--%s\r\nContent-Type: %s\r\n", boundary, media)
	b.WriteString("Content-Transfer-Encoding: base64\r\n")
	// A host name and two domains may be longer than a line (RFC 5322 section 2.1.1) should be; the parameter stands on a line of its own.
	fmt.Fprintf(&b, "Content-Disposition: attachment;\r\n filename=\"%s\"\r\n\r\n", p.fileName())
	text := base64.StdEncoding.EncodeToString(p.packed)
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	fmt.Fprintf(&b, "%s\r\n--%s--\r\n", text, boundary)
	return &Letter{Kind: p.kind, About: p.about, ID: p.id, From: p.from, To: p.to, Text: b.Bytes()}
}

// pack compresses a document (RFC 1952), the same way each time.
func pack(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // fails for other levels alone
	_, _ = w.Write(text)                                  // a bytes.Buffer takes everything
	_ = w.Close()
	return b.Bytes()
}
