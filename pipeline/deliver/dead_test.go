package deliver

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestDeadNoMore: an address that was left for the end of the attempt is tried there, also if its minute is over by then; and one that
// was tried is not tried again.
func TestDeadNoMore(t *testing.T) {
	var first, second net.Listener
	for range 20 {
		l, err := net.Listen("tcp", "127.0.7.21:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if second, err = net.Listen("tcp", fmt.Sprintf("127.0.7.22:%d", l.Addr().(*net.TCPAddr).Port)); err == nil {
			defer second.Close()
			first = l
			break
		}
	}
	if first == nil {
		t.Fatal("no port is free at both addresses")
	}
	port := first.Addr().(*net.TCPAddr).AddrPort().Port()
	var later atomic.Int64
	visits := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := second.Accept()
			if err != nil {
				return
			}
			visits <- struct{}{}
			later.Store(int64(2 * deadTime))
			conn.Close()
		}
	}()
	go func() {
		if conn, err := first.Accept(); err == nil {
			defer conn.Close()
			converse(conn)
		}
	}()
	zone := resolvertest.MustParse("dead.test. MX 10 one.dead.test.\ndead.test. MX 20 two.dead.test.\none.dead.test. A 127.0.7.21\ntwo.dead.test. A 127.0.7.22\n")
	r := asking(t, zone, func(o *Options, c *Config) {
		c.Port = int(port)
		o.Now = func() time.Time { return time.Unix(1_800_000_000, later.Load()) }
	})
	r.dead.add(netip.AddrPortFrom(netip.MustParseAddr("127.0.7.21"), port), r.Now())
	sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, parcelTo("dead.test"))
	done()
	if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
		t.Errorf("%+v, %v", sent, err)
	}
	if n := len(visits); n != 1 {
		t.Errorf("%d visits to the other one", n)
	}
}
