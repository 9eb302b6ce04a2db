package receive

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// Longest lines, CRLF included. RFC 5321 section 4.5.3.1.4 wants 512 and more for extensions: of those offered here MAIL
// may add 26 (SIZE), 17 (BODY), 10 (SMTPUTF8), 9 and 107 (RET, ENVID) and 500 (AUTH), RCPT 28 (NOTIFY) and 500 (ORCPT).
const (
	maxCommandLine = 2048
	maxAuthLine    = 12288     // RFC 4954 section 4
	maxSkipped     = 256 << 10 // octets of a line that is too long, before we give up on the client
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

// readLine returns the next line with its end. It reports false if there is none: the gate is dead, or the line was too
// long and has been answered. A client has the idle timeout for the whole line, however it drips.
func (g *gate) readLine() (line []byte, ok bool) {
	limit := maxCommandLine
	if g.sasl {
		limit = maxAuthLine
	}
	var deadline time.Time
	for skipped, seen := 0, 0; ; {
		if feed := bytes.IndexByte(g.buf[g.r+seen:g.w], '\n'); feed >= 0 {
			stop := g.r + seen + feed + 1
			line = g.buf[g.r:stop]
			g.r = stop
			if skipped+len(line) <= limit || skipped == 0 && len(line) <= maxAuthLine && isAuth(line) {
				return line, true
			}
			g.tooLong()
			return nil, false
		}
		if seen = g.w - g.r; skipped > 0 || seen > limit && !(seen <= maxAuthLine && isAuth(g.buf[g.r:g.w])) {
			skipped += seen
			g.r, seen = g.w, 0
		}
		if skipped > maxSkipped {
			g.log("connection closed", "why", "a command line without end")
			g.die("500 5.5.2 Line too long")
			return nil, false
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(g.server.options.Limits.IdleTimeout.Std())
		}
		if g.fill(time.Until(deadline), time.Time{}) != nil {
			return nil, false
		}
	}
}

func isAuth(line []byte) bool { return len(line) > 5 && bytes.EqualFold(line[:5], []byte("AUTH ")) }

// tooLong answers a line over the limit. In the middle of AUTH there is no answering for the library, which still waits
// for the client's response; so the exchange is cancelled.
func (g *gate) tooLong() {
	if g.sasl {
		g.sasl = false
		g.line = []byte("*\r\n")
		return
	}
	g.fail(500, "5.5.2", "Line too long")
}

// commandText returns a command line without its end and without blanks behind it, which a server should tolerate (RFC
// 5321 section 4.1.1) and the library does not. A line ends in CRLF and nothing else (RFC 5321 section 2.3.8).
func (g *gate) commandText(line []byte) (string, bool) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		g.fail(500, "5.5.2", "A line must end in CR LF")
		return "", false
	}
	text = bytes.TrimRight(text, " \t")
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			g.fail(500, "5.5.2", "Control characters are not allowed in a command")
			return "", false
		}
	}
	return string(text), true
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

func (g *gate) mail(text, arg string) {
	switch {
	case !g.greeted:
		g.outOfOrder("EHLO comes first")
	case g.session.tx != nil:
		g.outOfOrder("There is a sender already; RSET or the end of the message comes first")
	case g.server.options.Protocol == Submission && g.session.login == "":
		g.fail(530, "5.7.0", "Authentication required") // RFC 4954 section 6
	default:
		rest, ok := cutKeyword(arg, "FROM:")
		if !ok {
			g.fail(501, "5.5.4", "MAIL FROM:<address> is expected")
			return
		}
		p, params, ok := parsePath(rest)
		if !ok || p.postmaster {
			g.fail(501, "5.1.7", "The sender's address is malformed")
			return
		}
		g.path = p
		g.mailParams(text, params)
	}
}

// mailParams checks the parameters of MAIL where the library would say the wrong thing.
func (g *gate) mailParams(text, params string) {
	utf8 := false
	for _, param := range strings.Fields(params) {
		key, value, _ := strings.Cut(param, "=")
		switch strings.ToUpper(key) {
		case "SIZE":
			// The library reads 32 bits; RFC 1870 section 3 has 20 digits.
			if n, err := strconv.ParseUint(value, 10, 64); digits(value) && (err != nil || n > 1<<32-1) {
				g.reply(552, "5.3.4", "The message is too large")
				return
			}
		case "SMTPUTF8":
			utf8 = true
		case "BODY", "RET", "ENVID":
		case "AUTH":
			if g.server.options.Protocol != Submission {
				g.fail(555, "5.5.4", "A parameter of MAIL is unknown")
				return
			}
		default:
			g.fail(555, "5.5.4", "A parameter of MAIL is unknown") // RFC 5321 section 4.1.1.11
			return
		}
	}
	if !params1(params) {
		g.fail(501, "5.5.4", "A parameter of MAIL is malformed")
		return
	}
	if g.path.utf8 && !utf8 {
		g.fail(553, "5.6.7", "An address beyond ASCII needs SMTPUTF8") // RFC 6531 section 3.5
		return
	}
	g.pass(text)
}

