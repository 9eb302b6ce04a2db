package icap

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Bounds of what is read from a server, in octets.
const (
	maxHeads = 64 << 10 // all headers of an answer together
	maxExtra = 1 << 20  // how much longer than the message an answer's body may be
)

// lastWrite is how long after an answer the last octets of the message may still be on their way.
const lastWrite = time.Second

// scan asks about a message.
func (p *plugin) scan(ctx context.Context, m *sdk.Message) (f finding, err error) {
	body := dial.NewReplay(m.Content, 64<<10)
	defer body.Stop()
	err = p.pool.Do(ctx, body.Rewind, func(c *dial.Conn) error {
		f, err = p.exchange(c, m, body)
		return err
	})
	return f, err
}

// exchange sends one message and reads the answer meanwhile. After an error, or when the server
// answered before it had everything, the connection is not used again.
func (p *plugin) exchange(c *dial.Conn, m *sdk.Message, body io.Reader) (finding, error) {
	sent := make(chan sending, 1)
	go func() {
		s := sending{digest: sha256.New()}
		s.err = p.send(c, m, io.TeeReader(body, s.digest))
		sent <- s
	}()
	a, readErr := readAnswer(c, m.Size+maxExtra)
	early := false
	var s sending
	if readErr != nil {
		_ = c.Close()
	}
	patience := time.NewTimer(lastWrite)
	defer patience.Stop()
	select {
	case s = <-sent:
	case <-patience.C: // it has its opinion without the rest
		early = true
		_ = c.Close() // ends the writing
		s = <-sent
	}
	var broken *contentError
	if errors.As(s.err, &broken) {
		return finding{}, s.err
	}
	if readErr != nil {
		return finding{}, errors.Join(s.err, readErr)
	}
	if s.err != nil || a.surplus { // the next answer on it might be about this message
		_ = c.Close()
	}
	if early || s.err != nil {
		s.digest = nil // half a message compares to nothing
	}
	return a.means(s.digest)
}

type sending struct {
	digest hash.Hash
	err    error
}

