package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// wireIMAP is an IMAP client that may lose its connection at any octet: what was
// read whole counts, and nothing else. (go-imap's client reads a literal from two
// goroutines when the connection ends within it, as of v2.0.0-beta.8.)
type wireIMAP struct {
	conn net.Conn
	r    *bufio.Reader
	tag  int
}

func (s *site) wireLogin(user string) (*wireIMAP, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.addr("imaps"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &wireIMAP{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	if _, err = c.response(); err == nil { // the greeting
		_, err = c.do("LOGIN %s \"%s\"", user, password)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

var literalMark = regexp.MustCompile(`\{(\d+)\}\r\n$`)

// response reads one response with its literals.
func (c *wireIMAP) response() (string, error) {
	var text strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		text.WriteString(line)
		m := literalMark.FindStringSubmatch(line)
		if m == nil {
			return text.String(), nil
		}
		n, err := strconv.ParseInt(m[1], 10, 32)
		if err != nil {
			return "", err
		}
		if _, err := io.CopyN(&text, c.r, n); err != nil {
			return "", err
		}
	}
}

// do runs a command and returns the untagged responses, or an error when the
// tagged one is not OK.
func (c *wireIMAP) do(format string, args ...any) ([]string, error) {
	c.tag++
	tag := fmt.Sprintf("w%d ", c.tag)
	if _, err := fmt.Fprintf(c.conn, tag+format+"\r\n", args...); err != nil {
		return nil, err
	}
	var untagged []string
	for {
		r, err := c.response()
		if err != nil {
			return nil, err
		}
		if rest, ok := strings.CutPrefix(r, tag); ok {
			if !strings.HasPrefix(rest, "OK") {
				return nil, fmt.Errorf("%s: %s", format, strings.TrimSpace(rest))
			}
			return untagged, nil
		}
		untagged = append(untagged, r)
	}
}

var (
	existsResponse = regexp.MustCompile(`^\* (\d+) EXISTS`)
	validityCode   = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
	fetchUID       = regexp.MustCompile(`[( ]UID (\d+)`)
)

// examine opens a mailbox for reading.
func (c *wireIMAP) examine(mailbox string) (exists int, validity uint32, err error) {
	responses, err := c.do("EXAMINE %s", mailbox)
	for _, r := range responses {
		if m := existsResponse.FindStringSubmatch(r); m != nil {
			exists, _ = strconv.Atoi(m[1])
		}
		if m := validityCode.FindStringSubmatch(r); m != nil {
			n, _ := strconv.ParseUint(m[1], 10, 32)
			validity = uint32(n)
		}
	}
	if err == nil && validity == 0 {
		err = fmt.Errorf("no UIDVALIDITY in %q", responses)
	}
	return exists, validity, err
}

// fetchFrom returns the messages of the open mailbox from a UID on; the last one is
// always among them (RFC 9051 section 9, seq-range).
func (c *wireIMAP) fetchFrom(from imap.UID) ([]stored, error) {
	responses, err := c.do("UID FETCH %d:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])", from)
	if err != nil {
		return nil, err
	}
	var all []stored
	for _, r := range responses {
		if !strings.Contains(r, " FETCH ") {
			continue
		}
		uid, id := fetchUID.FindStringSubmatch(r), messageIDField.FindStringSubmatch(r)
		if uid == nil || id == nil {
			if uid != nil && !strings.Contains(r, "BODY[") {
				continue // flags that changed meanwhile
			}
			return nil, fmt.Errorf("no UID or no Message-ID in %q", r)
		}
		n, err := strconv.ParseUint(uid[1], 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, stored{imap.UID(n), id[1]})
	}
	return all, nil
}
