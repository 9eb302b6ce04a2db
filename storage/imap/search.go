package imap

import (
	"errors"
	"net/mail"
	"slices"
	"strings"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
)

// Bounds of one SEARCH.
const (
	maxSearchDepth = 100
	maxSearchTexts = 50 // criteria that read content
	searchTime     = 2 * time.Minute
	searchPiece    = 200
)

// truth is the answer to a criterion: maybe means that the content decides.
type truth int8

const (
	no_ truth = iota
	maybe
	yes
)

// not, min and max are the logic of Kleene.
func not(t truth) truth { return yes - t }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no_
}

// node is a criterion. place is that of the message in the session's sequence;
// text is nil as long as only the record is known.
type node func(m *storage.Message, place int, text *messageText) truth

// Search answers SEARCH (RFC 3501 section 6.4.4, RFC 4731).
func (s *session) Search(kind imapserver.NumKind, c *goimap.SearchCriteria, o *goimap.SearchOptions) (*goimap.SearchData, error) {
	box, err := s.current(false)
	if err != nil {
		return nil, err
	}
	if o.ReturnSave {
		return nil, bad("SEARCHRES is not supported")
	}
	comp := compiler{seq: box.seq}
	match, err := comp.criteria(c, 0)
	if err != nil {
		return nil, err
	}
	spans, err := searchBase(box.seq, c)
	if err != nil {
		return nil, err
	}
	run := searcher{s: s, box: box, match: match, end: time.Now().Add(searchTime)}
	if err := eachPiece(box.seq, spans, searchPiece, run.piece); err != nil {
		return nil, s.fail("search", err)
	}
	return searchData(box.seq, kind, run.found), nil
}

// searchBase narrows the search to the first set of messages that is named.
func searchBase(seq *storage.UIDSequence, c *goimap.SearchCriteria) ([]span, error) {
	switch {
	case len(c.UID) > 0:
		return resolve(seq, c.UID[0])
	case len(c.SeqNum) > 0:
		return resolve(seq, c.SeqNum[0])
	case seq.Len() == 0:
		return nil, nil
	}
	return []span{{0, seq.Len() - 1}}, nil
}

func searchData(seq *storage.UIDSequence, kind imapserver.NumKind, found []int) *goimap.SearchData {
	d := &goimap.SearchData{Count: uint32(len(found))}
	nums := make([]uint32, len(found))
	for i, at := range found {
		nums[i] = uint32(at + 1)
		if kind == imapserver.NumKindUID {
			nums[i] = uint32(seq.At(at))
		}
	}
	if len(nums) > 0 {
		d.Min, d.Max = nums[0], nums[len(nums)-1]
	}
	if kind != imapserver.NumKindUID {
		d.All = seqSet(nums)
		return d
	}
	uids := make([]storage.UID, len(nums))
	for i, n := range nums {
		uids[i] = storage.UID(n)
	}
	d.All = uidSet(uids)
	return d
}

// searcher goes through the messages.
type searcher struct {
	s     *session
	box   *selected
	match node
	end   time.Time
	found []int // places, ascending
}

