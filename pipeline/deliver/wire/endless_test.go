package wire

import (
	"errors"
	"io"
	"runtime"
	"testing"
	"time"
)

// endless says the first words, and then the others for ever.
type endless struct {
	first, again string
	left         string
	said         int64
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if e.left == "" {
			e.left = e.again
			if e.said == 0 && e.first != "" {
				e.left = e.first
			}
		}
		m := copy(p[n:], e.left)
		e.left = e.left[m:]
		n += m
		e.said += int64(m)
	}
	return n, nil
}

// TestEndless (DRILLS E5.6): of a server that never stops talking no more is read than a reply may have, and less is kept.
func TestEndless(t *testing.T) {
	greet := func(c *Conn) error { _, err := c.Greet(); return err }
	hello := func(c *Conn) error {
		if _, err := c.Greet(); err != nil {
			return err
		}
		_, err := c.Hello()
		return err
	}
	reply := func(c *Conn) error { _, err := c.readReply(time.Minute, nil); return err }
	for _, test := range []struct {
		name, first, again string
		ask                func(*Conn) error
		bad                error
	}{
		{"a greeting without end", "", "220-welcome\r\n", greet, errTooMuch},
		{"a greeting of one line without end", "220 ", "x", greet, errTooLong},
		{"a greeting of nothing", "", "\x00", greet, errTooLong},
		{"extensions without end", "220 hi\r\n250-mx\r\n", "250-XYZZY 1 2 3\r\n", hello, errTooMuch},
		{"one extension without end", "220 hi\r\n250-mx\r\n250-AUTH", " PLAIN", hello, errTooLong},
		{"a reply of one line without end", "250 ", "ok ", reply, errTooLong},
		{"a reply of many lines without end", "", "250-ok\r\n", reply, errTooMuch},
		{"a reply of long lines without end", "", "250-" + string(make([]byte, maxReplyLine-10)) + "\r\n", reply, errTooMuch},
		{"empty lines", "", "\r\n", reply, errSyntax},
		{"line feeds", "", "\n", reply, errSyntax},
		{"carriage returns", "250 ok", "\r", reply, errTooLong},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := &endless{first: test.first, again: test.again}
			conn := New(&playback{in: in}, Options{Hostname: "client.example.org"})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := test.ask(conn)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, test.bad) || conn.Usable() {
				t.Errorf("%v, want %v; usable %v", err, test.bad, conn.Usable())
			}
			if in.said > 256<<10 {
				t.Errorf("%d octets were read", in.said)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
				t.Errorf("%d octets were allocated", grown)
			}
		})
	}
}

var _ io.Reader = (*endless)(nil)
