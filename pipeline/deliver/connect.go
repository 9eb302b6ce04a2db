package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// dialer opens connections to one server for an attempt.
type dialer struct {
	r      *Remote
	a      *attempt
	target *target
	policy *tlspolicy.Policy // nil: no TLS (a socket in the file system)
	rules  mx.Rules
	key    sessionKey
	old    bool // HELO in place of EHLO
	plain  bool // no TLS, because it failed
	whole  bool // DATA in place of BDAT, which it does not know
	note   string
}

// dialer prepares for one address of a server; addr is invalid for a socket in the file system.
func (a *attempt) dialer(t *target, policy *tlspolicy.Policy, rules mx.Rules, addr netip.AddrPort) dialer {
	tr := &a.plan.transport
	d := dialer{r: a.r, a: a, target: t, policy: policy, rules: rules}
	d.key = sessionKey{host: t.host.Name, addr: addr, unix: t.unix, lmtp: tr.LMTP, username: tr.Username, password: tr.Password}
	if policy != nil {
		d.key.clear, d.key.implicit = !policy.Wanted(), policy.Implicit
	}
	if addr.IsValid() {
		d.key.source = a.config.source(addr.Addr())
	}
	return d
}

// name returns what the server is called in traces.
func (d *dialer) name() string {
	if !d.key.addr.IsValid() {
		return d.target.String()
	}
	return describe(d.key.host, d.key.addr)
}

// describe returns "mx.example.net [192.0.2.1]", with the port where it is not 25.
func describe(host string, addr netip.AddrPort) string {
	b := make([]byte, 0, len(host)+48)
	b = append(append(b, host...), " ["...)
	b = append(addr.Addr().AppendTo(b), ']')
	if addr.Port() != 25 {
		b = strconv.AppendUint(append(b, ':'), uint64(addr.Port()), 10)
	}
	return string(b)
}

// session returns a connection that waits, or a new one.
func (d *dialer) session(ctx context.Context) (*session, *trouble) {
	for {
		s := d.r.pool.get(&d.key)
		if s == nil {
			return d.open(ctx)
		}
		if d.fit(s) {
			if s.state != nil && (s.level != d.policy.Level || s.source != d.policy.Source) { // the words are those of this policy
				s.level, s.source, s.tls = d.policy.Level, d.policy.Source, d.policy.Verified(*s.state)
			}
			return s, nil
		}
		d.r.pool.end(s)
	}
}

// fit reports whether a connection that was made for another message will do for this one.
func (d *dialer) fit(s *session) bool {
	if s.old && (d.a.content.EightBit || d.a.utf8) { // it may say EHLO now
		return false
	}
	if d.policy == nil {
		return true
	}
	if d.policy.RequireTLS && !s.conn.Extensions.RequireTLS {
		return false
	}
	return d.policy.Check(s.state) == nil
}

// open makes a connection and takes it through the greeting, EHLO, TLS and login.
func (d *dialer) open(ctx context.Context) (*session, *trouble) {
	for {
		share, cancel := context.WithTimeoutCause(ctx, half(ctx), errShare)
		s, again, t := d.try(share)
		cancel()
		if !again {
			return s, t
		}
	}
}

// errShare is the end of a connection's share of the attempt's time.
var errShare = errors.New("the time for one server is over")

// half is how long one connection may take until MAIL can be said: whoever is slow leaves time for the next server.
func half(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 5 * time.Minute // RFC 5321 section 4.5.3.2.1
	}
	return time.Until(deadline) / 2
}

// try makes one connection. again says that another one, as d has it now, may do better: without TLS, or with HELO.
func (d *dialer) try(ctx context.Context) (s *session, again bool, t *trouble) {
	raw, t := d.dial(ctx)
	if t != nil {
		return nil, false, t
	}
	conn := raw
	if d.policy != nil && d.policy.Implicit {
		secure, t := d.implicit(ctx, raw)
		if t != nil {
			raw.Close()
			return nil, false, t
		}
		conn = secure
	}
	s = &session{key: d.key, raw: raw, name: d.name(), note: d.note, old: d.old, most: d.a.config.MaxMessages, keep: d.a.config.Keep.Std()}
	s.conn = wire.New(conn, wire.Options{Hostname: d.r.Hostname, LMTP: d.key.lmtp, Times: d.r.Times})
	release := s.conn.Bind(ctx)
	defer release()
	again, t = d.setUp(ctx, s)
	if again || t != nil {
		s.conn.Close()
		return nil, again, t
	}
	if n := s.conn.Extensions.MailMax; n > 0 {
		s.most = min(s.most, n)
	}
	return s, false, nil
}

