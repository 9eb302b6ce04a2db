package pop3

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A dialogue is a file in testdata/dialogues. Its lines:
//
//	# comment
//	OPTION name        plaintext | implicit | no-tls | login-delay | few-commands | broken-content | broken-remove
//	MESSAGE            a message in the maildrop, up to a line "==="; a Go string in quotes instead of lines is exact
//	C: text            sent with CRLF; lines that follow each other leave in one write
//	C" ..."            a Go string, sent as it is
//	S: text            the next line from the server, exactly
//	S~ expression      the next line from the server, as a regular expression for all of it
//	TLS                the client's handshake
//	CLOSED             the server closes now
//	HANGUP             the client closes now, and waits for the server to notice
//	@ 2                the lines that follow are spoken on connection 2 (made at its first use)
//
// A dialogue begins on connection 1. The accounts are in fixture_test.go.
type dialogue struct {
	options  map[string]bool
	messages []string
	steps    []step
}

type step struct {
	line       int
	kind, text string
}

func readDialogue(path string) (*dialogue, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &dialogue{options: make(map[string]bool)}
	lines := strings.Split(string(raw), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "OPTION "):
			d.options[line[7:]] = true
		case strings.HasPrefix(line, `MESSAGE "`):
			text, err := strconv.Unquote(line[8:])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			d.messages = append(d.messages, text)
		case line == "MESSAGE":
			var text strings.Builder
			for i++; i < len(lines) && lines[i] != "==="; i++ {
				text.WriteString(lines[i] + "\r\n")
			}
			d.messages = append(d.messages, text.String())
		case strings.HasPrefix(line, `C"`):
			text, err := strconv.Unquote(line[1:])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			d.steps = append(d.steps, step{i + 1, "C", text})
		case strings.HasPrefix(line, "C: "):
			d.steps = append(d.steps, step{i + 1, "C", line[3:] + "\r\n"})
		case strings.HasPrefix(line, "S: "), strings.HasPrefix(line, "S~ "):
			d.steps = append(d.steps, step{i + 1, line[:2], line[3:]})
		case line == "S:":
			d.steps = append(d.steps, step{i + 1, "S:", ""})
		case line == "TLS", line == "CLOSED", line == "HANGUP":
			d.steps = append(d.steps, step{i + 1, line, ""})
		case strings.HasPrefix(line, "@ "):
			d.steps = append(d.steps, step{i + 1, "@", line[2:]})
		default:
			return nil, fmt.Errorf("line %d: cannot read %q", i+1, line)
		}
	}
	return d, nil
}

// peer is one client of a dialogue.
type peer struct {
	conn net.Conn
	r    *bufio.Reader
	out  strings.Builder // C lines not sent yet
}

func (p *peer) use(c net.Conn) { p.conn, p.r = c, bufio.NewReader(c) }

func TestDialogues(t *testing.T) {
	paths, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			d, err := readDialogue(path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			f := newFixture(t, d.options, newMemBackend(d.messages))
			play(t, path, d, f)
		})
	}
}

func play(t *testing.T, path string, d *dialogue, f *fixture) {
	peers := make(map[string]*peer)
	var p *peer
	connect := func(name string) {
		if p = peers[name]; p != nil {
			return
		}
		p = &peer{}
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		p.use(c)
		peers[name] = p
	}
	connect("1")
	for _, s := range d.steps {
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("%s:%d: %s", path, s.line, fmt.Sprintf(format, args...))
		}
		if s.kind != "C" && p.out.Len() > 0 {
			if _, err := io.WriteString(p.conn, p.out.String()); err != nil {
				fail("send: %v", err)
			}
			p.out.Reset()
		}
		switch s.kind {
		case "C":
			p.out.WriteString(s.text)
		case "@":
			connect(s.text)
		case "TLS":
			c := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true, ServerName: "pop.example.test"})
			if err := c.Handshake(); err != nil {
				fail("handshake: %v", err)
			}
			p.use(c)
		case "HANGUP":
			p.conn.Close()
			f.waitIdle(t, len(peers)-1)
		case "CLOSED":
			rest, err := io.ReadAll(p.r)
			if len(rest) > 0 {
				fail("expected the connection to close, got %q", rest)
			}
			if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
				fail("expected the connection to close: %v", err)
			}
		case "S:", "S~":
			got, err := p.r.ReadString('\n')
			if err != nil {
				fail("expected %q, got %q and %v", s.text, got, err)
			}
			line, ok := strings.CutSuffix(got, "\r\n")
			if !ok {
				fail("line %q does not end with CRLF", got)
			}
			if s.kind == "S:" && line != s.text {
				fail("expected %q, got %q", s.text, line)
			}
			if s.kind == "S~" && !regexp.MustCompile(`\A(?:`+s.text+`)\z`).MatchString(line) {
				fail("expected %q, got %q", s.text, line)
			}
		}
	}
}
