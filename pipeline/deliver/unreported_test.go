package deliver

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestReportsAreNotReported (DRILLS E2.6): a session in which a report of ours leaves, which like all that we write has the null
// sender, is in no report; or two servers would write to each other every day (RFC 8460 section 3).
func TestReportsAreNotReported(t *testing.T) {
	l := eachConn(t, "tcp", "127.0.7.21:0", takeAll)
	zone := resolvertest.MustParse("example.test. MX 10 mx.example.test.\nmx.example.test. A 127.0.7.21\n")
	for sender, want := range map[string]int{"": 0, "sender@example.org": 1} {
		reports := tlsrpt.New(tlsrpt.Options{Cache: &policytest.Cache{Now: time.Now}})
		r := asking(t, zone, func(o *Options, c *Config) {
			c.Port = l.Addr().(*net.TCPAddr).Port
			o.Policies = tlspolicy.New(tlspolicy.Options{DNS: resolvertest.New(zone), Reports: reports})
		})
		p := parcelTo("example.test")
		p.Sender = sender
		sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
		done()
		if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
			t.Fatalf("from <%s>: %+v, %v", sender, sent, err)
		}
		all, err := reports.Take(t.Context(), time.Now())
		if err != nil || len(all) != want {
			t.Errorf("from <%s>: %d summaries, want %d: %+v, %v", sender, len(all), want, all, err)
		}
		reports.Close()
	}
}

// takeAll is a server that takes everything, without TLS.
func takeAll(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 here\r\n")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if fmt.Fprint(conn, map[bool]string{true: "354 go\r\n", false: "250 ok\r\n"}[strings.HasPrefix(line, "DATA")]); !strings.HasPrefix(line, "DATA") {
			continue
		}
		for line != ".\r\n" {
			if line, err = in.ReadString('\n'); err != nil {
				return
			}
		}
		fmt.Fprint(conn, "250 ok\r\n")
	}
}