// dial connects.
func (d *dialer) dial(ctx context.Context) (net.Conn, *trouble) {
	var conn net.Conn
	var err error
	if d.key.unix != "" {
		dial := net.Dialer{Timeout: d.a.config.ConnectTimeout.Std()}
		conn, err = dial.DialContext(ctx, "unix", d.key.unix)
	} else {
		conn, err = mx.Dial(ctx, d.key.addr, mx.DialOptions{
			Rules: d.rules, Source: d.key.source, Timeout: d.a.config.ConnectTimeout.Std(),
		})
	}
	if err == nil {
		return conn, nil
	}
	t := d.lost("connect", err, "4.4.1")
	if errors.Is(err, mx.ErrForbidden) {
		t.text, t.status, t.never, t.pace = clean(err.Error()), "5.4.4", true, pipeline.PaceSame
		if errors.Is(err, mx.ErrSelf) {
			t.status, d.a.loop = "5.4.6", !d.a.plan.fixed
		}
	} else {
		d.silent(ctx)
	}
	return nil, t
}

// silent remembers that there is no mail server at an address now, unless it is us who gave up, or had little time.
func (d *dialer) silent(ctx context.Context) {
	if d.a.question == nil && d.key.addr.IsValid() && (ctx.Err() == nil || context.Cause(ctx) == errShare) {
		d.r.dead.add(d.key.addr, d.r.Now())
	}
}

// setUp goes from the greeting to where MAIL may be said.
func (d *dialer) setUp(ctx context.Context, s *session) (again bool, t *trouble) {
	reply, err := s.conn.Greet()
	if err != nil {
		d.silent(ctx)
		return false, d.lost("waiting for the greeting", err, "4.4.2")
	}
	if d.key.addr.IsValid() {
		d.r.dead.remove(d.key.addr)
	}
	if !reply.OK() {
		return false, d.refused("greeting", reply)
	}
	if again, t := d.hello(s); again || t != nil {
		return again, t
	}
	if again, t := d.secure(ctx, s); again || t != nil {
		return again, t
	}
	if d.policy != nil && d.policy.RequireTLS && !s.conn.Extensions.RequireTLS {
		t := d.trouble("does not offer REQUIRETLS, which the sender asked for", "5.7.30") // RFC 8689 section 4.2.1
		t.never, t.pace = true, pipeline.PaceSame
		return false, t
	}
	return false, d.login(s)
}

// hello says EHLO, or HELO where EHLO made a server close the connection.
func (d *dialer) hello(s *session) (again bool, t *trouble) {
	say := s.conn.Hello
	if d.old {
		say = s.conn.HelloOld
	}
	reply, err := say()
	switch {
	case err == nil && reply.OK():
		return false, nil
	case err == nil:
		return false, d.refused("EHLO", reply)
	}
	closed := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
	if closed && !d.old && !d.key.lmtp && d.mayBePlain() && s.conn.TLS() == nil {
		d.old = true
		return true, nil
	}
	return false, d.lost("saying EHLO", err, "4.4.2")
}

// mayBePlain reports whether the message may go without TLS.
func (d *dialer) mayBePlain() bool { return d.policy == nil || d.policy.Plain() }

