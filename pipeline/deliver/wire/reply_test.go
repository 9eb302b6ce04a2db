package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// playback is a connection whose peer has said everything already.
type playback struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (p *playback) Read(b []byte) (int, error)       { return p.in.Read(b) }
func (p *playback) Write(b []byte) (int, error)      { return p.out.Write(b) }
func (p *playback) SetDeadline(time.Time) error      { return nil }
func (p *playback) SetReadDeadline(time.Time) error  { return nil }
func (p *playback) SetWriteDeadline(time.Time) error { return nil }
func (p *playback) Close() error                     { return nil }

func replying(text string) *Conn {
	return New(&playback{in: strings.NewReader(text)}, Options{Hostname: "client.example.org"})
}

// TestReply: DRILLS E5.6.
func TestReply(t *testing.T) {
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		in, want string
		status   string
		bad      error
	}{
		{in: "250 ok\r\n", want: "250 ok"},
		{in: "250\r\n", want: "250"},
		{in: "250 \r\n", want: "250"},
		{in: "250 2.1.0\r\n", want: "250 2.1.0", status: "2.1.0"},
		{in: "250 2.1.0 ok\n", want: "250 2.1.0 ok", status: "2.1.0"},
		{in: "250-2.1.0 one\r\n250-2.1.0 two\r\n250 2.1.0 three\r\n", want: "250 2.1.0 one two three", status: "2.1.0"},
		{in: "550-one\r\n550 5.7.1 two\r\n", want: "550 5.7.1 one two", status: "5.7.1"},
		{in: "550 4.7.1 another class\r\n", want: "550 4.7.1 another class"},
		{in: "550 5.7.1234 too long\r\n", want: "550 5.7.1234 too long"},
		{in: "550 5.7.x no\r\n", want: "550 5.7.x no"},
		{in: "550 5.7\r\n", want: "550 5.7"},
		{in: "550 5.7.\r\n", want: "550 5.7."},
		{in: "550 5.1.1no\r\n", want: "550 5.1.1no"},
		{in: "550 a\tb\x00\x01c\x7f\xff\r\n", want: "550 a b?c?"},
		{in: "550 a\rb\r\n", want: "550 a?b"},
		{in: "550 " + long + "\r\n", want: "550 " + long[:500]},
		{in: "550 " + strings.Repeat("x", maxReplyLine) + "\r\n", bad: errTooLong},
		{in: strings.Repeat("250-x\r\n", maxReplyLines+1), bad: errTooMuch},
		{in: strings.Repeat("250-"+strings.Repeat("y", 8000)+"\r\n", 10), bad: errTooMuch},
		{in: strings.Repeat("250-x\r\n", maxReplyLines-1) + "250 y\r\n", want: "250" + strings.Repeat(" x", maxReplyLines-1) + " y"},
		{in: "250-a\r\n251 b\r\n", bad: errCodes},
		{in: "25\r\n", bad: errSyntax},
		{in: "2x0 ok\r\n", bad: errSyntax},
		{in: "150 no\r\n", bad: errSyntax},
		{in: "650 no\r\n", bad: errSyntax},
		{in: "250+ok\r\n", bad: errSyntax},
		{in: "\r\n", bad: errSyntax},
		{in: " 250 ok\r\n", bad: errSyntax},
		{in: "250-ok\r\n", bad: io.ErrUnexpectedEOF},
		{in: "250 ok", bad: io.ErrUnexpectedEOF},
		{in: "", bad: io.ErrUnexpectedEOF},
	} {
		conn := replying(c.in)
		r, err := conn.readReply(time.Minute, nil)
		if c.bad != nil {
			if !errors.Is(err, c.bad) || conn.Usable() {
				t.Errorf("%.40q: error %v, expected %v; usable: %v", c.in, err, c.bad, conn.Usable())
			}
			continue
		}
		if err != nil || r.String() != c.want || r.Status != c.status {
			t.Errorf("%.40q: %q, status %q, error %v; expected %q, %q", c.in, r, r.Status, err, c.want, c.status)
		}
	}
}

func Test421EndsTheConnection(t *testing.T) {
	conn := replying("421 4.3.2 bye\r\n250 ok\r\n")
	if r, err := conn.readReply(time.Minute, nil); err != nil || r.Code != 421 || conn.Usable() {
		t.Errorf("%v, %v, usable %v", r, err, conn.Usable())
	}
}

func TestExtensions(t *testing.T) {
	conn := replying("250-mx.example.test PIPELINING\r\n250-pipelining\r\n250-8BitMime\r\n250-SIZE 1000\r\n250-AUTH PLAIN login PLAIN\r\n250-AUTH=SCRAM-SHA-256\r\n" +
		"250-limits rcptmax=7 MAILMAX=0 X=1 RCPTDOMAINMAX\r\n250-DSN\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-STARTTLS\r\n250-REQUIRETLS\r\n250-ENHANCEDSTATUSCODES\r\n250-\r\n250 X-UNKNOWN y\r\n")
	if _, err := conn.Hello(); err != nil {
		t.Fatal(err)
	}
	x := conn.Extensions
	if strings.Join(x.Auth, " ") != "PLAIN LOGIN SCRAM-SHA-256" || x.Size != 1000 || !x.SizeOffered || x.RcptMax != 7 || x.MailMax != 0 ||
		!x.Pipelining || !x.EightBit || !x.DSN || !x.Chunking || !x.UTF8 || !x.StartTLS || !x.RequireTLS || !x.Enhanced || !x.ESMTP {
		t.Errorf("%+v", x)
	}
	// The first line is the server's name, whatever else stands in it.
	conn = replying("250 PIPELINING\r\n")
	if _, err := conn.Hello(); err != nil || conn.Extensions.Pipelining {
		t.Errorf("%+v, %v", conn.Extensions, err)
	}
	for _, size := range []string{"SIZE", "SIZE 0", "SIZE x", "SIZE -1", "SIZE 99999999999999999999"} {
		var x Extensions
		if x.parse([]byte(size)); x.Size != 0 || !x.SizeOffered {
			t.Errorf("%s: %+v", size, x)
		}
	}
}

// FuzzReply: whatever a server says, what is handed on is bounded, printable and one line.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		conn := replying(text)
		for range 10 {
			r, err := conn.readReply(time.Minute, nil)
			if err != nil {
				if conn.Usable() || len(err.Error()) > 1000 || !printable(err.Error()) {
					t.Fatalf("usable %v, error %q", conn.Usable(), err)
				}
				return
			}
			if r.Code < 200 || r.Code > 599 || len(r.Text) > maxReplyText || !printable(r.String()) || strings.ContainsAny(r.Status, " \r\n") {
				t.Fatalf("%+v", r)
			}
			if r.Status != "" && int(r.Status[0]-'0') != r.Code/100 {
				t.Fatalf("the status has another class: %+v", r)
			}
		}
	})
}

// FuzzHello: whatever a server offers, it is bounded.
func FuzzHello(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		conn := replying(text)
		if _, err := conn.Greet(); err != nil {
			return
		}
		if !printable(conn.Name) || len(conn.Name) > 255 {
			t.Fatalf("its name is %q", conn.Name)
		}
		r, err := conn.Hello()
		x := conn.Extensions
		if err != nil || !r.OK() {
			return
		}
		if x.Size < 0 || x.RcptMax < 0 || x.MailMax < 0 || len(x.Auth) > maxMechanisms {
			t.Fatalf("%+v", x)
		}
		for _, m := range x.Auth {
			if m != strings.ToUpper(m) || len(m) > 60 {
				t.Fatalf("%q", m)
			}
		}
	})
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
