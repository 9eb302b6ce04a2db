package imap

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
)

// commandTime bounds what a command waits for the store; a command that streams
// begins anew with each piece.
const commandTime = time.Minute

// maxFailures is how many logins may fail on one connection.
const maxFailures = 3

// session is what the library calls with parsed commands, one at a time. Only
// Idle has a goroutine of its own, which may outlive its command when the
// connection ends, and so have the looks of IDLE; mu keeps them apart from the
// rest.
type session struct {
	srv *Server
	w   *wire
	lib *imapserver.Conn

	outer imapserver.Session // the session as the library has it

	ctx    context.Context
	cancel context.CancelFunc

	account  storage.AccountID
	address  string
	failures int

	mu     sync.Mutex
	box    *selected // nil: none
	opened bool      // for the library there is one; it may have been deleted
	idle   *idling   // nil: not in IDLE
}

var (
	_ imapserver.SessionMove        = (*session)(nil)
	_ imapserver.SessionNamespace   = (*session)(nil)
	_ imapserver.SessionAppendLimit = (*session)(nil)
)

// newSession is called by the library for each connection.
func (s *Server) newSession(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
	w, ok := c.NetConn().(*wire)
	if !ok {
		return nil, nil, errors.New("the connection is none of ours")
	}
	if w.session != nil {
		return w.session.resume(c)
	}
	se := &session{srv: s, w: w, lib: c}
	se.outer = se
	w.mu.Lock()
	w.session = se
	w.mu.Unlock()
	se.ctx, se.cancel = context.WithCancel(s.ctx)
	s.enter()
	if s.o.wrapSession != nil {
		se.outer = s.o.wrapSession(se)
	}
	return se.outer, nil, nil
}

// Close ends the session; the connection is closed by the library.
func (s *session) Close() error {
	if s.w.gone.Load() {
		return nil // the connection rests
	}
	s.cancel()
	s.endIdle()
	s.mu.Lock()
	s.box = nil
	s.mu.Unlock()
	s.srv.leave()
	return nil
}

// command returns the context of one command.
func (s *session) command() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, commandTime)
}

// Login checks a password, for LOGIN and AUTHENTICATE PLAIN.
func (s *session) Login(username, password string) error {
	ctx, cancel := s.command()
	defer cancel()
	acct, err := s.srv.o.Store.Accounts().Verify(ctx, username, password, s.w.link.addr)
	log := s.srv.o.Logger.With("client", s.w.link.addr, "server", s.srv.o.Hostname)
	if err != nil {
		log.Info("imap: login refused", "account", username, "why", err)
		if s.failures++; s.failures >= maxFailures {
			s.w.endSoon("Too many failed logins")
		}
		switch {
		case errors.Is(err, account.ErrCredentials), errors.Is(err, account.ErrUnknown):
			return imapserver.ErrAuthFailed
		case errors.Is(err, account.ErrBusy), errors.Is(err, account.ErrBlocked):
			return no(goimap.ResponseCodeUnavailable, "Login is not possible now, try again later")
		}
		return s.fail("login", err)
	}
	s.account, s.address = acct.ID, acct.Address
	s.w.guard.login = true
	log.Info("imap: login", "account", s.address, "tls", s.w.secure)
	return nil
}

// Namespace implements NAMESPACE (RFC 2342): one personal namespace.
func (s *session) Namespace() (*goimap.NamespaceData, error) {
	return &goimap.NamespaceData{Personal: []goimap.NamespaceDescriptor{{Delim: delimiter}}}, nil
}

// AppendLimit implements APPENDLIMIT (RFC 7889).
func (s *session) AppendLimit() uint32 { return uint32(s.srv.o.AppendLimit) }

// view reads the account and then waits until what was read is durable (RULES B1).
func (s *session) view(ctx context.Context, fn func(*storage.View) error) error {
	var pos kv.Pos
	err := s.srv.o.Store.View(ctx, s.account, func(v *storage.View) error {
		pos = v.Pos()
		return fn(v)
	})
	if err != nil {
		return err
	}
	return s.srv.o.Store.WaitDurable(ctx, pos)
}

// update changes the account and waits until that is durable (RULES B1). So is
// what made fn fail: "the mailbox exists already" shows a mailbox.
func (s *session) update(fn func(*storage.Tx) error) error {
	ctx, cancel := s.command()
	defer cancel()
	pos, err := s.srv.o.Store.Update(ctx, s.account, fn)
	return cmp.Or(err, s.srv.o.Store.WaitDurable(ctx, pos))
}

