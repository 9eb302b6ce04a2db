package interop

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// newListServer starts unbound with the zone of a DNS list, which has the entry that every list has for tests.
func newListServer(t testing.TB) (d *scanner, address string) {
	t.Helper()
	unbound := peer(t, "unbound", "unbound")
	d = &scanner{t: t, dir: scannerDir(t)}
	port := scannerPort(t)
	address = "127.0.0.1:" + port
	d.write("unbound.conf", fmt.Sprintf(`server:
  interface: 127.0.0.1@%s
  access-control: 127.0.0.0/8 allow
  do-ip6: no
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: %q
  num-threads: 1
  module-config: "iterator"
  local-zone: "bl.test." static
  local-data: "2.0.0.127.bl.test. 60 IN A 127.0.0.2"
  local-data: "listed.test.bl.test. 60 IN A 127.0.0.2"
remote-control:
  control-enable: no
`, port, d.dir))
	d.args = []string{unbound, "-d", "-c", filepath.Join(d.dir, "unbound.conf")}
	d.answer = func() error {
		r, _, err := (&dns.Client{Timeout: time.Second}).Exchange(new(dns.Msg).SetQuestion("2.0.0.127.bl.test.", dns.TypeA), address)
		if err == nil && len(r.Answer) != 1 {
			err = fmt.Errorf("answered %v", r)
		}
		return err
	}
	d.start()
	return d, address
}

// door stands before a DNS server. It can close after a number of answers, as a server that ends in the middle does: nobody listens at its
// address from then on.
type door struct {
	t       testing.TB
	address string
	behind  string

	mu   sync.Mutex
	conn net.PacketConn
	left int // answers until it closes; negative: it does not
}

func newDoor(t testing.TB, behind string) *door {
	d := &door{t: t, behind: behind, address: "127.0.0.1:0", left: -1}
	d.open()
	t.Cleanup(d.shut)
	return d
}

func (d *door) open() {
	d.t.Helper()
	conn, err := net.ListenPacket("udp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.address, d.left = conn, conn.LocalAddr().String(), -1
	go d.serve(conn)
}

func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn.Close()
}

// shutAfter lets so many answers through.
func (d *door) shutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

func (d *door) serve(conn net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		question := append([]byte(nil), b[:n]...)
		go d.ask(conn, from, question)
	}
}

// ask carries one question to the server and its answer back.
func (d *door) ask(conn net.PacketConn, from net.Addr, question []byte) {
	c, err := net.Dial("udp", d.behind)
	if err != nil {
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 4096)
	if _, err = c.Write(question); err != nil {
		return
	}
	n, err := c.Read(answer)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 {
		return
	}
	conn.WriteTo(answer[:n], from)
	if d.left--; d.left == 0 {
		conn.Close()
	}
}
