package receive

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/sluicemail/sluice/pipeline"
)

// AuthMechanisms says what EHLO offers: nothing where a password must not be sent.
func (s *session) AuthMechanisms() []string {
	if !s.gate.loginAllowed() {
		return nil
	}
	return []string{"PLAIN", "LOGIN"}
}

// Auth begins an exchange.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		return &plain{session: s}, nil
	case "LOGIN":
		return &login{session: s}, nil
	}
	return nil, smtpError(replyMechanism)
}

// plain is RFC 4616.
type plain struct{ session *session }

// Next implements sasl.Server.
func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil {
		p.session.gate.sasl = true
		return nil, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, false, p.session.badLogin("", "malformed response")
	}
	authzid, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	if authzid != "" && authzid != user { // RULES B7
		return nil, false, p.session.badLogin(user, "another identity was asked for")
	}
	return nil, true, p.session.proveLogin("PLAIN", user, password)
}

// login is the mechanism LOGIN, of no RFC, which some programs know as their only one.
type login struct {
	session *session
	asked   int
	user    string
}

// Next implements sasl.Server.
func (l *login) Next(response []byte) (challenge []byte, done bool, err error) {
	if response != nil && l.asked == 0 {
		l.asked = 1 // an initial response is the name
	}
	switch {
	case l.asked == 0:
		challenge = []byte("Username:")
	case l.asked == 1:
		l.user = string(response)
		challenge = []byte("Password:")
	default:
		return nil, true, l.session.proveLogin("LOGIN", l.user, string(response))
	}
	l.asked++
	l.session.gate.sasl = true
	return challenge, false, nil
}

// proveLogin asks the accounts and tells the peer no more than yes, no or later.
func (s *session) proveLogin(mechanism, user, password string) error {
	if user == "" || password == "" || strings.ContainsRune(user, 0) || strings.ContainsRune(password, 0) {
		return s.badLogin(user, "empty or malformed")
	}
	g := s.gate
	ctx, cancel := context.WithTimeout(g.server.base, lookupTime)
	defer cancel()
	address, err := g.server.options.Accounts.Login(ctx, user, password, g.client)
	switch {
	case err == nil:
		s.login = address
		g.server.counts.logins.Add(1)
		g.log("login", "action", "accept", "login", address, "mechanism", mechanism)
		return nil
	case errors.Is(err, ErrBadLogin):
		return s.badLogin(user, "unknown account or wrong password")
	case errors.Is(err, ErrSlowDown):
		g.errors += loginCost
		g.log("login", "action", "defer", "login", printable(user), "why", "too many failed logins")
		return smtpError(replyLoginLater)
	}
	g.server.options.Logger.Error("login", "session", g.id, "stage", pipeline.StageReceive, "action", "defer", "why", err)
	return smtpError(replyLoginLater)
}

// loginCost is how many errors a failed login counts for.
const loginCost = 2

func (s *session) badLogin(user, why string) error {
	s.gate.errors += loginCost
	s.gate.server.counts.badLogins.Add(1)
	s.gate.log("login", "action", "reject", "login", printable(user), "why", why)
	return smtpError(replyBadLogin)
}

// printable makes a name that nobody has proved fit for a log line.
func printable(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