func no(code goimap.ResponseCode, text string) error {
	return &goimap.Error{Type: goimap.StatusResponseTypeNo, Code: code, Text: text}
}

func bad(text string) error {
	return &goimap.Error{Type: goimap.StatusResponseTypeBad, Code: goimap.ResponseCodeClientBug, Text: text}
}

// failureText is what the client hears of the store's errors (RFC 5530 codes).
func failureText(err error) (goimap.ResponseCode, string) {
	for _, f := range []struct {
		err  error
		code goimap.ResponseCode
		text string
	}{
		{storage.ErrUnknownAccount, goimap.ResponseCodeExpired, "The account was removed"},
		{storage.ErrNoMailbox, goimap.ResponseCodeNonExistent, "There is no such mailbox"},
		{storage.ErrMailboxExists, goimap.ResponseCodeAlreadyExists, "The mailbox exists already"},
		{storage.ErrMailboxName, goimap.ResponseCodeCannot, "This is not a possible mailbox name"},
		{storage.ErrInbox, goimap.ResponseCodeCannot, "INBOX cannot be removed"},
		{storage.ErrOverQuota, goimap.ResponseCodeOverQuota, "The quota is used up"},
		{storage.ErrKeyword, goimap.ResponseCodeCannot, "This is not a possible keyword"},
		{storage.ErrTooManyKeywords, goimap.ResponseCodeLimit, "Too many different keywords in the mailbox"},
		{storage.ErrTooManyBoxes, goimap.ResponseCodeLimit, "Too many mailboxes"},
		{storage.ErrTooManyMail, goimap.ResponseCodeLimit, "The mailbox is full"},
		{storage.ErrTooLarge, goimap.ResponseCodeLimit, "Too many messages at once"},
		{kv.ErrFull, goimap.ResponseCodeUnavailable, "The server has no space left"},
		{kv.ErrBusy, goimap.ResponseCodeUnavailable, "The server is too busy"},
		{context.DeadlineExceeded, goimap.ResponseCodeUnavailable, "The server is too busy"},
		{context.Canceled, goimap.ResponseCodeUnavailable, "The server is shutting down"},
	} {
		if errors.Is(err, f.err) {
			return f.code, f.text
		}
	}
	return "", ""
}

// fail turns an error into a reply; one that the client did not cause is logged.
func (s *session) fail(what string, err error) error {
	var reply *goimap.Error
	if err == nil || errors.As(err, &reply) {
		return err
	}
	if code, text := failureText(err); text != "" {
		if code == goimap.ResponseCodeUnavailable {
			s.srv.o.Logger.Warn("imap: "+what, "account", s.address, "why", err)
		}
		return no(code, text)
	}
	s.srv.o.Logger.Error("imap: "+what, "account", s.address, "why", err)
	return no(goimap.ResponseCodeServerBug, "Internal error, see the server's log")
}

// systemFlags in the order in which they are shown.
var systemFlags = [...]struct {
	bit  storage.System
	name goimap.Flag
}{
	{storage.Answered, goimap.FlagAnswered}, {storage.Flagged, goimap.FlagFlagged}, {storage.Deleted, goimap.FlagDeleted},
	{storage.Seen, goimap.FlagSeen}, {storage.Draft, goimap.FlagDraft},
}

// parseFlags sorts flags into system flags and keywords. \Recent cannot be
// changed and is passed over, as clients send back what they were shown.
func parseFlags(flags []goimap.Flag) (storage.Flags, error) {
	var out storage.Flags
next:
	for _, f := range flags {
		for _, sys := range systemFlags {
			if strings.EqualFold(string(f), string(sys.name)) {
				out.System |= sys.bit
				continue next
			}
		}
		switch {
		case strings.EqualFold(string(f), `\Recent`):
		case strings.HasPrefix(string(f), `\`):
			return out, bad("Unknown system flag")
		case !slices.ContainsFunc(out.Keywords, func(k string) bool { return strings.EqualFold(k, string(f)) }):
			out.Keywords = append(out.Keywords, string(f))
		}
	}
	slices.SortFunc(out.Keywords, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return out, nil
}

// appendFlags writes a flag list.
func appendFlags(b []byte, f storage.Flags) []byte {
	b = append(b, '(')
	begin := len(b)
	for _, sys := range systemFlags {
		if f.System&sys.bit != 0 {
			b = append(append(b, sys.name...), ' ')
		}
	}
	for _, k := range f.Keywords {
		b = append(append(b, k...), ' ')
	}
	if len(b) > begin {
		b = b[:len(b)-1]
	}
	return append(b, ')')
}
