package imap

import (
	"errors"
	"slices"
	"strings"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
)

const delimiter = '/'

// uses pairs the attributes of RFC 6154 with the store's.
var uses = [...]struct {
	use  storage.SpecialUse
	attr goimap.MailboxAttr
}{
	{storage.UseSent, goimap.MailboxAttrSent}, {storage.UseDrafts, goimap.MailboxAttrDrafts}, {storage.UseJunk, goimap.MailboxAttrJunk},
	{storage.UseTrash, goimap.MailboxAttrTrash}, {storage.UseArchive, goimap.MailboxAttrArchive},
}

// Select opens a mailbox, for SELECT and EXAMINE. What it shows is of one moment.
func (s *session) Select(name string, o *goimap.SelectOptions) (*goimap.SelectData, error) {
	if s.absent() {
		return reselect(), nil
	}
	ctx, cancel := s.command()
	defer cancel()
	var data *goimap.SelectData
	box := &selected{readOnly: o.ReadOnly}
	err := s.view(ctx, func(v *storage.View) error {
		m, err := v.Mailbox(name)
		if err != nil {
			return err
		}
		if box.seq, err = v.UIDs(m.ID); err != nil {
			return err
		}
		box.id, box.validity, box.since, box.keywords = m.ID, m.UIDValidity, m.HighestModSeq, len(m.Keywords)
		data = selectData(&m, o.ReadOnly)
		if m.Unseen > 0 {
			data.FirstUnseenSeqNum, err = firstUnseen(v, m.ID)
		}
		return err
	})
	if err != nil {
		return nil, s.fail("select", err)
	}
	s.mu.Lock()
	s.box, s.opened = box, true
	s.mu.Unlock()
	return data, nil
}

func selectData(m *storage.Mailbox, readOnly bool) *goimap.SelectData {
	d := &goimap.SelectData{NumMessages: m.Exists, UIDNext: goimap.UID(m.UIDNext), UIDValidity: m.UIDValidity}
	for _, f := range systemFlags {
		d.Flags = append(d.Flags, f.name)
	}
	for _, k := range m.Keywords {
		d.Flags = append(d.Flags, goimap.Flag(k))
	}
	if !readOnly {
		d.PermanentFlags = append(slices.Clone(d.Flags), goimap.FlagWildcard)
	}
	return d
}

// maxUnseenScan bounds the search for the first unseen message; UNSEEN is a hint
// that may be left out (RFC 3501 section 6.3.1).
const maxUnseenScan = 2000

func firstUnseen(v *storage.View, id storage.MailboxID) (uint32, error) {
	n, found := uint32(0), false
	err := v.Messages(id, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
		n++
		found = m.Flags.System&storage.Seen == 0
		return !found && n < maxUnseenScan, nil
	})
	if !found {
		n = 0
	}
	return n, err
}

// Unselect leaves the mailbox, for UNSELECT, CLOSE and a further SELECT.
func (s *session) Unselect() error {
	s.mu.Lock()
	s.box, s.opened = nil, false
	s.mu.Unlock()
	return nil
}

// Create makes a mailbox. A trailing delimiter says that mailboxes below are
// meant (RFC 3501 section 6.3.3), which makes no difference here.
func (s *session) Create(name string, o *goimap.CreateOptions) error {
	var use storage.SpecialUse
	for _, attr := range o.SpecialUse {
		i := slices.IndexFunc(uses[:], func(u struct {
			use  storage.SpecialUse
			attr goimap.MailboxAttr
		}) bool {
			return strings.EqualFold(string(u.attr), string(attr))
		})
		if i < 0 || use != 0 {
			return no("USEATTR", "This special use is not supported") // RFC 6154 section 3
		}
		use = uses[i].use
	}
	return s.fail("create", s.update(func(tx *storage.Tx) error {
		if use != 0 && slices.ContainsFunc(tx.Mailboxes(), func(m storage.Mailbox) bool { return m.Use == use }) {
			return no("USEATTR", "There is a mailbox with this special use")
		}
		_, err := tx.CreateMailbox(strings.TrimSuffix(name, "/"), use)
		return err
	}))
}

// Delete removes a mailbox. The selected one is left first, so that the session
// does not end for it.
func (s *session) Delete(name string) error {
	var id storage.MailboxID
	err := s.update(func(tx *storage.Tx) error {
		m, err := tx.Mailbox(name)
		if err != nil {
			return err
		}
		id = m.ID
		return tx.DeleteMailbox(name)
	})
	s.mu.Lock()
	if err == nil && s.box != nil && s.box.id == id {
		s.box = nil
	}
	s.mu.Unlock()
	return s.fail("delete", err)
}

