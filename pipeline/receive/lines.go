package receive

import (
	"bytes"
	"time"
)

// Longest lines, CRLF included. RFC 5321 section 4.5.3.1.4 wants 512 and more for extensions: of those offered here MAIL
// may add 26 (SIZE), 17 (BODY), 10 (SMTPUTF8), 9 and 107 (RET, ENVID) and 500 (AUTH), RCPT 28 (NOTIFY) and 500 (ORCPT).
const (
	maxCommandLine = 2048
	maxAuthLine    = 12288     // RFC 4954 section 4
	maxSkipped     = 256 << 10 // octets of a line that is too long, before we give up on the client
)

// readLine returns the next line with its end. It reports false if there is none: the gate is dead, or the line was too
// long and has been answered. A client has the idle timeout for the whole line, however it drips.
func (g *gate) readLine() (line []byte, ok bool) {
	limit := maxCommandLine
	if g.sasl {
		limit = maxAuthLine
	}
	deadline := g.lineBy
	g.lineBy = time.Time{}
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