// secure starts TLS where the policy wants it.
func (d *dialer) secure(ctx context.Context, s *session) (again bool, t *trouble) {
	p := d.policy
	if p == nil || d.plain || !p.Wanted() {
		return false, nil
	}
	if p.Implicit {
		d.secured(s)
		return false, nil
	}
	if !s.conn.Extensions.StartTLS {
		return false, d.missing(s)
	}
	reply, err := s.conn.StartTLS(ctx, p.Config(d.target.host.Name))
	var hello wire.Reply
	if err == nil && reply.Code == 220 {
		hello, err = s.conn.Hello() // RFC 3207 section 4.2
	}
	var handshake *wire.HandshakeError
	switch {
	case err == nil && reply.Code == 220:
	case err == nil && reply.Code == 421: // it has closed (RFC 5321 section 3.8), and said nothing about TLS
		return false, d.refused("STARTTLS", reply)
	case err == nil:
		d.learn(s, tlspolicy.Result{Offered: true, Err: errors.New("STARTTLS: " + reply.String())})
		if !p.Plain() {
			return false, d.unsafe("TLS is demanded ("+p.Source+") and refused: "+reply.String(), nil)
		}
		d.clear("STARTTLS was refused: " + reply.String())
		s.note = d.note
		return false, nil
	case s.conn.TLS() != nil && !errors.As(err, &handshake):
		d.secured(s)
		return false, d.lost("saying EHLO over TLS", err, "4.4.2")
	case ctx.Err() != nil:
		return false, d.lost("starting TLS", err, "4.4.2")
	default:
		d.learn(s, tlspolicy.Result{Offered: true, Err: err})
		if !p.Plain() {
			return false, d.unsafe(ofTLS(err), err)
		}
		d.plain = true
		d.clear(ofTLS(err))
		return true, nil
	}
	d.secured(s)
	if !hello.OK() {
		return false, d.refused("EHLO over TLS", hello)
	}
	return false, nil
}

// missing is a server that does not offer STARTTLS: nil where that is no trouble.
func (d *dialer) missing(s *session) *trouble {
	p := d.policy
	d.learn(s, tlspolicy.Result{})
	if p.Plain() {
		return nil
	}
	text := "TLS is demanded (" + p.Source + ") and not offered"
	if p.Source == "remembered" {
		text = clean(p.Missing().Error())
	}
	t := d.unsafe(text, nil)
	if p.RequireTLS { // RFC 8689 section 4.2.1: it cannot offer REQUIRETLS either
		t.status, t.never, t.pace = "5.7.30", true, pipeline.PaceSame
	}
	return t
}

// implicit makes the handshake before anything is said (RFC 8314 section 3).
func (d *dialer) implicit(ctx context.Context, raw net.Conn) (net.Conn, *trouble) {
	ctx, cancel := context.WithTimeout(ctx, d.a.config.ConnectTimeout.Std())
	defer cancel()
	conn := tls.Client(raw, d.policy.Config(d.target.host.Name))
	if err := conn.HandshakeContext(ctx); err != nil {
		err = &wire.HandshakeError{Err: err}
		d.learn(nil, tlspolicy.Result{Offered: true, Err: err})
		return nil, d.unsafe(ofTLS(err), err)
	}
	return conn, nil
}

// secured writes down what TLS came to.
func (d *dialer) secured(s *session) {
	s.state = s.conn.TLS()
	s.level, s.source, s.tls = d.policy.Level, d.policy.Source, d.policy.Verified(*s.state)
	d.learn(s, tlspolicy.Result{Offered: true, TLS: s.state})
}

// learn tells the policies how TLS went.
func (d *dialer) learn(s *session, result tlspolicy.Result) {
	result.Remote = d.key.addr.Addr()
	if s != nil {
		result.Helo = s.conn.Name
		if local, ok := s.raw.LocalAddr().(*net.TCPAddr); ok {
			result.Local = local.AddrPort().Addr().Unmap()
		}
	}
	d.r.Policies.Learn(d.policy, result)
}

// clear notes that the message goes without TLS although the server offers it: never in silence.
func (d *dialer) clear(why string) {
	d.note = "without TLS: " + why
	d.r.Logger.Warn("no TLS", "id", d.a.p.ID, "stage", pipeline.StageDeliver, "action", "clear", "remote", d.name(), "why", why)
}

// login logs in where the transport has credentials.
func (d *dialer) login(s *session) *trouble {
	if d.key.username == "" {
		return nil
	}
	if s.conn.TLS() == nil && d.key.unix == "" && !(d.a.plan.fixed && d.a.plan.transport.TLS == "none") {
		return d.unsafe("there is no TLS, and a password does not go without", nil)
	}
	err := s.conn.Login(d.key.username, d.key.password)
	if err == nil {
		return nil
	}
	var refused *wire.LoginError
	if errors.As(err, &refused) {
		// What the administrator can put right is no reason to return mail.
		t := d.refused("login", refused.Reply)
		t.never, t.pace, t.status = false, pipeline.PaceWait, "4.7.0"
		return t
	}
	if errors.Is(err, wire.ErrNoMechanism) {
		return d.unsafe(err.Error(), nil)
	}
	return d.lost("logging in", err, "4.4.2")
}
