package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// imapLogin logs in over implicit TLS.
func (s *site) imapLogin(user string) (*imapclient.Client, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.addr("imaps"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := imapclient.New(conn, nil)
	if err := c.Login(user, password).Wait(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// stored is one message as IMAP shows it.
type stored struct {
	uid imap.UID
	id  string // Message-ID without angle brackets
}

var messageIDField = regexp.MustCompile(`(?im)^message-id:\s*<([^>]*)>`)

// list returns what is in a mailbox, and its UIDVALIDITY.
func (s *site) list(user, mailbox string) ([]stored, uint32, error) {
	c, err := s.wireLogin(user)
	if err != nil {
		return nil, 0, fmt.Errorf("log in as %s: %w", user, err)
	}
	defer c.conn.Close()
	exists, validity, err := c.examine(mailbox)
	if err != nil {
		return nil, 0, fmt.Errorf("examine %s: %w", mailbox, err)
	}
	if exists == 0 {
		return nil, validity, nil
	}
	all, err := c.fetchFrom(1)
	if err == nil && len(all) != exists {
		err = fmt.Errorf("%d messages, but EXISTS said %d", len(all), exists)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("fetch %s: %w", mailbox, err)
	}
	return all, validity, nil
}

// ids counts the Message-IDs in a mailbox.
func (s *site) ids(user, mailbox string) (map[string]int, error) {
	all, _, err := s.list(user, mailbox)
	counts := make(map[string]int, len(all))
	for _, m := range all {
		counts[m.id]++
	}
	return counts, err
}

// waitMail waits until a mailbox has a message with that Message-ID.
func (s *site) waitMail(user, mailbox, id string) {
	s.t.Helper()
	var have map[string]int
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if have, err = s.ids(user, mailbox); err == nil && have[id] == 1 {
			return
		}
	}
	s.t.Fatalf("%s of %s does not have <%s> once but %v (%v)", mailbox, user, id, have, err)
}

// pop3 speaks POP3 over implicit TLS.
type pop3 struct {
	conn net.Conn
	text *textproto.Reader
}

func (s *site) pop3Login(user string) (*pop3, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.addr("pop3s"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	p := &pop3{conn, textproto.NewReader(bufio.NewReader(conn))}
	for _, command := range []string{"", "USER " + user, "PASS " + password} {
		if _, err := p.command(command); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return p, nil
}

func (p *pop3) command(line string) (string, error) {
	if line != "" {
		if _, err := io.WriteString(p.conn, line+"\r\n"); err != nil {
			return "", err
		}
	}
	got, err := p.text.ReadLine()
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(got, "+OK") {
		return "", fmt.Errorf("pop3: %s: %s", line, got)
	}
	return got, nil
}

// multi returns the lines of a multi-line answer, joined by LF.
func (p *pop3) multi(line string) (string, error) {
	if _, err := p.command(line); err != nil {
		return "", err
	}
	lines, err := p.text.ReadDotBytes()
	return string(lines), err
}
