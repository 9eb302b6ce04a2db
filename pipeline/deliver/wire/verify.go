package wire

import "net"

// Verify asks whether the server takes mail for an address from the null sender: MAIL, RCPT and RSET, no content. utf8
// is SMTPUTF8 (RFC 6531). rcpt is zero if it
// was not asked about the address, or did not say. An error is the connection's.
func (c *Conn) Verify(address string, utf8 bool) (mail, rcpt Reply, err error) {
	c.Used++
	if c.broken {
		return mail, rcpt, net.ErrClosed
	}
	if err := c.unasked(); err != nil {
		return mail, rcpt, err
	}
	r := Result{Rcpt: make([]Reply, 1)}
	if err = c.verify(address, utf8, &r); err != nil {
		c.broken = true
	}
	c.out = nil
	return r.Mail, r.Rcpt[0], err
}

// verify sends the three commands at once where the server offers PIPELINING: all of them may stand anywhere in a group (RFC 2920
// section 3.1).
func (c *Conn) verify(address string, utf8 bool, r *Result) error {
	t := Transaction{Recipients: []Recipient{{Address: address}}}
	if c.Extensions.UTF8 && utf8 {
		c.queue("MAIL FROM:<> SMTPUTF8\r\n")
	} else {
		c.queue("MAIL FROM:<>\r\n")
	}
	pipelined := c.Extensions.Pipelining
	if !pipelined {
		if err := c.readMail(r); err != nil || c.broken || !r.Mail.OK() {
			return err
		}
	}
	if err := c.queueRcpts(&t, t.Recipients); err != nil {
		return err
	}
	if pipelined {
		c.queue("RSET\r\n")
		if err := c.readMail(r); err != nil || c.broken {
			return err
		}
	}
	if _, err := c.readRcpts(r.Rcpt); err != nil || c.broken {
		return err
	}
	if !pipelined {
		c.queue("RSET\r\n")
		if c.flush(c.times.Mail) != nil {
			c.broken = true // the answer stands
			return nil
		}
	}
	if reply, err := c.readReply(c.times.Mail, nil); err != nil || !reply.OK() {
		c.broken = true
		return nil
	}
	c.reset = false
	return nil
}
