package wire

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// Recipient is one RCPT TO.
type Recipient struct {
	Address string
	Notify  []string // RFC 3461 section 4.1; sent if the server has DSN
	ORcpt   string   // RFC 3461 section 4.2, as it was received; likewise
}

// Transaction is one message for some recipients. What the server does not offer is left out; whether that is all right is
// for the caller to know.
type Transaction struct {
	Sender     string
	Recipients []Recipient
	Ret, EnvID string // RFC 3461 sections 4.3 and 4.4; EnvID decoded
	EightBit   bool   // BODY=8BITMIME
	UTF8       bool   // SMTPUTF8
	RequireTLS bool   // REQUIRETLS
	Content    Content
}

// Result is what came of a transaction, as far as it went.
type Result struct {
	Mail   Reply
	Rcpt   []Reply // for each recipient
	Data   Reply   // to DATA; 354, or why not. With BDAT it stays zero
	Final  []Reply // after the content; SMTP: one for all. LMTP: one for each recipient
	Ended  bool    // the end of the content was sent: without a Final reply nobody knows whether the message was taken
	NoBDAT bool    // it offered BDAT and does not know it: it did not take the message, and the connection is broken
	Err    error   // of the connection; a *ContentError is ours
}

// Answer returns what was said to the content for the recipient of that index; zero: nothing.
func (r *Result) Answer(i int) Reply {
	if len(r.Final) == 0 {
		return Reply{}
	}
	return r.Final[min(i, len(r.Final)-1)]
}

// window is how many RCPTs go out before their replies are read: few enough that neither side waits for the other
// with full buffers (RFC 2920 section 3.1).
const window = 64

var commands = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// maxKept bounds the buffers that go back to the pool.
const maxKept = 2*block + 1<<10

// CheckAddress reports why an address can't be sent: an error that says so, or nil. "" is the null sender.
func CheckAddress(address string) error {
	var room [maxAddress + 8]byte
	_, err := appendPath(room[:0], address)
	return err
}

// Send makes one transaction. Afterwards Usable says whether another one may follow.
func (c *Conn) Send(t *Transaction) Result {
	c.Used++
	r := Result{Rcpt: make([]Reply, len(t.Recipients))}
	if c.broken {
		r.Err = net.ErrClosed
		return r
	}
	if r.Err = c.unasked(); r.Err != nil {
		return r
	}
	buffer := commands.Get().(*[]byte)
	c.out = (*buffer)[:0]
	chunked := c.Extensions.Chunking && (t.Content.Size >= ChunkFrom || t.Content.Open)
	accepted, err := c.envelope(t, &r, chunked)
	if err == nil && accepted > 0 {
		err = c.deliver(t, &r, chunked, accepted)
	}
	if r.Err = err; err != nil {
		c.broken = true
	}
	if cap(c.out) <= maxKept {
		*buffer = c.out[:0]
	}
	c.out = nil
	commands.Put(buffer)
	return r
}

// envelope sends MAIL and RCPTs, with PIPELINING DATA too, and returns how many recipients were accepted.
func (c *Conn) envelope(t *Transaction, r *Result, chunked bool) (accepted int, err error) {
	pipelined := c.Extensions.Pipelining
	if err := c.queueMail(t); err != nil {
		return 0, err
	}
	if !pipelined {
		if err := c.readMail(r); err != nil || !r.Mail.OK() {
			return 0, err
		}
	}
	for i := 0; i < len(t.Recipients); {
		n := min(len(t.Recipients)-i, window)
		if !pipelined {
			n = 1
		}
		if err := c.queueRcpts(t, t.Recipients[i:i+n]); err != nil {
			return 0, err
		}
		data := pipelined && !chunked && i+n == len(t.Recipients)
		if data {
			c.queue("DATA\r\n")
		}
		if r.Mail.Code == 0 {
			if err := c.readMail(r); err != nil || c.broken {
				return 0, err
			}
		}
		ok, err := c.readRcpts(r.Rcpt[i : i+n])
		if err != nil || c.broken {
			return 0, err
		}
		if r.Mail.OK() {
			accepted += ok
		}
		i += n
		if data {
			return accepted, c.readData(r, accepted)
		}
		if !r.Mail.OK() {
			return 0, nil
		}
	}
	return accepted, nil
}