// Rename renames a mailbox and those below it.
func (s *session) Rename(name, to string, _ *goimap.RenameOptions) error {
	return s.fail("rename", s.update(func(tx *storage.Tx) error {
		return tx.RenameMailbox(name, strings.TrimSuffix(to, "/"))
	}))
}

// Subscribe adds to the subscriptions. The mailbox must exist now (RFC 3501
// section 6.3.6 allows to check); it may be removed later.
func (s *session) Subscribe(name string) error {
	return s.fail("subscribe", s.update(func(tx *storage.Tx) error {
		if _, err := tx.Mailbox(name); err != nil {
			return err
		}
		return tx.Subscribe(name, true)
	}))
}

// Unsubscribe takes from the subscriptions.
func (s *session) Unsubscribe(name string) error {
	return s.fail("unsubscribe", s.update(func(tx *storage.Tx) error { return tx.Subscribe(name, false) }))
}

// Status shows the counters of a mailbox.
func (s *session) Status(name string, o *goimap.StatusOptions) (*goimap.StatusData, error) {
	ctx, cancel := s.command()
	defer cancel()
	var data *goimap.StatusData
	err := s.view(ctx, func(v *storage.View) error {
		m, err := v.Mailbox(name)
		if err == nil {
			data, err = s.statusOf(v, &m, o)
		}
		return err
	})
	return data, s.fail("status", err)
}

// statusOf fills in everything: the library dereferences what was asked for
// (LIBRARIES 2.4, trap 6). DELETED-STORAGE is the one that has to be counted.
func (s *session) statusOf(v *storage.View, m *storage.Mailbox, o *goimap.StatusOptions) (*goimap.StatusData, error) {
	limit := s.AppendLimit()
	recent, deleted := uint32(0), int64(0)
	d := &goimap.StatusData{
		Mailbox: m.Name, NumMessages: &m.Exists, NumRecent: &recent, UIDNext: goimap.UID(m.UIDNext), UIDValidity: m.UIDValidity,
		NumUnseen: &m.Unseen, NumDeleted: &m.Deleted, Size: &m.Size, AppendLimit: &limit, DeletedStorage: &deleted,
	}
	if !o.DeletedStorage || m.Deleted == 0 {
		return d, nil
	}
	err := v.Messages(m.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
		if m.Flags.System&storage.Deleted != 0 {
			deleted += m.Size
		}
		return true, nil
	})
	return d, err
}

// List implements LIST and LSUB (RFC 3501 sections 6.3.8 and 6.3.9, RFC 5258).
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, o *goimap.ListOptions) error {
	if len(patterns) == 0 { // asks for the delimiter only
		return w.WriteList(&goimap.ListData{Attrs: []goimap.MailboxAttr{goimap.MailboxAttrNoSelect}, Delim: delimiter})
	}
	// LSUB with % shows levels above subscriptions (RFC 3501 section 6.3.9); the
	// library does not tell it from LIST (SUBSCRIBED).
	parents := s.w.guard.verb == "LSUB" && strings.Contains(patterns[0], "%")
	patterns = possible(ref, patterns)
	ctx, cancel := s.command()
	defer cancel()
	var list []goimap.ListData
	err := s.view(ctx, func(v *storage.View) error {
		t := newTree(v.Mailboxes(), v.Subscriptions())
		for _, name := range t.names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !matchAny(patterns, name) {
				continue
			}
			d, ok := t.listData(name, o)
			if !ok && parents && t.subBelow[name] {
				d.Attrs, ok = []goimap.MailboxAttr{goimap.MailboxAttrNoSelect}, true
			}
			if !ok {
				continue
			}
			if m := t.boxes[name]; m != nil && o.ReturnStatus != nil {
				var err error
				if d.Status, err = s.statusOf(v, m, o.ReturnStatus); err != nil {
					return err
				}
			}
			list = append(list, d)
		}
		return nil
	})
	if err != nil {
		return s.fail("list", err)
	}
	for i := range list {
		if err := w.WriteList(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// tree is the account's mailboxes with the levels above them that do not exist.
type tree struct {
	names      []string // sorted, INBOX first
	boxes      map[string]*storage.Mailbox
	subscribed map[string]bool
	children   map[string]bool // has a mailbox below
	subBelow   map[string]bool // has a subscription below
}

func newTree(boxes []storage.Mailbox, subs []string) *tree {
	t := &tree{boxes: map[string]*storage.Mailbox{}, subscribed: map[string]bool{}, children: map[string]bool{}, subBelow: map[string]bool{}}
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			t.names = append(t.names, name)
		}
	}
	for i := range boxes {
		t.boxes[boxes[i].Name] = &boxes[i]
		add(boxes[i].Name)
		for up := above(boxes[i].Name); up != ""; up = above(up) {
			t.children[up] = true
			add(up)
		}
	}
	for _, name := range subs {
		t.subscribed[name] = true
		add(name)
		for up := above(name); up != ""; up = above(up) {
			t.subBelow[up] = true
			add(up)
		}
	}
	slices.SortFunc(t.names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == "INBOX":
			return -1
		case b == "INBOX":
			return 1
		}
		return strings.Compare(a, b)
	})
	return t
}

