package deliver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// eachConn listens until the test ends, and has every connection served by itself.
func eachConn(t *testing.T, network, address string, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l
}

// TestReplyTooMany: a server that says one thing more than it was asked for is not used again: each of its replies would be taken for
// another, and the one to RCPT for that to the content, which it has refused.
func TestReplyTooMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lmtp")
	eachConn(t, "unix", path, refuseContent)
	r := asking(t, resolvertest.MustParse(zoneText), nil)
	p := parcelTo("many.test")
	p.Via = "lmtp://" + path
	if sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p); err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
		t.Fatalf("%+v, %v", sent, err)
	} else {
		done()
	}
	time.Sleep(50 * time.Millisecond)
	const open = "From: a@example.org\r\n\r\nno end"
	p.Open = func(context.Context) (pipeline.Octets, error) { return octets{strings.NewReader(open)}, nil }
	sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	done()
	if err != nil || sent.Outcomes[0].Kind != pipeline.Failed {
		t.Errorf("%+v, %v", sent, err)
	}
}

// refuseContent takes what comes by DATA, says something else a moment later, and refuses what comes by BDAT.
func refuseContent(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 here\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		var n int
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "LHLO":
			fmt.Fprint(conn, "250-here\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
		case "DATA":
			fmt.Fprint(conn, "354 go\r\n")
			for line != ".\r\n" {
				if line, err = in.ReadString('\n'); err != nil {
					return
				}
			}
			fmt.Fprint(conn, "250 2.0.0 ok\r\n")
			time.Sleep(20 * time.Millisecond)
			fmt.Fprint(conn, "250 2.0.0 ok, really\r\n")
		case "BDAT":
			fmt.Sscanf(line, "BDAT %d LAST", &n)
			io.CopyN(io.Discard, in, int64(n))
			fmt.Fprint(conn, "552 5.2.2 no room\r\n")
		default:
			fmt.Fprint(conn, "250 ok\r\n")
		}
	}
}
