package receive

import (
	"strconv"
	"strings"
	"time"
)

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
		list, ok := parameters(params)
		reply := paramMalformed
		if ok {
			reply = g.mailParams(list)
		}
		if !reply.OK() {
			g.fail(reply.Code, reply.Enhanced, reply.Text)
			return
		}
		g.pass(text)
	}
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
		if !ok || p.address == "" {
			g.fail(501, "5.1.3", "The recipient's address is malformed")
			return
		}
		list, ok := parameters(params)
		pass, reply := "", rcptMalformed
		if ok {
			pass, reply = g.rcptParams(list)
		}
		if reply.OK() && p.utf8 && !g.session.tx.message.Params.SMTPUTF8 {
			reply = replyNeedsUTF8
		}
		if !reply.OK() {
			g.fail(reply.Code, reply.Enhanced, reply.Text)
			return
		}
		g.path = p
		text = strings.TrimSuffix(strings.TrimRight(text, " "), strings.TrimRight(params, " ")) + pass
		if p.postmaster { // which the library's parser refuses
			text = "RCPT TO:<postmaster@" + g.server.options.Hostname + ">" + pass
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
	tx, most := g.session.tx, g.server.options.Config.MaxSize.Int64()
	if tx != nil {
		tx.announced += int64(size)
		tx.tooLarge.Store(tx.announced > most)
	}
	switch {
	case int64(size) > most:
		g.die("552 5.3.4 The message is too large; closing instead of reading it")
		if g.greeted && tx != nil && !tx.chunked && len(tx.message.Recipients) > 0 { // otherwise who reads the chunks does it
			g.session.unfit(tx.message, &scan{flaw: flawSize, size: int64(size)})
		}
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

// cutKeyword takes "FROM:" or "TO:" off an argument, and blanks behind it that RFC 5321 does not allow and clients send.
func cutKeyword(arg, keyword string) (rest string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	return strings.TrimLeft(arg[len(keyword):], " "), true
}
