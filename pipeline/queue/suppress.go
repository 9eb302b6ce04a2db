package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// The suppression list has the addresses to which our own people's mail is not sent any more: a server that hears of the
// same unknown users again and again takes us for a spammer. An address gets there when its server has said definitely,
// for several messages, that there is no such user, and comes off after a while, when a message reaches it after all, or
// by hand. What an administrator puts there stays until an administrator takes it off.
//
// It concerns mail of the origins login, trusted and generated, and never postmaster@ and abuse@ (RFC 2142), our own
// domains, or what leaves because an address of ours leads elsewhere: that is somebody else's mail, with rules of its own
// (RULES A7).

// Suppressed is one address of the list, or one that may come there.
type Suppressed struct {
	Address string    `json:"address"`
	State   string    `json:"state"` // suppressed; watched: not yet, after too few answers
	ByHand  bool      `json:"by_hand"`
	Answers int       `json:"answers"` // that there is no such user
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"` // then it is forgotten; zero: it stays
	Reason  string    `json:"reason,omitempty"`

	last storage.ID // the message of the last answer: two recipients of one do not count twice
}

// The states of an address.
const (
	StateSuppressed = "suppressed"
	StateWatched    = "watched"
)

// Errors of the list.
var (
	ErrNotSuppressible = errors.New("is never suppressed")
	ErrListFull        = errors.New("the suppression list is full")
)

const (
	suppressPrefix  = "queue/0/suppress/"
	suppressForm    = 1
	maxSuppressed   = 100_000
	maxSuppressWhy  = 300 // octets
	maxSuppressAddr = 500
)

// suppression is the list in memory: its size alone, so that a server without one asks nobody.
type suppression struct {
	mu     sync.Mutex // held from the reading of a record until the batch that changes it is applied
	known  bool
	number int // records; at least so many as there are
}

func suppressKey(address string) []byte {
	return append([]byte(suppressPrefix), sameAddress(address)...)
}

// sameAddress is an address as it is compared: without case, its domain in A-labels.
func sameAddress(address string) string {
	at := strings.LastIndexByte(address, '@') + 1
	return strings.ToLower(address[:at]) + domainOf(address)
}

func (s *Suppressed) append(b []byte) []byte {
	b = codec.AppendBool(append(b, suppressForm), s.State == StateSuppressed)
	b = codec.AppendBool(b, s.ByHand)
	b = binary.AppendUvarint(b, uint64(s.Answers))
	b = codec.AppendTime(codec.AppendTime(b, s.Since), s.Until)
	return codec.AppendString(append(b, s.last[:]...), s.Reason)
}

func decodeSuppressed(key, value []byte) (Suppressed, error) {
	d := codec.Record(value, suppressForm)
	s := Suppressed{Address: string(key[len(suppressPrefix):]), State: StateWatched}
	if d.Bool() {
		s.State = StateSuppressed
	}
	s.ByHand = d.Bool()
	s.Answers = int(d.Uint32())
	s.Since, s.Until = d.Time(), d.Time()
	s.last = readID(&d)
	s.Reason = d.String()
	return s, d.End("address of the suppression list")
}

// over reports whether a record is to be forgotten.
func (s *Suppressed) over(now time.Time) bool { return !s.Until.IsZero() && !now.Before(s.Until) }

// Suppressed returns what the list says of an address; nil: nothing is sent to the contrary.
func (q *Queue) Suppressed(ctx context.Context, address string) (*Suppressed, error) {
	if n, err := q.suppressedNumber(ctx); n == 0 || err != nil {
		return nil, err
	}
	s, err := q.readSuppressed(ctx, address)
	if s == nil || s.State != StateSuppressed || err != nil {
		return nil, err
	}
	return s, nil
}

// readSuppressed reads a record; nil: there is none, or not any more.
func (q *Queue) readSuppressed(ctx context.Context, address string) (*Suppressed, error) {
	key := suppressKey(address)
	if len(address) > maxSuppressAddr {
		return nil, nil
	}
	value, err := q.Store.KV().Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the suppression list: %w", err)
	}
	s, err := decodeSuppressed(key, value)
	if err != nil || s.over(q.Now()) {
		return nil, err
	}
	return &s, nil
}

