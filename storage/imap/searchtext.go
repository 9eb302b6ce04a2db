package imap

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/mime"
)

// maxSearchHeader bounds what SEARCH reads of a header.
const maxSearchHeader = 1 << 20

// messageText is a message for SEARCH, as far as the criteria need it. With the
// structure alone (store is nil) what would need the content is maybe. After an
// error everything is false and err says why.
type messageText struct {
	ctx   context.Context
	store *storage.Store
	m     *storage.Message
	end   time.Time
	err   error

	content *storage.Content
	sum     *mime.Summary
	head    []byte
	fields  []mime.Field
}

func (t *messageText) close() {
	if t.content != nil {
		t.content.Close()
	}
}

// open reads the structure and the header; false if that fails. A message that
// is gone meanwhile matches nothing.
func (t *messageText) open() bool {
	if t.content != nil || t.err != nil {
		return t.err == nil
	}
	if t.content, t.err = t.store.Open(t.ctx, t.m); t.err != nil {
		return false
	}
	if t.sum, t.err = t.content.Summary(t.ctx); t.err != nil {
		return false
	}
	rs, err := t.sum.Find(t.content, t.content.Front(), mime.Section{Piece: mime.Header})
	if err == nil {
		t.head, err = io.ReadAll(rs.Partial(0, maxSearchHeader).Reader(t.content))
	}
	if err != nil {
		t.err = fmt.Errorf("read header: %w", err)
		return false
	}
	t.fields = mime.Fields(t.head)
	return true
}

// sent asks the day of the Date field.
func (t *messageText) sent(ask func(time.Time) bool) truth {
	if t.sum == nil && !t.open() {
		return no_
	}
	d, ok := parseDate(t.sum.Envelope.Date)
	return truthOf(ok && ask(day(d)))
}

// header says whether a field called name (any if "") holds value, which is in
// lower case; encoded words are decoded first. An empty value asks for the field
// alone (RFC 3501 section 6.4.4).
func (t *messageText) header(name, value string) truth {
	if t.content == nil && t.err == nil {
		if answer, ok := t.envelope(name, value); ok {
			return answer
		}
		if t.store == nil {
			return maybe
		}
	}
	if !t.open() {
		return no_
	}
	for _, f := range t.fields {
		if name != "" && !strings.EqualFold(f.Name, name) {
			continue
		}
		begin := f.ValueStart
		if name == "" {
			begin = f.Start
		}
		if holds(string(t.head[begin:f.End]), value) {
			return yes
		}
	}
	return no_
}

// holds looks for value in a field, decoded and without its folds.
func holds(text, value string) bool {
	text = strings.NewReplacer("\r", "", "\n", "").Replace(text)
	return strings.Contains(strings.ToLower(mime.DecodeWords(text)), value)
}

// envelope answers for the fields that SEARCH knows by name: those keys are about
// the envelope structure (RFC 3501 section 6.4.4). ok is false if the header has
// to be read: other fields, and envelopes that do not show everything.
func (t *messageText) envelope(name, value string) (answer truth, ok bool) {
	const partial = mime.LimitKept | mime.LimitHeader | mime.DuplicateField
	if t.sum == nil || value == "" || t.sum.Opaque || t.sum.Defects&partial != 0 {
		return no_, false
	}
	env := &t.sum.Envelope
	var list []mime.Address
	switch strings.ToLower(name) {
	case "subject":
		return truthOf(holds(env.Subject, value)), true
	case "from":
		list = env.From
	case "to":
		list = env.To
	case "cc":
		list = env.Cc
	case "bcc":
		list = env.Bcc
	default:
		return no_, false
	}
	for i := range list {
		a := &list[i]
		if holds(a.Name+" <"+a.Mailbox+"@"+a.Host+">", value) {
			return yes, true
		}
	}
	return no_, true
}

// body says whether a text part holds needle, which is in lower case.
func (t *messageText) body(needle string) truth {
	if t.store == nil {
		return maybe
	}
	return truthOf(t.open() && t.search(t.sum.Root, needle))
}

func (t *messageText) search(p *mime.Part, needle string) bool {
	for _, c := range p.Children {
		if t.search(c, needle) {
			return true
		}
	}
	if len(p.Children) > 0 || p.Type != "text" || t.err != nil {
		return false
	}
	section := io.NewSectionReader(t.content, p.BodyStart+t.content.Front(), p.Size())
	r, err := mime.Decoder(p.Encoding, section)
	if err != nil { // an unknown encoding is searched as it is
		r = section
	}
	charset, _ := p.Param("charset")
	found, err := t.scan(mime.TextReader(charset, r), min(p.Size()+64, 32<<10), needle)
	if err != nil {
		t.err = fmt.Errorf("search part: %w", err)
	}
	return found
}

// scan looks for needle in r, a window at a time, case aside.
func (t *messageText) scan(r io.Reader, window int64, needle string) (bool, error) {
	buf := make([]byte, window)
	have := 0 // octets of an unfinished character
	tail := ""
	for {
		if time.Now().After(t.end) {
			return false, context.DeadlineExceeded
		}
		n, err := r.Read(buf[have:])
		n += have
		whole := n
		if err == nil {
			whole = wholeRunes(buf[:n])
		}
		text := tail + strings.ToLower(string(buf[:whole]))
		if strings.Contains(text, needle) {
			return true, nil
		}
		tail = text[max(0, len(text)-len(needle)):]
		have = copy(buf, buf[whole:n])
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// wholeRunes returns how much of b does not end inside a character.
func wholeRunes(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
