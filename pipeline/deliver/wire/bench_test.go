package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkLarge is a message of 1 MiB by DATA and by BDAT, to a server that looks for the final dot, or counts: where ChunkFrom comes from.
// It reports the CPU of both sides.
func BenchmarkLarge(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		text := strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", size/72)
		for _, chunking := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, map[bool]string{false: "DATA", true: "BDAT"}[chunking]), func(b *testing.B) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				go swallow(l)
				raw, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				conn := New(raw, Options{Hostname: "client.example.org"})
				defer conn.Close()
				conn.Extensions = Extensions{Pipelining: true, Chunking: chunking}
				before := cpu()
				for b.Loop() {
					content, err := Scan(strings.NewReader(text), int64(len(text)))
					if err != nil {
						b.Fatal(err)
					}
					r := Result{Rcpt: make([]Reply, 1)}
					t := &Transaction{Recipients: []Recipient{{Address: "bob@example.test"}}, Content: content}
					accepted, err := conn.envelope(t, &r, chunking)
					if err == nil {
						err = conn.deliver(t, &r, chunking, accepted)
					}
					if err != nil || !r.Answer(0).OK() {
						b.Fatalf("%+v, %v", r, err)
					}
				}
				b.SetBytes(int64(len(text)))
				b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-us/op")
			})
		}
	}
}

func cpu() int64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return syscall.TimevalToNsec(u.Utime) + syscall.TimevalToNsec(u.Stime)
}

// swallow takes every message and keeps none.
func swallow(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case line == "DATA\r\n":
			fmt.Fprint(conn, "354 go\r\n")
			for b := []byte(nil); string(b) != ".\r\n"; {
				if b, err = in.ReadSlice('\n'); err != nil {
					return
				}
			}
		case strings.HasPrefix(line, "BDAT"):
			var n int64
			fmt.Sscanf(line, "BDAT %d", &n)
			if _, err := io.CopyN(io.Discard, in, n); err != nil {
				return
			}
		}
		fmt.Fprint(conn, "250 ok\r\n")
	}
}