func (g *gate) rcpt(text, arg string) {
	switch {
	case !g.greeted:
		g.outOfOrder("EHLO comes first")
	case g.session.tx == nil:
		g.outOfOrder("MAIL comes first")
	case g.session.tx.chunked:
		g.outOfOrder("The message is being sent")
	default:
		rest, ok := cutKeyword(arg, "TO:")
		if !ok {
			g.fail(501, "5.5.4", "RCPT TO:<address> is expected")
			return
		}
		p, params, ok := parsePath(rest)
		if !ok || p.address == "" || !params1(params) {
			g.fail(501, "5.1.3", "The recipient's address is malformed")
			return
		}
		for _, param := range strings.Fields(params) {
			if key, _, _ := strings.Cut(strings.ToUpper(param), "="); key != "NOTIFY" && key != "ORCPT" {
				g.fail(555, "5.5.4", "A parameter of RCPT is unknown")
				return
			}
		}
		if p.utf8 && !g.session.tx.message.Params.SMTPUTF8 {
			g.fail(553, "5.6.7", "An address beyond ASCII needs SMTPUTF8")
			return
		}
		g.path = p
		g.orcpt = parameter(params, "ORCPT")
		if p.postmaster { // which the library's parser refuses
			text = "RCPT TO:<postmaster@" + g.server.options.Hostname + ">" + params
		}
		g.pass(text)
	}
}

func (g *gate) data(text, arg string) {
	switch {
	case arg != "":
		g.fail(501, "5.5.4", "DATA takes no argument")
	case !g.greeted:
		g.outOfOrder("EHLO comes first")
	case g.session.tx == nil:
		g.outOfOrder("MAIL comes first")
	case g.session.tx.chunked:
		g.outOfOrder("BDAT and DATA cannot be mixed") // RFC 3030 section 3
	case len(g.session.tx.message.Recipients) == 0:
		g.outOfOrder("There is no valid recipient")
	default:
		g.pass(text)
	}
}

// bdat checks everything for which the library would refuse the command without reading the chunk: its octets would be
// taken for commands.
func (g *gate) bdat(text, arg string) {
	fields := strings.Fields(arg)
	var size uint64
	var err error
	if len(fields) > 0 {
		size, err = strconv.ParseUint(fields[0], 10, 32)
	}
	if len(fields) == 0 || err != nil || !digits(fields[0]) || len(fields) > 2 || len(fields) == 2 && !strings.EqualFold(fields[1], "LAST") {
		// Where the chunk ends cannot be known, and it is not to be parsed as commands.
		g.log("connection closed", "why", "malformed BDAT")
		g.die("501 5.5.4 BDAT size [LAST] is expected; closing, since what follows cannot be told from commands")
		return
	}
	tx := g.session.tx
	switch {
	case int64(size) > g.server.options.Config.MaxSize.Int64():
		g.die("552 5.3.4 The message is too large; closing instead of reading it")
	case !g.greeted:
		g.skipChunk(int64(size), "EHLO comes first")
	case tx == nil:
		g.skipChunk(int64(size), "MAIL comes first")
	case len(tx.message.Recipients) == 0:
		g.skipChunk(int64(size), "There is no valid recipient")
	default:
		g.session.beginChunks(tx)
		g.chunk = int64(size)
		g.pass(text)
	}
}

// skipChunk answers a BDAT that is out of order and reads its chunk.
func (g *gate) skipChunk(size int64, text string) {
	g.outOfOrder(text)
	deadline := time.Now().Add(g.server.options.Config.TransactionTimeout.Std())
	for size > 0 && !g.dead {
		if g.r == g.w && g.fill(g.server.options.Config.DataTimeout.Std(), deadline) != nil {
			return
		}
		n := min(size, int64(g.w-g.r))
		g.r += int(n)
		size -= n
	}
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

// cutKeyword takes "FROM:" or "TO:" off an argument, and blanks behind it that RFC 5321 does not allow and clients send.
func cutKeyword(arg, keyword string) (rest string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	return strings.TrimLeft(arg[len(keyword):], " "), true
}

// params1 reports whether parameters have the form of RFC 5321 section 4.1.2: a blank before each, and at most one "=".
func params1(params string) bool {
	if params != "" && params[0] != ' ' {
		return false
	}
	for _, p := range strings.Fields(params) {
		if strings.Count(p, "=") > 1 || strings.HasPrefix(p, "=") {
			return false
		}
	}
	return true
}

// parameter returns the value of a parameter as it was sent.
func parameter(params, name string) string {
	for _, p := range strings.Fields(params) {
		if key, value, _ := strings.Cut(p, "="); strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
