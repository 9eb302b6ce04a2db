package receive

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// command reads one line and sees to it: it answers by itself, or leaves the line for the library in g.line.
func (g *gate) command() {
	line, ok := g.readLine()
	if !ok {
		return
	}
	if g.sasl {
		g.saslResponse(line)
		return
	}
	o := &g.server.options
	if g.commands++; g.commands > o.Limits.MaxCommands {
		g.log("connection closed", "why", "too many commands")
		g.die("421 4.7.0 " + o.Hostname + " Too many commands on one connection")
		return
	}
	text, ok := g.commandText(line)
	if !ok {
		return
	}
	verb, arg, _ := strings.Cut(text, " ")
	verb = strings.ToUpper(verb)
	handle, known := commands[verb]
	switch {
	case known:
		g.verb = verb
		handle(g, text, strings.TrimSpace(arg))
	case httpVerbs[verb]:
		// Somebody lets a browser talk to us, perhaps to have a reply of ours taken for a page (ALPACA): say nothing.
		g.log("connection closed", "why", "the client speaks HTTP")
		g.die("")
	default:
		g.fail(500, "5.5.2", "Unknown command")
	}
}

// pass leaves a command for the library.
func (g *gate) pass(text string) { g.line = append([]byte(text), '\r', '\n') }

// fail answers a command that is wrong; too many of them end the conversation.
func (g *gate) fail(code int, enhanced, text string) {
	g.errors++
	g.reply(code, enhanced, text)
}

// outOfOrder answers a command that has no place here (RFC 5321 section 4.1.4); the library would say 502 or take it.
func (g *gate) outOfOrder(text string) { g.fail(503, "5.5.1", text) }

// commands are those that a gate knows. A handler gets the whole command and its argument.
var commands = map[string]func(g *gate, text, arg string){
	"HELO": (*gate).helo, "EHLO": (*gate).helo, "LHLO": (*gate).helo,
	"MAIL": (*gate).mail, "RCPT": (*gate).rcpt, "DATA": (*gate).data, "BDAT": (*gate).bdat,
	"AUTH": (*gate).auth, "STARTTLS": (*gate).startTLS,
	"RSET": (*gate).simple, "NOOP": (*gate).simple, "QUIT": (*gate).simple,
	"VRFY": (*gate).simple, "EXPN": (*gate).simple, "HELP": (*gate).help,
}

var httpVerbs = map[string]bool{
	"GET": true, "POST": true, "PUT": true, "HEAD": true, "OPTIONS": true, "CONNECT": true, "DELETE": true,
	"PATCH": true, "TRACE": true, "PRI": true, "HOST:": true, "USER-AGENT:": true,
}

// simple passes a command that may come at any time (RFC 5321 section 4.1.4).
func (g *gate) simple(text, _ string) { g.pass(text) }

func (g *gate) help(_, _ string) {
	g.reply(214, "2.0.0", "Commands: EHLO HELO LHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT (RFC 5321)")
}

// helo checks the argument, which goes into Received and logs; the library takes anything.
func (g *gate) helo(text, arg string) {
	name, _, _ := strings.Cut(arg, " ")
	if name == "" || len(name) > maxDomain || !ascii(arg) {
		g.fail(501, "5.5.4", "A domain or an address literal is expected")
		return
	}
	g.pendingHelo = name
	g.pass(text)
}

// auth lets the library do the exchange where AUTH is offered (RULES A1: submission only).
func (g *gate) auth(text, arg string) {
	fields := strings.Fields(arg)
	switch {
	case g.server.options.Protocol != Submission:
		g.fail(502, "5.5.1", "There is no authentication here; the submission service has it")
	case !g.greeted:
		g.outOfOrder("EHLO comes first")
	case g.session.login != "":
		g.outOfOrder("Authenticated already")
	case g.session.tx != nil:
		g.outOfOrder("Not in the middle of a message") // RFC 4954 section 4
	case !g.loginAllowed():
		g.fail(538, "5.7.11", "Encryption is required first") // RFC 4954 section 6
	case len(fields) == 0 || len(fields) > 2:
		g.fail(501, "5.5.4", "AUTH mechanism [response] is expected")
	case len(fields) == 2 && !isBase64(fields[1]):
		g.fail(501, "5.5.2", "The response is not base64")
	default:
		g.pass(text)
	}
}

// loginAllowed reports whether a password may be sent as things are.
func (g *gate) loginAllowed() bool {
	return g.server.options.Protocol == Submission && (g.tls != nil || g.server.options.AllowPlaintextLogin)
}

// saslResponse passes the client's response to a challenge. The library would answer a response that is not base64 with a
// code for passing failures; RFC 4954 section 4 has 501 for it, as for a cancelled exchange.
func (g *gate) saslResponse(line []byte) {
	g.sasl = false
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || len(text) > 0 && !isBase64(string(text)) {
		text = []byte("*")
	}
	g.pass(string(text))
}

func isBase64(s string) bool {
	if s == "=" {
		return true
	}
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil && !strings.ContainsAny(s, "\r\n")
}
