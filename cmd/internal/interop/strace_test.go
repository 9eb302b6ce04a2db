package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tracedCalls are the system calls that the proof is about.
const tracedCalls = "trace=read,recvfrom,write,writev,sendto,sendmsg,fdatasync,fsync,sync_file_range,msync"

// TestDurableBefore250 is the black-box proof of RULES E1: under strace each 250
// after a message follows a sync of a file in data_dir that began after the
// final dot was read and ended before the reply was written. A connection at a
// time first, then several that share syncs.
func TestDurableBefore250(t *testing.T) {
	strace := needStrace(t)
	trace, acked := traceMail(t, strace, sluicePath(t))
	checked, faults := checkTrace(trace)
	for _, fault := range faults {
		t.Error(fault)
	}
	if checked != acked {
		t.Errorf("%d messages were acknowledged, %d were found in the trace", acked, checked)
	}
	t.Logf("%d acknowledged messages, each after a sync of its own or shared", checked)
}

// needStrace finds strace and makes sure that it may trace.
func needStrace(t *testing.T) string {
	t.Helper()
	strace := peer(t, "strace", "strace")
	if out, err := exec.Command(strace, "-f", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		if os.Getenv("INTEROP") == "require" {
			t.Fatalf("strace cannot trace here: %v\n%s", err, out)
		}
		t.Skipf("strace cannot trace here: %v\n%s", err, out)
	}
	return strace
}

// traceMail starts the program under strace, sends mail to it and returns the
// trace and the number of messages that were acknowledged.
func traceMail(t *testing.T, strace, program string) (trace string, acked int) {
	t.Helper()
	s := newSite(t, "")
	s.program = program
	path := filepath.Join(s.dir, "trace")
	s.wrap = []string{strace, "-f", "-y", "-s", "4096", "-o", path, "-e", tracedCalls}
	s.start()
	alone, together := 30, 20
	if err := sendTraced(s, 0, alone); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for worker := 1; worker <= 4; worker++ {
		wg.Go(func() {
			if err := sendTraced(s, worker, together); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	syscall.Kill(s.pid, syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(2 * stopLimit):
		t.Error("the server did not end under strace")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), alone + 4*together
}

func sendTraced(s *site, worker, n int) error {
	c, err := dialSMTP(s.addr("mx"), 2*time.Minute)
	if err != nil {
		return err
	}
	defer c.close()
	for i := range n {
		if _, err := c.send(stranger, []string{alice}, letter(fmt.Sprintf("traced.%d.%d@example.org", worker, i), "traced", 900)); err != nil {
			return err
		}
	}
	return nil
}

// call is one system call in a trace. begin and end are line numbers: strace
// writes a line when a call begins or ends, in the order in which it saw that.
type call struct {
	name       string
	fd         string // number and what it is, as -y prints it: 9</dir/store/000004.log>
	text       string // everything behind the file descriptor
	begin, end int
}

var (
	callLine   = regexp.MustCompile(`^(\d+) +([a-z_0-9]+)\((\d+<[^>]*>(?:\(deleted\))?)(.*)$`)
	resumeLine = regexp.MustCompile(`^(\d+) +<\.\.\. ([a-z_0-9]+) resumed>(.*)$`)
)

const unfinished = "<unfinished ...>"

// readTrace returns the calls of a trace in the order of their ends.
func readTrace(trace string) []call {
	var done []call
	open := make(map[string]call) // by thread
	n := 0
	for line := range strings.Lines(trace) {
		n++
		line = strings.TrimRight(line, "\n")
		if m := resumeLine.FindStringSubmatch(line); m != nil {
			if c, ok := open[m[1]]; ok && c.name == m[2] {
				c.text += m[3]
				c.end = n
				done = append(done, c)
			}
			delete(open, m[1])
			continue
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{name: m[2], fd: m[3], text: m[4], begin: n, end: n}
		if before, ok := strings.CutSuffix(c.text, unfinished); ok {
			c.text = before
			open[m[1]] = c
			continue
		}
		done = append(done, c)
	}
	return done
}

// checkTrace looks at each 250 that follows a final dot on its connection. It
// returns how many there are and which came too early.
func checkTrace(trace string) (checked int, faults []string) {
	type sync struct{ begin, end int }
	var syncs []sync
	dots := make(map[string]int) // connection to the line where its final dot had been read
	for _, c := range readTrace(trace) {
		succeeded := strings.Contains(c.text, "= 0")
		switch c.name {
		case "fdatasync", "fsync":
			if succeeded && strings.Contains(c.fd, "/data/") {
				syncs = append(syncs, sync{c.begin, c.end})
			}
		case "read", "recvfrom":
			if strings.Contains(c.text, `\r\n.\r\n"`) {
				dots[c.fd] = c.end
			}
		case "write", "writev", "sendto", "sendmsg":
			dot, waiting := dots[c.fd]
			if !waiting || !strings.Contains(c.text, `"250 2.0.0`) {
				continue
			}
			delete(dots, c.fd)
			checked++
			ok := false
			for i := len(syncs) - 1; i >= 0 && !ok; i-- {
				ok = syncs[i].begin > dot && syncs[i].end < c.begin
			}
			if !ok {
				faults = append(faults, fmt.Sprintf("line %d: a 250 on %s without a completed sync since its final dot in line %d: %.80s", c.begin, c.fd, dot, c.text))
			}
		}
	}
	return checked, faults
}

// TestCheckTrace: the check itself tells a good trace from bad ones.
func TestCheckTrace(t *testing.T) {
	tests := []struct {
		name, trace     string
		checked, faults int
	}{
		{"good", `
1 read(9<socket:[1]>, "Subject: x\r\n\r\nx\r\n.\r\n", 4096) = 20
2 fdatasync(5</d/data/store/4.log>) = 0
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 0},
		{"interleaved", `
1 read(9<socket:[1]>,  <unfinished ...>
2 write(5</d/data/store/4.log>, "y", 1) = 1
1 <... read resumed>"x\r\n.\r\n", 4096) = 6
2 fdatasync(5</d/data/store/4.log> <unfinished ...>
1 read(9<socket:[1]>, 0x1, 4096) = -1 EAGAIN (Resource temporarily unavailable)
2 <... fdatasync resumed>) = 0
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 0},
		{"no sync", `
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 1},
		{"sync began too early", `
2 fdatasync(5</d/data/store/4.log> <unfinished ...>
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
2 <... fdatasync resumed>) = 0
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 1},
		{"sync ended too late", `
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
2 fdatasync(5</d/data/store/4.log> <unfinished ...>
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
2 <... fdatasync resumed>) = 0
`, 1, 1},
		{"sync failed", `
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
2 fdatasync(5</d/data/store/4.log>) = -1 EIO (Input/output error)
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 1},
		{"sync of something else", `
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
2 fdatasync(5</tmp/other>) = 0
1 write(9<socket:[1]>, "250 2.0.0 ok\r\n", 14) = 14
`, 1, 1},
		{"other replies", `
1 read(9<socket:[1]>, "RCPT TO:<a@b>\r\n", 4096) = 15
1 write(9<socket:[1]>, "250 2.1.5 ok\r\n", 14) = 14
1 read(9<socket:[1]>, "x\r\n.\r\n", 4096) = 6
1 write(9<socket:[1]>, "451 4.3.0 no\r\n", 14) = 14
`, 0, 0},
	}
	for _, test := range tests {
		checked, faults := checkTrace(strings.TrimLeft(test.trace, "\n"))
		if checked != test.checked || len(faults) != test.faults {
			t.Errorf("%s: %d checked, faults %q", test.name, checked, faults)
		}
	}
}