// piece asks of each message first its record, then its structure, and last its
// content, as far as that is needed.
func (r *searcher) piece(uids []storage.UID) error {
	ctx, cancel := r.s.command()
	defer cancel()
	var open []*storage.Message // the content decides
	var sure []int
	err := r.s.view(ctx, func(v *storage.View) error {
		return v.MessagesOf(r.box.id, uids, func(m *storage.Message) (bool, error) {
			at, ok := r.box.seq.Index(m.UID)
			if !ok {
				return true, nil
			}
			t := r.match(m, at, nil)
			if t == maybe {
				sum, err := v.Summary(m)
				if err != nil {
					return false, err
				}
				t = r.match(m, at, &messageText{sum: sum})
			}
			switch t {
			case yes:
				sure = append(sure, at)
			case maybe:
				open = append(open, m.Clone())
			}
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	for _, m := range open {
		at, _ := r.box.seq.Index(m.UID)
		hit, err := r.read(m, at)
		if err != nil {
			return err
		}
		if hit {
			sure = append(sure, at)
		}
	}
	slices.Sort(sure)
	r.found = append(r.found, sure...)
	return nil
}

// read decides by the content of a message.
func (r *searcher) read(m *storage.Message, at int) (bool, error) {
	if time.Now().After(r.end) {
		return false, no(goimap.ResponseCodeLimit, "The search takes too long")
	}
	ctx, cancel := r.s.command()
	defer cancel()
	text := &messageText{ctx: ctx, store: r.s.srv.o.Store, m: m, end: r.end}
	defer text.close()
	hit := r.match(m, at, text) == yes
	if errors.Is(text.err, storage.ErrNoContent) { // expunged meanwhile, and collected
		return false, nil
	}
	return hit, text.err
}

// compiler turns the library's criteria into nodes.
type compiler struct {
	seq   *storage.UIDSequence
	texts int
}

func (c *compiler) criteria(k *goimap.SearchCriteria, depth int) (node, error) {
	if depth > maxSearchDepth {
		return nil, no(goimap.ResponseCodeLimit, "The search is nested too deep")
	}
	list := c.record(k)
	sets, err := c.sets(k)
	if err != nil {
		return nil, err
	}
	list = append(list, sets...)
	list = append(list, c.content(k)...)
	for i := range k.Not {
		n, err := c.criteria(&k.Not[i], depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, func(m *storage.Message, at int, t *messageText) truth { return not(n(m, at, t)) })
	}
	for i := range k.Or {
		a, err := c.criteria(&k.Or[i][0], depth+1)
		if err != nil {
			return nil, err
		}
		b, err := c.criteria(&k.Or[i][1], depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, func(m *storage.Message, at int, t *messageText) truth { return max(a(m, at, t), b(m, at, t)) })
	}
	if c.texts > maxSearchTexts {
		return nil, no(goimap.ResponseCodeLimit, "Too many texts in one search")
	}
	return func(m *storage.Message, at int, t *messageText) truth {
		all := yes
		for _, n := range list {
			if all = min(all, n(m, at, t)); all == no_ {
				break
			}
		}
		return all
	}, nil
}

// sets are the criteria on numbers.
func (c *compiler) sets(k *goimap.SearchCriteria) ([]node, error) {
	var list []node
	add := func(set goimap.NumSet) error {
		spans, err := resolve(c.seq, set)
		list = append(list, func(_ *storage.Message, at int, _ *messageText) truth {
			i, ok := slices.BinarySearchFunc(spans, at, func(s span, at int) int { return s.first - at })
			return truthOf(ok || i > 0 && at <= spans[i-1].last)
		})
		return err
	}
	for _, s := range k.SeqNum {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	for _, s := range k.UID {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// record are the criteria that the message's record answers.
func (c *compiler) record(k *goimap.SearchCriteria) []node {
	var list []node
	add := func(n func(m *storage.Message) bool) {
		list = append(list, func(m *storage.Message, _ int, _ *messageText) truth { return truthOf(n(m)) })
	}
	for _, f := range k.Flag {
		has := hasFlag(f)
		add(has)
	}
	for _, f := range k.NotFlag {
		has := hasFlag(f)
		add(func(m *storage.Message) bool { return !has(m) })
	}
	if n := k.Larger; n > 0 {
		add(func(m *storage.Message) bool { return m.Size > n })
	}
	if n := k.Smaller; n > 0 { // the guard writes it as NOT LARGER; see there
		add(func(m *storage.Message) bool { return m.Size < n })
	}
	if d := k.Since; !d.IsZero() {
		add(func(m *storage.Message) bool { return !day(m.InternalDate).Before(day(d)) })
	}
	if d := k.Before; !d.IsZero() {
		add(func(m *storage.Message) bool { return day(m.InternalDate).Before(day(d)) })
	}
	return list
}

// hasFlag knows system flags and keywords. \Recent is not kept: no message has it.
func hasFlag(f goimap.Flag) func(*storage.Message) bool {
	for _, sys := range systemFlags {
		if strings.EqualFold(string(f), string(sys.name)) {
			return func(m *storage.Message) bool { return m.Flags.System&sys.bit != 0 }
		}
	}
	return func(m *storage.Message) bool {
		return slices.ContainsFunc(m.Flags.Keywords, func(k string) bool { return strings.EqualFold(k, string(f)) })
	}
}

// day is the date as it is written, without time and zone (RFC 3501 section 6.4.4).
func day(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// content are the criteria that the structure or the content answers.
func (c *compiler) content(k *goimap.SearchCriteria) []node {
	var list []node
	add := func(n func(t *messageText) truth) {
		c.texts++
		list = append(list, func(_ *storage.Message, _ int, t *messageText) truth {
			if t == nil {
				return maybe
			}
			return n(t)
		})
	}
	if d := k.SentSince; !d.IsZero() {
		add(func(t *messageText) truth { return t.sent(func(sent time.Time) bool { return !sent.Before(day(d)) }) })
	}
	if d := k.SentBefore; !d.IsZero() {
		add(func(t *messageText) truth { return t.sent(func(sent time.Time) bool { return sent.Before(day(d)) }) })
	}
	for _, h := range k.Header {
		value := strings.ToLower(h.Value)
		add(func(t *messageText) truth { return t.header(h.Key, value) })
	}
	for _, b := range k.Body {
		needle := strings.ToLower(b)
		add(func(t *messageText) truth { return t.body(needle) })
	}
	for _, b := range k.Text {
		needle := strings.ToLower(b)
		add(func(t *messageText) truth { return max(t.header("", needle), t.body(needle)) })
	}
	return list
}

// parseDate reads the Date field; comments are allowed in it.
func parseDate(s string) (time.Time, bool) {
	t, err := mail.ParseDate(s)
	return t, err == nil
}