// queueMail queues RSET where the last transaction did not end well, and MAIL. RSET (RFC 5321 section 4.1.1.5) may stand in front of
// others in a group of commands (RFC 2920 section 3.1).
func (c *Conn) queueMail(t *Transaction) error {
	out := append(c.out, "MAIL FROM:"...)
	out, err := appendPath(out, t.Sender)
	if err != nil {
		return fmt.Errorf("write MAIL: %w", err)
	}
	x := &c.Extensions
	if x.SizeOffered {
		out = strconv.AppendInt(append(out, " SIZE="...), t.Content.Size, 10)
	}
	if t.EightBit && x.EightBit {
		out = append(out, " BODY=8BITMIME"...)
	}
	if t.UTF8 && x.UTF8 {
		out = append(out, " SMTPUTF8"...)
	}
	if t.RequireTLS && x.RequireTLS && c.tls != nil { // RFC 8689 section 4.1: offered over TLS only
		out = append(out, " REQUIRETLS"...)
	}
	if x.DSN {
		if t.Ret == "FULL" || t.Ret == "HDRS" {
			out = append(append(out, " RET="...), t.Ret...)
		}
		if t.EnvID != "" && len(t.EnvID) <= 100 { // RFC 3461 section 4.4
			out = appendXtext(append(out, " ENVID="...), t.EnvID)
		}
	}
	c.out = append(out, "\r\n"...)
	return nil
}

func (c *Conn) queueRcpts(t *Transaction, recipients []Recipient) error {
	out := c.out
	for i := range recipients {
		to := &recipients[i]
		out = append(out, "RCPT TO:"...)
		var err error
		if out, err = appendPath(out, to.Address); err != nil {
			return fmt.Errorf("write RCPT: %w", err)
		}
		if c.Extensions.DSN {
			out = appendNotify(out, to.Notify)
			if to.ORcpt != "" {
				mark := len(out)
				var ok bool
				if out, ok = appendORCPT(append(out, " ORCPT="...), to.ORcpt, t.UTF8 && c.Extensions.UTF8); !ok {
					out = out[:mark]
				}
			}
		}
		out = append(out, "\r\n"...)
	}
	c.out = out
	return nil
}

// appendNotify writes NOTIFY (RFC 3461 section 4.1): NEVER alone, or some of the others.
func appendNotify(out []byte, notify []string) []byte {
	mark := len(out)
	for _, word := range notify {
		switch word {
		case "NEVER":
			return append(out[:mark], " NOTIFY=NEVER"...)
		case "SUCCESS", "FAILURE", "DELAY":
			if len(out) == mark {
				out = append(out, " NOTIFY="...)
			} else {
				out = append(out, ',')
			}
			out = append(out, word...)
		}
	}
	return out
}

// readMail sends what is queued and reads the replies to RSET, where it was needed, and to MAIL. Commands of a transaction that was
// refused may follow, so RSET is needed again until one went well.
func (c *Conn) readMail(r *Result) (err error) {
	reset := c.reset
	if reset {
		// In front of everything that is queued: MAIL is the first.
		c.out = append(c.out, "RSET\r\n"...)
		copy(c.out[6:], c.out[:len(c.out)-6])
		copy(c.out, "RSET\r\n")
		if !c.Extensions.Pipelining {
			mail := append([]byte(nil), c.out[6:]...)
			c.out = c.out[:6]
			if err := c.flushAndReset(); err != nil {
				return err
			}
			c.out, reset = append(c.out, mail...), false
		}
	}
	if err := c.flush(c.times.Mail); err != nil {
		return fmt.Errorf("send MAIL: %w", err)
	}
	if reset {
		if err := c.readReset(); err != nil {
			return err
		}
	}
	c.reset = true
	if r.Mail, err = c.readReply(c.times.Mail, nil); err != nil {
		return fmt.Errorf("read the reply to MAIL: %w", err)
	}
	return c.odd(r.Mail)
}

func (c *Conn) flushAndReset() error {
	if err := c.flush(c.times.Mail); err != nil {
		return fmt.Errorf("send RSET: %w", err)
	}
	return c.readReset()
}

// readReset reads the reply to RSET, which no server may refuse.
func (c *Conn) readReset() error {
	reply, err := c.readReply(c.times.Mail, nil)
	if err == nil && !reply.OK() {
		err = c.fail(&ProtocolError{What: errors.New("RSET was refused"), Got: reply.String()})
	}
	if err != nil {
		return fmt.Errorf("read the reply to RSET: %w", err)
	}
	return nil
}

