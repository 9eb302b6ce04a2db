package interop

import (
	"net"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// lure is a port where nobody should ever knock.
type lure struct {
	addr  string
	calls atomic.Int64
}

func startLure(t testing.TB, addr string) *lure {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	e := &lure{addr: addr}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.calls.Add(1)
			conn.Close()
		}
	}()
	return e
}

// TestForbiddenAddresses: whoever owns a domain chooses what its MX records say. None of
// them leads us to what only we can reach: no connection is made, neither for mail nor for
// a policy of MTA-STS, and the sender is told (DRILLS E5.3). A public address is fine.
func TestForbiddenAddresses(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	ip := peer(t, "ip", "iproute2")
	const public = "198.51.100.7"
	for _, addr := range []string{"10.1.2.3/32", "169.254.169.254/32", "192.168.7.7/32", "fd00::7/128", public + "/32"} {
		args := []string{"addr", "add", addr, "dev", "lo"}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		if out, err := exec.Command(ip, args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	addresses := map[string]string{ // a label below forbidden.test to an address
		"ten": "10.1.2.3", "cloud": "169.254.169.254", "home": "192.168.7.7", "loopback": "127.0.0.9", "zero": "0.0.0.0",
		"six": "::1", "ula": "fd00::7", "mapped": "::ffff:10.1.2.3", "nat64": "64:ff9b::a01:203", "local": "127.0.0.1",
	}
	var zone strings.Builder
	for label, addr := range addresses {
		kind := "A"
		if strings.Contains(addr, ":") {
			kind = "AAAA"
		}
		zone.WriteString(label + ".forbidden.test. IN MX 10 mx." + label + ".forbidden.test.\nmx." + label + ".forbidden.test. IN " + kind + " " + addr + "\n")
		zone.WriteString("_mta-sts." + label + ".forbidden.test. IN TXT \"v=STSv1; id=1\"\nmta-sts." + label + ".forbidden.test. IN " + kind + " " + addr + "\n")
	}
	// The last is allowed, and its policy is not: both are looked up on the way to one message.
	w := newWorld(t, "", zone.String()+`
public.test.          IN MX 10 mx.public.test.
mx.public.test.       IN A `+public+`
_mta-sts.public.test. IN TXT "v=STSv1; id=1"
mta-sts.public.test.  IN A 169.254.169.254
mixed.test.           IN MX 10 mx.mixed.test.
mx.mixed.test.        IN A 10.1.2.3
mx.mixed.test.        IN A `+public+`
`)
	for range 2 {
		w.inConfig(`allow_private = ["127.0.0.0/8"]`, `allow_private = []`)
	}
	var lures []*lure
	for _, addr := range []string{"10.1.2.3", "169.254.169.254", "192.168.7.7", "127.0.0.9", "[::1]", "[fd00::7]"} {
		lures = append(lures, startLure(t, addr+":25"), startLure(t, addr+":443"))
	}
	s := startScripted(t, public+":25", nil)
	w.start()
	defer w.stop()

	for label, addr := range addresses {
		id := label + ".forbidden@example.test"
		to := "a@" + label + ".forbidden.test"
		w.post([]string{to}, id, "into the house", 1000)
		dsn := w.awaitInbox(alice, id, "Action: failed", "Final-Recipient: rfc822; "+to)
		if !strings.Contains(dsn, "Status: 5.4.") {
			t.Errorf("%s: the DSN is\n%s", addr, dsn)
		}
	}
	for _, to := range []string{"public.test", "mixed.test"} {
		w.post([]string{"a@" + to}, to+"@example.test", "out of the house", 1000)
		s.await(to + "@example.test")
	}
	for _, l := range lures {
		if n := l.calls.Load(); n > 0 {
			t.Errorf("%d connections to %s", n, l.addr)
		}
	}
	// The lures do hear: without this the test would say nothing.
	for _, l := range lures {
		conn, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Errorf("%s: %v", l.addr, err)
			continue
		}
		conn.Close()
	}
}
