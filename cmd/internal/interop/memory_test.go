package interop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const memoryLimit = 400 << 20 // octets, of the server and its plugins

// TestMemory: 5,000 SMTP sessions after EHLO and 5,000 IMAP sessions in IDLE, and
// then 64 senders of 64 KiB and one of 50 MB, all at once. Resident memory of the
// server and its plugins stays below 400 MB (invariant I5).
func TestMemory(t *testing.T) {
	if raceEnabled || testing.Short() {
		t.Skip("memory of the program as it is, and at full size")
	}
	const sessions, users = 5000, 50
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < 2*sessions+1000 {
		t.Skipf("needs %d open files, the limit is %d", 2*sessions+1000, files.Max)
	}
	s := newSite(t, `
[listener.plain]
protocol = "imap"
address = "127.0.0.1:0"
tls = "none"
allow_plaintext_login = true

[pipeline.inbound.anti-spam]
plugins = ["gtube"]

[pipeline.inbound.anti-virus]
plugins = ["eicar"]
`)
	s.start()
	for i := range users {
		s.addUser(fmt.Sprintf("user%d@%s", i, domain))
	}
	// The first login of an account computes a hash, and few do so at a time.
	login := func(i int) string { return fmt.Sprintf("a LOGIN user%d@%s \"%s\"", i%users, domain, password) }
	for i := range users {
		c := openSessions(t, 1, s.addr("plain"), func(c net.Conn, r *bufio.Reader, _ int) error {
			return converse(c, r, []exchange{{"", "* OK"}, {login(i), "a OK"}})
		})
		c[0].Close()
	}
	atRest, _ := s.resident()
	stop := make(chan struct{})
	var worst, worstShared atomic.Int64
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for {
			sum, shared := s.resident()
			worst.Store(max(worst.Load(), sum))
			worstShared.Store(max(worstShared.Load(), shared))
			select {
			case <-stop:
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	})

	conns := openSessions(t, sessions, s.addr("mx"), func(c net.Conn, r *bufio.Reader, _ int) error {
		return converse(c, r, []exchange{{"", "220 "}, {"EHLO mx.example.org", "250 "}})
	})
	withSMTP, _ := s.resident()
	conns = append(conns, openSessions(t, sessions, s.addr("plain"), func(c net.Conn, r *bufio.Reader, i int) error {
		return converse(c, r, []exchange{
			{"", "* OK"},
			{login(i), "a OK"},
			{"b SELECT INBOX", "b OK"},
			{"c IDLE", "+ "},
		})
	})...)
	withIMAP, _ := s.resident()

	var senders sync.WaitGroup
	send := func(n, size int) {
		c, err := dialSMTP(s.addr("mx"), 2*time.Minute)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.close()
		if _, err := c.send(stranger, []string{fmt.Sprintf("user%d@%s", n%users, domain)}, letter(fmt.Sprintf("memory.%d@example.org", n), "memory", size)); err != nil {
			t.Errorf("message of %d octets: %v", size, err)
		}
	}
	for n := range 64 {
		senders.Go(func() {
			for range 5 {
				send(n, 64<<10)
			}
		})
	}
	senders.Go(func() { send(64, 50_000_000) })
	senders.Wait()
	time.Sleep(2 * time.Second)
	withMail, _ := s.resident()
	close(stop)
	sampler.Wait()
	for _, p := range append(childrenOf(s.pid), process{pid: s.pid, command: "the server"}) {
		m := readMemory(p.pid)
		t.Logf("RSS %3d MB, PSS %3d, anonymous %3d: %s", m.resident>>20, m.proportional>>20, m.anonymous>>20, p.command)
	}

	const mb = 1 << 20
	t.Logf("resident: %d MB at rest, %d with %d SMTP sessions, %d with %d in IDLE beside them, %d after the mail, %d at most (%d if shared pages count for each process)",
		atRest/mb, withSMTP/mb, sessions, withIMAP/mb, sessions, withMail/mb, worst.Load()/mb, worstShared.Load()/mb)
	if most := worstShared.Load(); most > memoryLimit { // the strict reading: shared text counts for each process
		t.Errorf("%d MB were resident, the limit is %d MB", most/mb, memoryLimit/mb)
	}
	for i, c := range conns {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if i < sessions && i%100 == 0 {
			if err := converse(c, bufio.NewReader(c), []exchange{{"NOOP", "250 "}}); err != nil {
				t.Errorf("SMTP session %d: %v", i, err)
			}
		}
		c.Close()
	}
	eventually(t, 20*time.Second, "the sessions' end", func() bool { return s.usage().files < 500 })
	s.stop()
}

// resident is what the server and all below it hold, in octets. A page that
// several of them share (the program's own text, for one) is shared out between
// them: the kernel's "proportional set size". shared counts it for each.
func (s *site) resident() (sum, shared int64) {
	todo := []int{s.pid}
	for len(todo) > 0 {
		pid := todo[0]
		todo = todo[1:]
		m := readMemory(pid)
		sum += m.proportional
		shared += m.resident
		for _, c := range childrenOf(pid) {
			todo = append(todo, c.pid)
		}
	}
	return sum, shared
}

// memory is what /proc says of one process, in octets.
type memory struct{ resident, proportional, anonymous int64 }

func readMemory(pid int) memory {
	var m memory
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "Rss":
			m.resident = n << 10
		case "Pss":
			m.proportional = n << 10
		case "Anonymous":
			m.anonymous = n << 10
		}
	}
	return m
}

// openSessions opens n connections and brings each to where it should be.
func openSessions(t *testing.T, n int, addr string, begin func(c net.Conn, r *bufio.Reader, i int) error) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && failed.Load() == nil; i = next.Add(1) - 1 {
				c, err := net.DialTimeout("tcp", addr, 20*time.Second)
				if err == nil {
					conns[i] = c
					c.SetDeadline(time.Now().Add(time.Minute))
					err = begin(c, bufio.NewReaderSize(c, 1024), int(i))
				}
				if err != nil {
					err = fmt.Errorf("session %d at %s: %w", i, addr, err)
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	return conns
}

// exchange is a line to send ("": none) and how the last line of the answer
// begins.
type exchange struct{ send, want string }

func converse(c net.Conn, r *bufio.Reader, exchanges []exchange) error {
	for _, e := range exchanges {
		if e.send != "" {
			if _, err := fmt.Fprintf(c, "%s\r\n", e.send); err != nil {
				return err
			}
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return fmt.Errorf("after %q: %w", e.send, err)
			}
			if strings.HasPrefix(line, e.want) {
				break
			}
			if !strings.HasPrefix(line, "* ") && !strings.HasPrefix(line, "250-") {
				return fmt.Errorf("after %q: %q", e.send, line)
			}
		}
	}
	return nil
}