// readRcpts sends what is queued and reads the replies to RCPTs, until one is 421.
func (c *Conn) readRcpts(replies []Reply) (accepted int, err error) {
	if err := c.flush(c.times.Rcpt); err != nil {
		return 0, fmt.Errorf("send RCPT: %w", err)
	}
	for i := range replies {
		if replies[i], err = c.readReply(c.times.Rcpt, nil); err != nil {
			return accepted, fmt.Errorf("read the reply to RCPT: %w", err)
		}
		if err := c.odd(replies[i]); err != nil {
			replies[i] = Reply{}
			return accepted, fmt.Errorf("read the reply to RCPT: %w", err)
		}
		if c.broken {
			return accepted, nil
		}
		if replies[i].OK() {
			accepted++
		}
	}
	return accepted, nil
}

// readData reads the reply to DATA. A server that has taken no recipient and says 354 all the same gets a lone dot: it
// has to refuse then, or has accepted nothing for nobody (RFC 2920 section 3.1). Over LMTP nobody knows how many
// replies to that would come (RFC 2033 section 4.2), so that connection is given up.
func (c *Conn) readData(r *Result, accepted int) (err error) {
	if r.Data, err = c.readReply(c.times.Data, nil); err != nil {
		return fmt.Errorf("read the reply to DATA: %w", err)
	}
	if r.Data.OK() || r.Data.Code/100 == 3 && r.Data.Code != 354 {
		got := r.Data.String()
		r.Data = Reply{}
		return c.fail(fmt.Errorf("read the reply to DATA: %w", &ProtocolError{What: errClass, Got: got}))
	}
	if accepted > 0 || r.Data.Code != 354 {
		return nil
	}
	if c.options.LMTP {
		c.broken = true
		return nil
	}
	c.queue(".\r\n")
	if err := c.flush(c.times.Data); err != nil {
		return nil // the connection is broken, and the replies to RCPT have said everything
	}
	c.readReply(c.times.Data, nil)
	return nil
}

// deliver sends the content to those who were accepted, and reads what is said to it.
func (c *Conn) deliver(t *Transaction, r *Result, chunked bool, accepted int) error {
	if !chunked && r.Data.Code == 0 {
		c.queue("DATA\r\n")
		if err := c.flush(c.times.Data); err != nil {
			return fmt.Errorf("send DATA: %w", err)
		}
		if err := c.readData(r, accepted); err != nil {
			return err
		}
	}
	if !chunked && r.Data.Code != 354 {
		return nil
	}
	if chunked || len(c.in) > 0 && c.in[0] < '4' { // a refusal may come early, and nothing else
		if err := c.unasked(); err != nil {
			return err
		}
	}
	if chunked {
		c.out = append(strconv.AppendInt(append(c.out, "BDAT "...), t.Content.Size, 10), " LAST\r\n"...)
	}
	if err := c.sendContent(&t.Content, !chunked); err != nil {
		c.lastWords(r, err)
		return fmt.Errorf("send the content: %w", err)
	}
	r.Ended = true
	return c.readFinal(r, chunked)
}

// readFinal reads the replies to the end of the content: one, or with LMTP one for each recipient who was accepted, in
// order (RFC 2033 section 4.2). A server that does not know BDAT after all, for somebody in between made its offer, takes the content
// for commands: what it says to that is nothing to be read.
func (c *Conn) readFinal(r *Result, chunked bool) error {
	n := 1
	if c.options.LMTP {
		n = len(r.Rcpt)
	}
	r.Final = make([]Reply, n)
	well := true
	if until := time.Now().Add(c.times.Final); c.patient && c.deadline.Before(until) {
		c.deadline = until // for all of them
	}
	for i := range r.Final {
		if c.options.LMTP && !r.Rcpt[i].OK() {
			continue
		}
		reply, err := c.readReply(c.times.Final, nil)
		if err == nil {
			err = c.odd(reply)
		}
		if err != nil {
			return fmt.Errorf("read the reply to the content: %w", err)
		}
		r.Final[i] = reply
		if chunked && !c.options.LMTP && (reply.Code == 500 || reply.Code == 502) {
			c.broken, r.NoBDAT = true, true
			return nil
		}
		if well = well && reply.OK(); c.broken {
			return nil
		}
	}
	c.reset = !well
	return nil
}

// lastWords looks whether a peer that did not take all of the content said why. It gets a moment for that.
func (c *Conn) lastWords(r *Result, err error) {
	var ours *ContentError
	if errors.As(err, &ours) || c.interrupted != nil && c.interrupted.Load() {
		return
	}
	reply, err := c.readReply(time.Second, nil)
	if err == nil && (reply.Temporary() || reply.Permanent()) {
		r.Final = []Reply{reply}
	}
}