// contentError is a failure to read the message.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// send writes a request (RFC 3507 sections 4.4 and 4.8 or 4.9).
func (p *plugin) send(c io.Writer, m *sdk.Message, body io.Reader) error {
	w := bufio.NewWriterSize(c, 64<<10)
	if _, err := io.WriteString(w, p.head(m)); err != nil {
		return fmt.Errorf("send to the ICAP server: %w", err)
	}
	chunks := httputil.NewChunkedWriter(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := chunks.Write(buf[:n]); err != nil {
				return fmt.Errorf("send to the ICAP server: %w", err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return &contentError{fmt.Errorf("read the message: %w", err)}
		}
	}
	_ = chunks.Close() // writes to the buffer
	_, _ = io.WriteString(w, "\r\n")
	if err := w.Flush(); err != nil {
		return fmt.Errorf("send to the ICAP server: %w", err)
	}
	return nil
}

// head is everything before the body: ICAP's header and those of the HTTP messages that ICAP is
// about.
func (p *plugin) head(m *sdk.Message) string {
	name := "http://mail.invalid/" + url.PathEscape(m.ID)
	http := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: mail.invalid\r\n\r\n", name)
	encapsulated := fmt.Sprintf("req-hdr=0, res-hdr=%d, ", len(http))
	content := fmt.Sprintf("Content-Type: message/rfc822\r\nContent-Length: %d\r\n\r\n", m.Size)
	if p.settings.Method == "reqmod" {
		http = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: mail.invalid\r\n%s", name, content)
		encapsulated = fmt.Sprintf("req-hdr=0, req-body=%d", len(http))
	} else {
		http += "HTTP/1.1 200 OK\r\n" + content
		encapsulated += fmt.Sprintf("res-body=%d", len(http))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s ICAP/1.0\r\nHost: %s\r\nUser-Agent: Sluice\r\nAllow: 204\r\n",
		strings.ToUpper(p.settings.Method), p.settings.URL, p.pool.Address().Place)
	if p.settings.ClientIP && m.ClientAddr != "" {
		fmt.Fprintf(&b, "X-Client-IP: %s\r\n", plain.Value(m.ClientAddr))
	}
	if m.Login != "" { // a URI in base64 (draft-stecher-icap-subid-00 section 3.4); c-icap and others decode it
		fmt.Fprintf(&b, "X-Authenticated-User: %s\r\n", base64.StdEncoding.EncodeToString([]byte("Local://"+m.Login)))
	}
	fmt.Fprintf(&b, "Encapsulated: %s\r\n\r\n%s", encapsulated, http)
	return b.String()
}

// answer is what a server said.
type answer struct {
	status int
	line   string // status line, for people
	fields textproto.MIMEHeader
	http   int    // status of the HTTP response inside, or 0
	digest []byte // SHA-256 of the body inside; nil if there is none

	surplus bool // more came than the answer, or the server closes
}

// readAnswer reads an answer to its end. limit bounds the body.
func readAnswer(r io.Reader, limit int64) (*answer, error) {
	heads := &io.LimitedReader{R: r, N: maxHeads}
	b := bufio.NewReaderSize(heads, 16<<10)
	a, err := readHead(b)
	if err != nil {
		return nil, fmt.Errorf("read the ICAP server's answer: %w", err)
	}
	defer func() {
		a.surplus = a.surplus || b.Buffered() > 0 || strings.EqualFold(a.fields.Get("Connection"), "close")
	}()
	if a.status != 200 {
		a.surplus = a.fields.Get("Encapsulated") != "" && !strings.Contains(a.fields.Get("Encapsulated"), "null-body")
		return a, nil
	}
	parts, err := encapsulated(a.fields.Get("Encapsulated"))
	if err != nil {
		return nil, fmt.Errorf("read the ICAP server's answer: %w", err)
	}
	text := textproto.NewReader(b)
	for _, part := range parts {
		switch part {
		case "req-hdr", "res-hdr":
			line, err := text.ReadLine()
			if err == nil {
				_, err = text.ReadMIMEHeader()
			}
			if err != nil {
				return nil, fmt.Errorf("read the ICAP server's answer: the HTTP header inside: %w", err)
			}
			if part == "res-hdr" {
				a.http = statusOf(line, "HTTP/")
			}
		case "req-body", "res-body":
			heads.N = limit + maxHeads
			digest := sha256.New()
			if _, err := io.Copy(digest, httputil.NewChunkedReader(b)); err != nil {
				return nil, fmt.Errorf("read the ICAP server's answer: the body inside: %w", err)
			}
			if line, err := text.ReadLine(); err != nil || line != "" {
				return nil, fmt.Errorf("read the ICAP server's answer: after the body inside: %q %w", line, err)
			}
			a.digest = digest.Sum(nil)
		}
	}
	return a, nil
}

func readHead(b *bufio.Reader) (*answer, error) {
	text := textproto.NewReader(b)
	line, err := text.ReadLine()
	if err != nil {
		return nil, err
	}
	a := &answer{line: plain.Line(line, 200), status: statusOf(line, "ICAP/1.")}
	if a.status == 0 {
		return nil, fmt.Errorf("%q is no status line of ICAP", a.line)
	}
	a.fields, err = text.ReadMIMEHeader()
	return a, err
}

// statusOf reads the code of a status line, or returns 0.
func statusOf(line, protocol string) int {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	if !strings.HasPrefix(version, protocol) || err != nil || n < 100 || n > 999 {
		return 0
	}
	return n
}

// encapsulated returns the names of the parts in the order in which they come (RFC 3507
// section 4.4.1).
func encapsulated(value string) ([]string, error) {
	var names []string
	for item := range strings.SplitSeq(value, ",") {
		name, _, ok := strings.Cut(strings.TrimSpace(item), "=")
		switch name = strings.ToLower(name); name {
		case "req-hdr", "res-hdr", "req-body", "res-body", "null-body":
		default:
			ok = false
		}
		if !ok || len(names) == 4 {
			return nil, fmt.Errorf("the field Encapsulated is %q", plain.Line(value, 100))
		}
		names = append(names, name)
	}
	return names, nil
}

// means says what an answer means. sent is the digest of what was sent, nil if not all of it was.
func (a *answer) means(sent hash.Hash) (finding, error) {
	if a.status != 200 && a.status != 204 {
		return finding{}, fmt.Errorf("the ICAP server says: %s", a.line)
	}
	if names := a.names(); len(names) > 0 { // with 204 too: what was found outweighs that nothing was changed
		return finding{names: names}, nil
	}
	if a.status == 204 {
		return finding{}, nil
	}
	if a.http >= 300 { // a page that says why, or leads to one
		return finding{changed: fmt.Sprintf("the server blocks it with HTTP status %d", a.http)}, nil
	}
	switch {
	case a.digest == nil:
		return finding{}, errors.New("the ICAP server says 200 without a body and without a cause")
	case sent == nil:
		return finding{}, errors.New("the ICAP server answered before it had the whole message")
	case string(a.digest) != string(sent.Sum(nil)):
		return finding{changed: "the server wants to change it"}, nil
	}
	return finding{}, nil
}

// maxNames is how many names of an answer are kept.
const maxNames = 20

// names returns what the fields say was found: "Type=0; Resolution=2; Threat=Eicar;" in
// X-Infection-Found, a name in X-Virus-ID, a number and groups of four lines in X-Violations-Found
// (draft-stecher-icap-subid sections 3.3 and 3.5, which every vendor follows more or less).
func (a *answer) names() []string {
	var names []string
	add := func(name string) {
		if name = plain.Line(strings.Trim(name, " \t\""), 200); name != "" && len(names) < maxNames {
			names = append(names, name)
		}
	}
	for _, value := range a.fields.Values("X-Infection-Found") {
		found := false
		for item := range strings.SplitSeq(value, ";") {
			if key, threat, ok := strings.Cut(item, "="); ok && strings.EqualFold(strings.TrimSpace(key), "Threat") {
				add(threat)
				found = found || len(names) > 0
			}
		}
		if !found {
			add(value)
		}
		if len(names) == 0 { // it was found, whatever it is called
			add("unnamed")
		}
	}
	if len(names) == 0 {
		for _, value := range a.fields.Values("X-Virus-Id") {
			if value != "no threats" {
				add(value)
			}
		}
	}
	if violations := strings.Fields(a.fields.Get("X-Violations-Found")); len(names) == 0 && len(violations) > 0 && violations[0] != "0" {
		add("violations: " + strings.Join(violations, " "))
	}
	return names
}

// options asks what the service can do (RFC 3507 section 4.10).
func (p *plugin) options(ctx context.Context) (status string, fields textproto.MIMEHeader, err error) {
	err = p.pool.Do(ctx, func() bool { return true }, func(c *dial.Conn) error {
		if _, err := fmt.Fprintf(c, "OPTIONS %s ICAP/1.0\r\nHost: %s\r\nEncapsulated: null-body=0\r\n\r\n", p.settings.URL, p.pool.Address().Place); err != nil {
			return fmt.Errorf("send to the ICAP server: %w", err)
		}
		a, err := readHead(bufio.NewReader(io.LimitReader(c, maxHeads)))
		if err != nil {
			return fmt.Errorf("read the ICAP server's answer: %w", err)
		}
		status, fields = a.line, a.fields
		return c.Close() // a body may follow (opt-body, RFC 3507 section 4.10.2), and would be taken for the next answer
	})
	return status, fields, err
}
