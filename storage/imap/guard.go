package imap

import (
	"bytes"
	"crypto/tls"
	"io"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a client may send. The library's own bound of 50 KiB a command
// leaves the rest of the line in the stream, to be taken for commands.
const (
	maxCommand     = 48 << 10 // octets of a command without its literals
	maxLiteral     = 4096     // of a literal that is not a message: the library refuses more
	maxSASL        = 4000     // of a line of a SASL exchange: the library's buffer is 4096
	maxLiterals    = 64       // literals in one command
	maxLiteralsSum = 64 << 10 // octets of them
)

// Where in its input a guard is.
type place uint8

const (
	atStart   place = iota // a command begins, or a continuation line if the library asked
	inCommand              // behind a literal, in the same command
	atLiteral              // a literal was announced; the library has not said what it makes of it
)

// guard reads the client's clear text and lets through what the library parses
// the same way: one complete line per Read, so that at each Read it is known what
// the library made of the line before. In particular a literal that the library
// refused is never taken for commands (LIBRARIES 2.4, traps 1 and 2).
type guard struct {
	w     *wire
	in    []byte // read and not yet looked at, or ready
	ready int    // octets of in that may go to the library
	place place

	literal   int64 // octets of a literal still to pass
	announced int64 // atLiteral: its size
	sync      bool  // atLiteral: the client waits for "+"
	drain     bool  // what is left of the command is thrown away
	login     bool  // the session is logged in

	tag, verb string // of the current command; UID is left out
	octets    int
	literals  int
	again     []string  // what a library connection that begins anew is told (rest.go)
	idled     bool      // it was in IDLE
	until     time.Time // by when a client that rests has to speak
	allowed   int       // literals that an APPEND has: the message, and the mailbox's name
	sum       int64
	commands  int
}

func (g *guard) read(p []byte) (int, error) {
	if g.w.gone.Load() {
		return 0, io.EOF
	}
	if n, ok := g.retell(p); ok {
		return n, nil
	}
	for len(p) > 0 {
		if g.ready > 0 {
			n := copy(p, g.in[:g.ready])
			g.consume(n)
			g.ready -= n
			return n, nil
		}
		if g.place == atLiteral && g.literal == 0 {
			if err := g.resolve(); err != nil {
				return 0, err
			}
		}
		if g.literal > 0 {
			if n, err := g.readLiteral(p); n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if i := bytes.IndexByte(g.in, '\n'); i >= 0 {
			if err := g.line(i + 1); err != nil {
				return 0, err
			}
			continue
		}
		if g.octets+len(g.in) > maxCommand {
			return 0, g.w.bye("Command is too long")
		}
		if err := g.more(p); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// consume drops n octets of in; an emptied buffer is given up, since most
// sessions wait most of the time.
func (g *guard) consume(n int) {
	if g.in = g.in[n:]; len(g.in) == 0 {
		g.in = nil
	}
}

// more reads from the network, by way of p.
func (g *guard) more(p []byte) error {
	deadline := g.deadline()
	n, gone, err := g.rests(p, deadline)
	switch {
	case gone:
		return io.EOF
	case n == 0 && err == nil:
		n, err = g.w.await(p, deadline, g.atCommand())
	}
	if err != nil {
		return err
	}
	g.in = append(g.in, p[:n]...)
	return nil
}

// atCommand: nothing of a command has arrived.
func (g *guard) atCommand() bool { return g.place == atStart && len(g.in) == 0 }

func (g *guard) deadline() time.Time {
	now := time.Now()
	o := &g.w.link.srv.o
	d := now.Add(o.stallTime)
	if g.login && g.atCommand() {
		d = now.Add(o.IdleTimeout)
		if end := g.w.link.started.Add(o.MaxSession); o.MaxSession > 0 && end.Before(d) {
			d = end
		}
	}
	if end := g.w.link.started.Add(o.LoginTimeout); !g.login && end.Before(d) {
		d = end
	}
	return d
}

// readLiteral passes on octets of a literal, or throws them away.
func (g *guard) readLiteral(p []byte) (int, error) {
	n := int(min(int64(len(g.in)), g.literal))
	switch {
	case n > 0 && !g.drain:
		g.ready = n
	case n > 0:
		g.consume(n)
	default:
		p = p[:min(int64(len(p)), g.literal)]
		var err error
		if n, err = g.w.await(p, g.deadline(), false); err != nil {
			return 0, err
		}
		g.passed(n)
		if g.drain {
			return 0, nil
		}
		return n, nil
	}
	g.passed(n)
	return 0, nil
}

func (g *guard) passed(n int) {
	if g.literal -= int64(n); g.literal == 0 {
		g.place = inCommand
	}
}

// resolve finds out what became of the announced literal. The library reads
// again: if it wants the literal it said "+" to a synchronizing one and nothing
// to the other kind; if not it has answered the command.
func (g *guard) resolve() error {
	g.place, g.literal = inCommand, g.announced
	switch {
	case g.w.tagged.Load() && g.sync: // and the client will not send it
		g.place, g.literal, g.drain = atStart, 0, false
	case g.w.tagged.Load() || g.drain: // it comes all the same (RFC 7888 section 4)
		g.drain = true
	case g.sync && !g.w.plus.Load():
		return g.w.bye("Unexpected literal")
	}
	return nil
}

// line looks at the line of n octets that in begins with.
func (g *guard) line(n int) error {
	line := g.in[:n]
	if g.place == atStart && g.continuation() {
		g.w.plus.Store(false)
		if n > maxSASL {
			return g.w.bye("Line is too long") // the library would take the rest for a command
		}
		if g.verb == "IDLE" {
			if !bytes.EqualFold(bytes.TrimRight(line, "\r\n"), []byte("done")) {
				return g.w.bye("Expected DONE") // the library would go on while its IDLE still runs
			}
			copy(line, "DONE") // it wants capitals
		}
		g.ready = n
		return nil
	}
	if i := bytes.IndexByte(line, '\r'); bytes.IndexByte(line, 0) >= 0 || i >= 0 && i != n-2 {
		return g.w.bye("NUL or bare CR in a command") // the library would see two lines
	}
	if g.place == atStart {
		if skip, err := g.begin(line); skip || err != nil {
			return err
		}
		line = g.in[:n:n]
	}
	if g.octets += n; g.octets > maxCommand {
		return g.w.bye("Command is too long")
	}
	size, sync, open := trailer(line)
	if open && !g.drain {
		return g.w.bye("Quoted string is not closed") // the library would go on into the next line
	}
	if g.verb == "APPEND" && size < 0 && g.place == inCommand && g.literals == g.allowed && !g.drain {
		if rest := string(bytes.TrimSpace(line)); rest != "" && rest != ")" { // ")" ends UTF8 (~{n}
			return g.w.bye("Text behind the message") // the library would not answer at all
		}
	}
	return g.deliver(n, size, sync)
}

// continuation: the library asked for a line that is no command.
func (g *guard) continuation() bool {
	return (g.verb == "IDLE" || g.verb == "AUTHENTICATE") && g.w.plus.Load() && !g.w.tagged.Load()
}

// deliver lets a line through, after which size octets of literal may follow
// (-1: none).
func (g *guard) deliver(n int, size int64, sync bool) error {
	first := g.place == atStart
	g.place = atStart
	if size >= 0 {
		if skip, err := g.announce(n, size, sync, first); skip || err != nil {
			return err
		}
		g.place, g.announced, g.sync = atLiteral, size, sync
	}
	if !g.drain {
		g.w.plus.Store(false)
		g.w.tagged.Store(false)
		if g.verb == "SEARCH" {
			n = g.rewriteSmaller(n)
		}
		g.ready = n
		return nil
	}
	g.consume(n)
	if size < 0 {
		g.drain = false
	} else {
		g.w.tagged.Store(true)
	}
	return nil
}

// announce checks a literal before the library hears of it. skip: the line was
// answered here.
func (g *guard) announce(n int, size int64, sync, first bool) (skip bool, err error) {
	g.literals++
	g.sum += size
	switch {
	case !sync && size > maxLiteral: // RFC 7888 section 4: BYE is the way out
		return true, g.w.bye("[TOOBIG] Non-synchronizing literals are limited to 4096 octets")
	case g.verb == "APPEND" && g.literals > g.allowed:
		return true, g.w.bye("One message at a time") // MULTIAPPEND: the library would not answer at all
	case g.verb == "APPEND" && g.literals == g.allowed:
		return false, nil // the library knows the limit for messages
	case size > maxLiteral && first && sync: // it would wait for the literal in silence
		g.consume(n)
		g.place = atStart
		return true, g.w.send([]byte(g.tag + " NO [TOOBIG] Literals are limited to 4096 octets in this command\r\n"))
	case size > maxLiteral || g.literals > maxLiterals || g.sum > maxLiteralsSum:
		return true, g.w.bye("[TOOBIG] Too much in literals")
	}
	return false, nil
}

// begin looks at the first line of a command. skip: it was dealt with here.
func (g *guard) begin(line []byte) (skip bool, err error) {
	g.octets, g.literals, g.sum, g.drain = 0, 0, 0, false
	text := strings.TrimRight(string(line[:min(len(line), 200)]), "\r\n")
	if text == "" { // some clients send an empty line behind a literal
		g.consume(len(line))
		return true, nil
	}
	g.w.tagged.Store(false)
	var rest string
	g.tag, rest, _ = strings.Cut(text, " ")
	verb, args, _ := strings.Cut(rest, " ")
	if g.verb = strings.ToUpper(verb); g.verb == "UID" {
		verb, args, _ = strings.Cut(args, " ")
		g.verb = strings.ToUpper(verb)
	}
	if g.tag == "" || strings.ContainsAny(g.tag, "+*(){\"\\%") || len(g.tag) > 100 {
		return true, g.w.bye("Command without a tag")
	}
	if g.allowed = 1; g.verb == "APPEND" && strings.HasPrefix(args, "{") {
		g.allowed = 2
	}
	o := &g.w.link.srv.o
	if g.commands++; g.commands > o.MaxCommands {
		return true, g.w.bye("Too many commands in one session")
	}
	if why := g.w.ending.Load(); why != nil {
		return true, g.w.bye(*why)
	}
	switch {
	case g.verb == "STARTTLS" && args == "" && !g.w.secure && !o.ImplicitTLS && !g.login && o.TLS != nil:
		g.consume(len(line))
		return true, g.startTLS()
	case g.verb == "ID" && !strings.HasSuffix(text, "}") && len(line) < 200:
		// RFC 2971, though it is not offered. The library would cut the connection of a
		// client without login.
		g.consume(len(line))
		return true, g.w.send([]byte("* ID NIL\r\n" + g.tag + " OK ID completed\r\n"))
	}
	return false, nil
}

// startTLS answers, shakes hands, and has another library connection go on over
// TLS. What the client sent ahead in clear text is a try at injection
// (CVE-2011-0411) or nonsense: the connection ends.
func (g *guard) startTLS() error {
	w := g.w
	if len(g.in) > 0 {
		return w.bye("Input behind STARTTLS")
	}
	w.send([]byte(g.tag + " OK Begin TLS negotiation now\r\n"))
	w.mu.Lock()
	err := w.flush()
	w.mu.Unlock()
	s := w.link.srv
	t := tls.Server(w.net, s.o.TLS)
	if err == nil {
		err = s.handshake(t)
	}
	if err != nil {
		s.o.Logger.Debug("imap: TLS handshake", "client", w.link.addr, "why", err)
		w.cut()
		return io.EOF
	}
	next := newWire(w.link, t, true)
	next.swallow = true
	next.guard.commands = g.commands
	w.mu.Lock()
	w.handed = true
	w.mu.Unlock()
	s.start(next, s.secure)
	return io.EOF
}

// trailer says whether line ends with the announcement of a literal, how large
// it is (-1: none), and whether a quoted string is left open.
func trailer(line []byte) (size int64, sync, open bool) {
	end := len(bytes.TrimRight(line, "\r\n"))
	for i := 0; i < end; i++ {
		switch {
		case line[i] == '"':
			open = !open
		case line[i] == '\\' && open:
			i++
		}
	}
	if open || end < 3 || line[end-1] != '}' {
		return -1, false, open
	}
	begin := bytes.LastIndexByte(line[:end], '{')
	if begin < 0 {
		return -1, false, false
	}
	digits := string(line[begin+1 : end-1])
	plain, nonsync := strings.CutSuffix(digits, "+")
	n, err := strconv.ParseUint(plain, 10, 62)
	if err != nil {
		return -1, false, false // no number: the library calls it an error
	}
	return int64(n), !nonsync, false
}
