package interop

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// smtpClient speaks SMTP without doing anything that it was not told to: which
// octets are sent when, and which reply was seen, is what these tests are about.
type smtpClient struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialSMTP(addr string, limit time.Duration) (*smtpClient, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(limit))
	c := &smtpClient{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.reply(220); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := c.command(250, "EHLO mx.example.org"); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *smtpClient) close() { c.conn.Close() }

func (c *smtpClient) startTLS() error {
	if _, err := c.command(220, "STARTTLS"); err != nil {
		return err
	}
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.conn, c.r = conn, bufio.NewReader(conn)
	_, err := c.command(250, "EHLO mx.example.org")
	return err
}

// smtpReply is a reply that was not the expected one.
type smtpReply struct {
	code int
	text string
}

func (e *smtpReply) Error() string { return fmt.Sprintf("reply %d %s", e.code, e.text) }

// replyCode returns the code if err is an unexpected reply, else 0.
func replyCode(err error) int {
	var r *smtpReply
	if errors.As(err, &r) {
		return r.code
	}
	return 0
}

func (c *smtpClient) reply(want int) (string, error) {
	var text []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) < 4 {
			return "", fmt.Errorf("malformed reply %q", line)
		}
		text = append(text, line[4:])
		if line[3] == ' ' {
			code, err := strconv.Atoi(line[:3])
			if err != nil {
				return "", fmt.Errorf("malformed reply %q", line)
			}
			if code != want {
				return "", &smtpReply{code, strings.Join(text, "\n")}
			}
			return strings.Join(text, "\n"), nil
		}
	}
}

func (c *smtpClient) command(want int, format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(c.conn, format+"\r\n", args...); err != nil {
		return "", err
	}
	return c.reply(want)
}

// send sends one message and returns the text of its 250. acknowledged is the
// moment of truth: nil means that the 250 was read whole.
func (c *smtpClient) send(from string, to []string, message string) (string, error) {
	if _, err := c.command(250, "MAIL FROM:<%s>", from); err != nil {
		return "", err
	}
	for _, rcpt := range to {
		if _, err := c.command(250, "RCPT TO:<%s>", rcpt); err != nil {
			return "", err
		}
	}
	if _, err := c.command(354, "DATA"); err != nil {
		return "", err
	}
	return c.command(250, "%s.", dotStuff(message))
}

func dotStuff(message string) string {
	if strings.HasPrefix(message, ".") {
		message = "." + message
	}
	return strings.ReplaceAll(message, "\r\n.", "\r\n..")
}

// letter makes a message of about size octets with that Message-ID (without
// angle brackets) and header fields of the caller's.
func letter(id, subject string, size int, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "From: A Stranger <%s>\r\nTo: <%s>\r\nDate: Sat, 21 Nov 2026 20:00:00 +0000\r\nMessage-ID: <%s>\r\nSubject: %s\r\n",
		stranger, alice, id, subject)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "Line %d of a letter that has something to say to its reader.\r\n", i)
	}
	return b.String()
}
