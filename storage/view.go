package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// View reads one account at one moment. It is valid during the function given to Store.View and on its goroutine.
type View struct {
	s     *Store
	ctx   context.Context
	id    AccountID
	e     *entry
	state *accountState
	pos   kv.Pos
	snap  kv.Snapshot

	loaded map[MailboxID]*UIDSequence // read by this View
}

// maxView is how long a View may be open: an engine need not keep a snapshot longer (RULES B2).
const maxView = 30 * time.Second

// View runs fn over a consistent state of the account. Before anything from it is shown to anybody outside, the caller
// waits: WaitDurable(ctx, view.Pos()). After 30 s every read fails with context.DeadlineExceeded: fn does not wait for the
// network.
func (s *Store) View(ctx context.Context, account AccountID, fn func(*View) error) (err error) {
	e := s.cache.acquire(account)
	defer s.cache.release(e)
	ctx, cancel := context.WithTimeout(ctx, maxView)
	defer cancel()
	v := &View{s: s, ctx: ctx, id: account, e: e}
	if err := v.open(); err != nil {
		return err
	}
	defer func() {
		if cerr := v.snap.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close the view of account %s: %w", account, cerr)
		}
	}()
	return fn(v)
}

// open takes the account's state and a snapshot of the same moment.
func (v *View) open() (err error) {
	for {
		v.e.mu.Lock()
		if v.e.state != nil {
			v.state, v.pos = v.e.state, v.e.pos
			v.snap, err = v.s.engine.Snapshot(v.ctx)
			v.e.mu.Unlock()
			if err != nil {
				return fmt.Errorf("view account %s: %w", v.id, err)
			}
			return nil
		}
		v.e.mu.Unlock()
		if err := v.s.warm(v.ctx, v.e); err != nil {
			return err
		}
	}
}

// warm reads the account's state into memory.
func (s *Store) warm(ctx context.Context, e *entry) error {
	if err := e.take(ctx); err != nil {
		return fmt.Errorf("lock account %s: %w", e.id, err)
	}
	defer e.give()
	_, err := s.state(ctx, e)
	return err
}

// Quota returns what the account uses and may use, without reading the engine when the account is in memory.
func (s *Store) Quota(ctx context.Context, account AccountID) (Quota, error) {
	e := s.cache.acquire(account)
	defer s.cache.release(e)
	for {
		e.mu.Lock()
		st := e.state
		e.mu.Unlock()
		if st != nil {
			return st.quota(), nil
		}
		if err := s.warm(ctx, e); err != nil {
			return Quota{}, err
		}
	}
}

func (st *accountState) quota() Quota { return Quota{Used: st.used, Limit: st.limit, Count: st.count} }

// Pos is the position that must be durable before what this View shows may be told to anybody.
func (v *View) Pos() kv.Pos { return v.pos }

// Account returns the account that is read.
func (v *View) Account() AccountID { return v.id }

// Quota returns what the account uses and may use.
func (v *View) Quota() Quota { return v.state.quota() }

// ModSeq returns the highest modification sequence of the account.
func (v *View) ModSeq() ModSeq { return v.state.seq }

// Mailboxes returns all mailboxes by name, INBOX first.
func (v *View) Mailboxes() []Mailbox {
	out := make([]Mailbox, 0, len(v.state.boxes))
	for _, b := range v.state.boxes {
		out = append(out, b.mailbox(v.state.subs))
	}
	sortMailboxes(out)
	return out
}

func sortMailboxes(list []Mailbox) {
	slices.SortFunc(list, func(a, b Mailbox) int {
		if (a.Name == inbox) != (b.Name == inbox) {
			if a.Name == inbox {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// Subscriptions returns the subscribed names, sorted; they need not exist. Do not change the slice.
func (v *View) Subscriptions() []string { return v.state.subs }

// Mailbox returns the mailbox called name (INBOX in any case), or ErrNoMailbox.
func (v *View) Mailbox(name string) (Mailbox, error) {
	n, err := CleanName(name)
	if err != nil {
		return Mailbox{}, err
	}
	return v.MailboxByID(v.state.names[n])
}

// MailboxByUse returns the mailbox with a special use, or ErrNoMailbox.
func (v *View) MailboxByUse(use SpecialUse) (Mailbox, error) {
	for _, b := range v.state.boxes {
		if b.Use == use && use != 0 {
			return b.mailbox(v.state.subs), nil
		}
	}
	return Mailbox{}, ErrNoMailbox
}

// MailboxByID returns a mailbox, or ErrNoMailbox.
func (v *View) MailboxByID(id MailboxID) (Mailbox, error) {
	b, err := v.box(id)
	if err != nil {
		return Mailbox{}, err
	}
	return b.mailbox(v.state.subs), nil
}

func (v *View) box(id MailboxID) (*box, error) {
	if b := v.state.find(id); b != nil {
		return b, nil
	}
	return nil, ErrNoMailbox
}

// Messages visits the messages with UIDs in [first, last] in ascending order until visit returns false or an error. The
// message is valid during the visit only; Clone keeps it.
func (v *View) Messages(mailbox MailboxID, first, last UID, visit func(*Message) (more bool, err error)) error {
	b, err := v.box(mailbox)
	if err != nil {
		return err
	}
	if first > last {
		return nil
	}
	lower := appendMessageKey(nil, v.id, mailbox, first)
	upper := append(appendMessageKey(nil, v.id, mailbox, last), 0)
	var r record
	var m Message
	err = v.snap.Scan(v.ctx, lower, upper, false, func(key, value []byte) (bool, error) {
		if err := decodeRecord(value, &r); err != nil {
			return false, fmt.Errorf("UID %d: %w", tailUID(key), err)
		}
		r.message(&m, b, tailUID(key))
		return visit(&m)
	})
	if err != nil {
		return fmt.Errorf("read messages of mailbox %d of account %s: %w", mailbox, v.id, err)
	}
	return nil
}

// MessagesOf visits the messages with the given ascending UIDs that exist, as Messages does.
func (v *View) MessagesOf(mailbox MailboxID, uids []UID, visit func(*Message) (more bool, err error)) error {
	for len(uids) > 0 {
		n := run(uids)
		part := uids[:n]
		uids = uids[n:]
		stopped := false
		err := v.Messages(mailbox, part[0], part[n-1], func(m *Message) (bool, error) {
			for len(part) > 0 && part[0] < m.UID {
				part = part[1:]
			}
			if len(part) == 0 || part[0] != m.UID {
				return true, nil
			}
			more, err := visit(m)
			stopped = !more
			return more, err
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// run says how many of the ascending UIDs lie so close together that one scan is cheaper than several.
func run(uids []UID) int {
	n := 1
	for n < len(uids) && uids[n]-uids[n-1] <= 8 {
		n++
	}
	return n
}

// Message returns one message, or ErrNoMessage.
func (v *View) Message(mailbox MailboxID, uid UID) (*Message, error) {
	b, err := v.box(mailbox)
	if err != nil {
		return nil, err
	}
	value, err := v.snap.Get(v.ctx, appendMessageKey(nil, v.id, mailbox, uid))
	return decodeMessage(value, err, b, uid)
}

func decodeMessage(value []byte, err error, b *box, uid UID) (*Message, error) {
	if errors.Is(err, kv.ErrNotFound) || err == nil && value == nil {
		return nil, fmt.Errorf("UID %d: %w", uid, ErrNoMessage)
	}
	var r record
	if err == nil {
		err = decodeRecord(value, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("read UID %d: %w", uid, err)
	}
	m := new(Message)
	r.message(m, b, uid)
	return m, nil
}
