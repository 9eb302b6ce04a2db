package receive

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// session is what the library calls: the commands that have passed the gate. One lasts as long as its connection.
type session struct {
	gate *gate

	// Of the connection's goroutine.
	helo  string
	login string // address of the account, or ""
	name  *lookup

	mu sync.Mutex
	tx *transaction // nil outside a transaction; read by the goroutine of BDAT too
}

// transaction is one message from MAIL to its end.
type transaction struct {
	message *pipeline.Message
	keys    []string // the recipients as the library calls them, for LMTP
	chunked bool     // BDAT has begun
	content bool     // DATA has begun

	announced int64       // octets of all chunks of BDAT
	tooLarge  atomic.Bool // they are more than max_size: the library refuses the last one, and what reads the others is told
}

var _ smtp.LMTPSession = (*session)(nil)
var _ smtp.AuthSession = (*session)(nil)

// greet is called when EHLO, HELO or LHLO has been accepted.
func (s *session) greet() {
	g := s.gate
	g.greeted, g.esmtp = true, g.verb != "HELO"
	s.helo = g.pendingHelo
}

// idle reports whether no transaction is under way. Like inContent it is for the goroutine that changes tx.
func (s *session) idle() bool { return s.tx == nil }

// inContent reports whether the content of a message is arriving.
func (s *session) inContent() bool { return s.tx != nil && (s.tx.content || s.tx.chunked) }

func (s *session) current() *transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx
}

func (s *session) setTx(tx *transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = tx
}

// beginChunks marks the transaction as one of BDAT, before the library starts the goroutine that reads it.
func (s *session) beginChunks(tx *transaction) {
	if !tx.chunked {
		tx.chunked = true
		s.gate.until = time.Now().Add(s.gate.server.options.Config.TransactionTimeout.Std())
	}
}

// Reset forgets the transaction: RSET, EHLO, and the end of each message.
func (s *session) Reset() {
	s.setTx(nil)
	switch s.gate.verb {
	case "EHLO", "HELO", "LHLO":
		s.greet()
	}
}

// Logout is the end of the connection. A transaction that BDAT is reading ends by itself, since its pipe breaks.
func (s *session) Logout() error {
	s.setTx(nil)
	return nil
}

// origin says where a message of this connection comes from (RULES A1).
func (s *session) origin() sdk.Origin {
	switch {
	case s.gate.server.options.Protocol == LMTP:
		return sdk.LMTP
	case s.login != "":
		return sdk.Login
	case s.gate.trust:
		return sdk.Trusted
	}
	return sdk.Stranger
}

func (s *session) peer() *pipeline.Peer {
	g := s.gate
	p := &pipeline.Peer{
		Listener: g.server.options.Listener, Session: g.id, Addr: g.client, Port: g.port, Helo: s.helo,
		ESMTP: g.esmtp, LMTP: g.server.options.Protocol == LMTP, Login: s.login,
	}
	if g.tls != nil {
		p.TLS, p.Cipher = tls.VersionName(g.tls.Version), tls.CipherSuiteName(g.tls.CipherSuite)
	}
	return p
}

// Mail begins a transaction. The address is the gate's: the library's has lost its quotes.
func (s *session) Mail(_ string, opts *smtp.MailOptions) error {
	o := &s.gate.server.options
	if reply := o.Ready(); !reply.OK() {
		return smtpError(reply)
	}
	sender := s.gate.path.address
	if s.login != "" && sender != "" {
		ctx, cancel := context.WithTimeout(s.gate.server.base, lookupTime)
		ok, err := o.Accounts.MaySendAs(ctx, s.login, sender)
		cancel()
		switch {
		case err != nil:
			o.Logger.Error("sender not checked", "session", s.gate.id, "stage", pipeline.StageReceive, "action", "defer", "why", err)
			return smtpError(pipeline.ReplyTryLater)
		case !ok:
			s.gate.log("sender refused", "action", "reject", "login", s.login, "from", sender, "why", "not an address of the account")
			return smtpError(replyNotYours)
		}
	}
	s.startLookup()
	m := &pipeline.Message{
		ID: o.NewID(), Origin: s.origin(), Peer: s.peer(), Session: s.gate.talk, Received: o.Clock(), Sender: sender,
		Params: pipeline.SenderParams{
			Size: opts.Size, Body: string(opts.Body), SMTPUTF8: opts.UTF8,
			Ret: string(opts.Return), EnvID: opts.EnvelopeID, TLS: opts.RequireTLS,
		},
	}
	ctx := s.gate.server.base
	if o.Pipeline.Asks(sdk.PhaseSender) || o.Pipeline.Asks(sdk.PhaseRecipient) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lookupTime)
		defer cancel()
		m.Peer.Reverse, m.Peer.Name = s.clientName(ctx)
	}
	if reply := o.Pipeline.Sender(ctx, m); !reply.OK() {
		s.gate.server.counts.senders.Add(1)
		s.refused("sender refused", reply, m)
		return smtpError(reply)
	}
	s.setTx(&transaction{message: m})
	return nil
}

// Senders and recipients beyond so many refused ones are answered late.
const patience = 5

// Rcpt asks the pipeline about a recipient.
func (s *session) Rcpt(key string, opts *smtp.RcptOptions) error {
	o := &s.gate.server.options
	m := s.tx.message
	address := s.gate.path.address
	if o.Protocol != LMTP { // where each RCPT is owed a reply of its own (RFC 2033 section 4.2)
		for _, r := range m.Recipients {
			if r.Address == address {
				return nil
			}
		}
	}
	params := pipeline.RecipientParams{ORcpt: s.gate.orcpt}
	for _, n := range opts.Notify {
		params.Notify = append(params.Notify, string(n))
	}
	ctx, cancel := context.WithTimeout(s.gate.server.base, lookupTime)
	defer cancel()
	reply := o.Pipeline.Recipient(ctx, m, address, params)
	if reply.OK() {
		s.tx.keys = append(s.tx.keys, key)
		return nil
	}
	s.gate.server.counts.recipients.Add(1)
	s.refused("recipient refused", reply, m, "to", address)
	return smtpError(reply)
}

// refused tells the log of a refused sender or recipient, the first few of a connection: who guesses addresses is slowed
// down, then shut out.
func (s *session) refused(what string, reply pipeline.Reply, m *pipeline.Message, attrs ...any) {
	g := s.gate
	g.refused++
	if g.refused <= patience {
		attrs = append([]any{"id", m.ID.String(), "from", m.Sender}, attrs...)
		if plugin, why := m.Blame(); plugin != "" {
			attrs = append(attrs, "plugin", plugin, "opinion", why)
		}
		g.log(what, append(attrs, "action", actionOf(reply).String(), "why", reply.Clean().String())...)
		return
	}
	select {
	case <-time.After(g.server.options.Config.RefuseDelay.Std()):
	case <-g.server.base.Done():
	}
}

// actionOf is what a reply that is not OK does.
func actionOf(reply pipeline.Reply) sdk.Action {
	if reply.Temporary() {
		return sdk.Defer
	}
	return sdk.Reject
}

// lookupTime bounds what is looked up for one command.
const lookupTime = 30 * time.Second

// newSpool returns a spool for the message, with room for what it announced.
func (s *session) newSpool(tx *transaction) *blob.Spool {
	spool := s.gate.server.options.Blobs.NewSpool()
	if tx.message.Params.Size > 0 {
		spool.Expect(tx.message.Params.Size)
	}
	return spool
}
