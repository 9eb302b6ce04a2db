package pop3

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// loginWait bounds the wait for the answer to a login: hashing, the delay after
// failures, and reading the maildrop.
const loginWait = time.Minute

// handle answers one command. An error ends the session, after what is written
// was sent.
func (s *session) handle(c command) error {
	switch c.verb {
	case "CAPA":
		return s.capa()
	case "QUIT":
		return s.quit()
	case "GET", "HEAD", "POST", "PUT":
		// A web browser that was talked into speaking to us (DRILLS E1.5): none of the
		// lines that follow shall be read as commands.
		return errMisbehaved
	}
	if s.drop == nil {
		return s.handleAuthorization(c)
	}
	return s.handleTransaction(c)
}

// handleAuthorization answers the commands of the AUTHORIZATION state.
func (s *session) handleAuthorization(c command) error {
	switch c.verb {
	case "USER":
		if !s.mayLogin() {
			return s.bad(errTextNeedTLS)
		}
		if c.arg == "" {
			return s.bad(errTextBadArgument)
		}
		s.user = c.arg
		s.ok("")
		return nil
	case "PASS":
		if !s.mayLogin() {
			return s.bad(errTextNeedTLS)
		}
		if s.user == "" {
			return s.bad(errTextState)
		}
		creds := credentials{user: s.user, password: c.arg}
		s.user = "" // RFC 1939 section 7: after a failure it begins with USER again
		return s.login(creds)
	case "AUTH":
		return s.auth(c)
	case "STLS":
		return s.stls(c)
	case "STAT", "LIST", "RETR", "DELE", "NOOP", "RSET", "TOP", "UIDL":
		return s.bad(errTextState)
	}
	return s.bad(errTextUnknown)
}

// mayLogin tells whether a password may be sent on this connection.
func (s *session) mayLogin() bool { return s.isTLS || s.srv.opts.AllowPlaintextLogin }

// capa lists what a client may use now (RFC 2449 section 5).
func (s *session) capa() error {
	s.ok("capabilities follow")
	for _, name := range []string{"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"} {
		s.w.WriteString(name + "\r\n")
	}
	if delay := s.srv.opts.LoginDelay; delay > 0 {
		s.w.WriteString("LOGIN-DELAY " + delaySeconds(delay) + "\r\n")
	}
	// RFC 2449 section 6.3: USER and SASL are listed where they can be used.
	if s.mayLogin() {
		s.w.WriteString("USER\r\nSASL PLAIN\r\n")
	}
	if s.drop == nil && !s.isTLS && s.srv.opts.TLS != nil {
		s.w.WriteString("STLS\r\n")
	}
	s.w.WriteString("IMPLEMENTATION Sluice\r\n.\r\n")
	return nil
}

// stls begins TLS (RFC 2595 section 4).
func (s *session) stls(c command) error {
	switch {
	case s.srv.opts.TLS == nil:
		return s.bad(errTextNoTLS)
	case s.isTLS:
		return s.bad(errTextState)
	case c.arg != "":
		return s.bad(errTextBadArgument)
	case s.r.Buffered() > 0:
		// These octets came in clear, perhaps from somebody in between, and would be
		// read as if they came over TLS (CVE-2011-0411).
		s.err(errTextInjected)
		return errMisbehaved
	}
	s.ok("begin TLS")
	if err := s.w.Flush(); err != nil {
		return err
	}
	s.user = "" // RFC 2595 section 4: nothing that was said before counts
	return s.startTLS()
}

// auth answers AUTH (RFC 5034).
func (s *session) auth(c command) error {
	if !s.mayLogin() {
		return s.bad(errTextNeedTLS)
	}
	args := c.fields()
	if len(args) == 0 {
		// Not in the RFC, but what older clients ask to learn the mechanisms.
		s.ok("mechanisms follow")
		s.w.WriteString("PLAIN\r\n.\r\n")
		return nil
	}
	if len(args) > 2 {
		return s.bad(errTextBadArgument)
	}
	if !bytes.EqualFold([]byte(args[0]), []byte("PLAIN")) {
		return s.bad(errTextMechanism)
	}
	var answer []byte
	if len(args) == 2 {
		answer = []byte(args[1])
	} else {
		s.w.WriteString("+ \r\n")
		line, err := s.readLine()
		if err != nil {
			return s.readFailed(err)
		}
		if string(line) == "*" {
			return s.bad(errTextCancelled)
		}
		answer = line
	}
	creds, err := parsePlain(answer)
	switch {
	case errors.Is(err, errCredentials):
		return s.loginFailed(creds.user, err)
	case err != nil:
		return s.bad(errTextBase64)
	}
	return s.login(creds)
}

// login proves who the client is and opens the maildrop.
func (s *session) login(creds credentials) error {
	ctx, cancel := context.WithTimeout(s.srv.ctx, loginWait)
	defer cancel()
	owner, err := s.srv.back.login(ctx, creds.user, creds.password, s.peer)
	if err != nil {
		return s.loginFailed(creds.user, err)
	}
	if err := s.srv.opts.Locks.acquire(owner, time.Now(), s.srv.opts.LoginDelay); err != nil {
		return s.loginFailed(creds.user, err)
	}
	drop, err := s.srv.back.open(ctx, owner)
	if err != nil {
		s.srv.opts.Locks.release(owner)
		return s.loginFailed(creds.user, err)
	}
	s.owner, s.drop, s.deleted = owner, drop, make([]bool, len(drop.messages()))
	s.badCmds = 0
	s.log = s.log.With("user", creds.user)
	s.log.Debug("pop3: logged in", "messages", len(s.deleted), "tls", s.isTLS)
	s.ok("maildrop is locked and ready")
	return s.borrowBuffers()
}

// loginFailed answers a login that did not work. Troubles of ours are logged with
// their cause, the client's with the name that it gave.
func (s *session) loginFailed(user string, err error) error {
	text := loginErrorText(err)
	s.err(text)
	if text == errTextTrouble {
		s.log.Error("pop3: login", "user", user, "why", err)
		return nil
	}
	s.log.Info("pop3: login refused", "user", user, "why", err)
	if errors.Is(err, errInUse) || errors.Is(err, errTooSoon) {
		return nil
	}
	if s.badLogins++; s.badLogins >= maxBadLogins {
		return errMisbehaved
	}
	return nil
}