func above(name string) string {
	if i := strings.LastIndexByte(name, delimiter); i > 0 {
		return name[:i]
	}
	return ""
}

// listData describes one name, or says that the selection options leave it out.
func (t *tree) listData(name string, o *goimap.ListOptions) (goimap.ListData, bool) {
	d := goimap.ListData{Mailbox: name, Delim: delimiter}
	m := t.boxes[name]
	special := m != nil && m.Use != 0
	if o.SelectSpecialUse && !special {
		return d, false
	}
	switch {
	case o.SelectSubscribed && t.subscribed[name]:
	case o.SelectSubscribed && o.SelectRecursiveMatch && t.subBelow[name]:
	case o.SelectSubscribed, m == nil && !t.children[name]:
		return d, false
	}
	if o.SelectRecursiveMatch && t.subBelow[name] {
		d.ChildInfo = &goimap.ListDataChildInfo{Subscribed: true}
	}
	if m == nil {
		d.Attrs = append(d.Attrs, goimap.MailboxAttrNonExistent, goimap.MailboxAttrNoSelect)
	}
	if t.children[name] {
		d.Attrs = append(d.Attrs, goimap.MailboxAttrHasChildren)
	} else {
		d.Attrs = append(d.Attrs, goimap.MailboxAttrHasNoChildren)
	}
	if (o.ReturnSubscribed || o.SelectSubscribed) && t.subscribed[name] {
		d.Attrs = append(d.Attrs, goimap.MailboxAttrSubscribed)
	}
	if special {
		for _, u := range uses {
			if m.Use&u.use != 0 {
				d.Attrs = append(d.Attrs, u.attr)
			}
		}
	}
	return d, true
}

// maxName is the length of the longest name, in octets.
const maxName = 512

// possible returns the patterns below ref without those that no name can match, for matching costs time.
func possible(ref string, patterns []string) []string {
	var out []string
	for _, p := range patterns {
		p = ref + p
		if len(p)-strings.Count(p, "*")-strings.Count(p, "%") <= maxName {
			out = append(out, p)
		}
	}
	return out
}

// matchAny says whether name matches one of the patterns, INBOX without case.
func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if len(p) >= 5 && strings.EqualFold(p[:5], "inbox") && (len(p) == 5 || p[5] == delimiter) {
			p = "INBOX" + p[5:]
		}
		if match(p, name) || name == "INBOX" && match(strings.ToUpper(p), name) {
			return true
		}
	}
	return false
}

// match matches name against a pattern with * and % (not across delimiters), in
// time of at most the product of their lengths: the library's own is exponential.
func match(pattern, name string) bool {
	prev, cur := make([]bool, len(name)+1), make([]bool, len(name)+1)
	prev[0] = true
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		wild := c == '*' || c == '%'
		cur[0] = wild && prev[0]
		for j := 1; j <= len(name); j++ {
			n := name[j-1]
			switch {
			case c == '*' || c == '%' && n != delimiter:
				cur[j] = prev[j] || cur[j-1]
			case wild:
				cur[j] = prev[j]
			default:
				cur[j] = c == n && prev[j-1]
			}
		}
		prev, cur = cur, prev
	}
	return prev[len(name)]
}

// tryCreate turns "no such mailbox" into what APPEND, COPY and MOVE say of their
// destination (RFC 3501 section 6.3.11).
func tryCreate(err error) error {
	if errors.Is(err, storage.ErrNoMailbox) {
		return no(goimap.ResponseCodeTryCreate, "There is no such mailbox")
	}
	return err
}
