package spamassassin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/plain"
)

const (
	connectLimit = 5 * time.Second
	maxLine      = 4 << 10
	maxFields    = 50
	maxReport    = 256 << 10
)

// request is one question to spamd.
type request struct {
	verb     string
	fields   string    // each ended by CRLF
	size     int64     // octets of content
	content  io.Reader // nil: none
	wantBody bool      // the answer has one
}

// reply is what spamd answered with code 0.
type reply struct {
	text   string // after the code: "EX_OK", "PONG"
	spam   string // the field Spam, or ""
	didSet string // the field DidSet, or ""
	body   []byte
}

// ask sends a request on a connection of its own and reads the answer. It does not wait for the
// end of the connection: spamd tidies up its statistics before it closes.
func (p *plugin) ask(ctx context.Context, q request) (*reply, error) {
	c, err := p.pool.Get(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	sendErr := q.send(c)
	if sendErr != nil { // a moment for spamd to say why it hung up
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	}
	r, err := readReply(bufio.NewReaderSize(c, maxLine), q.wantBody)
	switch {
	case err == nil && sendErr == nil:
		return r, nil
	case sendErr != nil && (err == nil || !errors.Is(err, errRefused)):
		err = sendErr
	}
	return nil, fmt.Errorf("ask spamd at %s: %w", p.pool.Address(), err)
}

func (q *request) send(c io.Writer) error {
	w := bufio.NewWriterSize(c, 32<<10)
	fmt.Fprintf(w, "%s SPAMC/1.5\r\n%s", q.verb, q.fields)
	if q.content != nil {
		fmt.Fprintf(w, "Content-length: %d\r\n", q.size)
	}
	_, _ = w.WriteString("\r\n")
	if q.content != nil {
		n, err := io.Copy(w, io.LimitReader(q.content, q.size))
		if err == nil && n < q.size {
			err = fmt.Errorf("the message has %d octets, not %d: %w", n, q.size, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return fmt.Errorf("send the message: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("send the question: %w", err)
	}
	return nil
}

// errRefused: spamd answered, with a code other than 0.
var errRefused = errors.New("spamd refuses")

// statusLine is "SPAMD/1.1 0 EX_OK"; the codes are those of sysexits.h.
var statusLine = regexp.MustCompile(`^SPAMD/[0-9.]+ ([0-9]{1,5})(?: (.*))?$`)

// readReply reads an answer: a status line, fields, an empty line and, if the answer has one,
// a body of Content-length octets, or to the end.
func readReply(r *bufio.Reader, wantBody bool) (*reply, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	m := statusLine.FindStringSubmatch(line)
	if m == nil {
		return nil, fmt.Errorf("the answer begins with %q, which is not spamd's", plain.Line(line, 60))
	}
	if code, _ := strconv.Atoi(m[1]); code != 0 {
		return nil, fmt.Errorf("%w: %s", errRefused, plain.Line(m[1]+" "+m[2], maxText))
	}
	out := &reply{text: m[2]}
	if !wantBody && out.text == "PONG" {
		return out, nil // it has no more lines
	}
	length := int64(-1)
	for n := 0; ; n++ {
		if line, err = readLine(r); err != nil {
			return nil, fmt.Errorf("read the answer's fields: %w", err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || n == maxFields {
			return nil, fmt.Errorf("the answer has more than %d fields, or %q, which is none", maxFields, plain.Line(line, 60))
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "spam":
			out.spam = value
		case "didset":
			out.didSet = value
		case "content-length":
			if length, err = strconv.ParseInt(value, 10, 64); err != nil || length < 0 || length > maxReport {
				return nil, fmt.Errorf("the answer has a Content-length of %q, expected at most %d", plain.Line(value, 40), maxReport)
			}
		}
	}
	if wantBody {
		err = out.readBody(r, length)
	}
	return out, err
}

func (out *reply) readBody(r io.Reader, length int64) error {
	if length >= 0 {
		out.body = make([]byte, length)
		if n, err := io.ReadFull(r, out.body); err != nil {
			return fmt.Errorf("read the report: %d octets of %d: %w", n, length, err)
		}
		return nil
	}
	var err error
	if out.body, err = io.ReadAll(io.LimitReader(r, maxReport+1)); err != nil {
		return fmt.Errorf("read the report: %w", err)
	}
	if len(out.body) > maxReport {
		return fmt.Errorf("the report is larger than %d octets", maxReport)
	}
	return nil
}

// readLine reads a line of at most maxLine octets, without its end.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("a line is longer than %d octets", maxLine)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r"), nil
}

// userField returns the field User, or nothing.
func userField(name string) string {
	if name == "" {
		return ""
	}
	return "User: " + plain.Value(name) + "\r\n"
}