func (q *Queue) suppressedNumber(ctx context.Context) (int, error) {
	l := &q.suppression
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known {
		return l.number, nil
	}
	n := 0
	err := q.Store.KV().Scan(ctx, []byte(suppressPrefix), suppressEnd(), false, func(_, _ []byte) (bool, error) {
		n++
		return true, ctx.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("read the suppression list: %w", err)
	}
	l.known, l.number = true, n
	return n, nil
}

func suppressEnd() []byte {
	return append([]byte(suppressPrefix[:len(suppressPrefix)-1]), '/'+1)
}

// Suppressions visits the list in order of the addresses, by pages.
func (q *Queue) Suppressions(ctx context.Context, visit func(Suppressed) (more bool, err error)) error {
	const page = 500
	from, now := []byte(suppressPrefix), q.Now()
	for {
		var list []Suppressed
		err := q.Store.KV().Scan(ctx, from, suppressEnd(), false, func(key, value []byte) (bool, error) {
			s, err := decodeSuppressed(key, value)
			if err != nil {
				s.Reason = err.Error()
			}
			list = append(list, s)
			from = append(append(from[:0], key...), 0)
			return len(list) < page, ctx.Err()
		})
		if err != nil {
			return fmt.Errorf("read the suppression list: %w", err)
		}
		for i := range list {
			if list[i].over(now) {
				continue
			}
			if more, err := visit(list[i]); err != nil || !more {
				return err
			}
		}
		if len(list) < page {
			return nil
		}
	}
}

// Suppress puts an address on the list by hand; forTime 0 is for ever. It is durable then.
func (q *Queue) Suppress(ctx context.Context, address, reason string, forTime time.Duration) (*Suppressed, error) {
	if why := q.exempt(address); why != "" || len(address) > maxSuppressAddr {
		return nil, fmt.Errorf("%s %w: %s", address, ErrNotSuppressible, why)
	}
	if _, err := q.suppressedNumber(ctx); err != nil {
		return nil, err
	}
	s := &Suppressed{Address: sameAddress(address), State: StateSuppressed, ByHand: true, Since: q.Now(), Reason: clipWhy(reason)}
	if forTime > 0 {
		s.Until = s.Since.Add(forTime)
	}
	l := &q.suppression
	l.mu.Lock()
	defer l.mu.Unlock()
	old, err := q.readSuppressed(ctx, address)
	switch {
	case err != nil:
		return nil, err
	case old == nil && l.number >= maxSuppressed:
		return nil, fmt.Errorf("%w: it has %d addresses", ErrListFull, l.number)
	case old == nil:
		l.number++
	default:
		s.Answers, s.last = old.Answers, old.last
	}
	var b kv.Batch
	b.Set(suppressKey(address), s.append(nil))
	return s, q.applyHand(ctx, &b)
}

// Lift takes an address off the list, and forgets what servers said about it; false: nothing was known of it.
func (q *Queue) Lift(ctx context.Context, address string) (bool, error) {
	l := &q.suppression
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := q.readSuppressed(ctx, address)
	if s == nil || err != nil {
		return false, err
	}
	var b kv.Batch
	b.Delete(suppressKey(address))
	return true, q.applyHand(ctx, &b)
}

func (q *Queue) applyHand(ctx context.Context, b *kv.Batch) error {
	pos, err := q.Store.KV().Apply(ctx, b)
	if err == nil {
		err = q.Store.WaitDurable(ctx, pos)
	}
	if err != nil {
		return fmt.Errorf("change the suppression list: %w", err)
	}
	return nil
}

func clipWhy(text string) string {
	if len(text) > maxSuppressWhy {
		text = strings.ToValidUTF8(text[:maxSuppressWhy], "") + "..."
	}
	return text
}

// exempt says why an address is never suppressed, or "".
func (q *Queue) exempt(address string) string {
	at := strings.LastIndexByte(address, '@')
	switch {
	case at <= 0 || at == len(address)-1 || strings.ContainsAny(address, "\x00 <>\r\n"):
		return "it is no address"
	case strings.EqualFold(address[:at], "postmaster"), strings.EqualFold(address[:at], "abuse"):
		return "somebody has to be reachable there (RFC 2142)"
	case q.Local != nil && q.Local(domainOf(address)):
		return "its mail is ours"
	}
	return ""
}

// obeysList reports whether the list is about this mail.
func obeysList(e *Entry, r *Recipient) bool {
	own := e.Origin == sdk.Login || e.Origin == sdk.Trusted || e.Origin == sdk.Generated
	return own && r.Hop.Kind == pipeline.HopRemote && !r.isForward()
}
