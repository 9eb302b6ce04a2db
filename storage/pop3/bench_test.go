package pop3

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// BenchmarkRETR reads 4 KiB messages over one loopback connection, as
// shared benchmarks do: one RETR at a time, and 32 in flight.
func BenchmarkRETR(b *testing.B) {
	text := "Subject: benchmark\r\nFrom: <a@example.test>\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 63)
	for _, inFlight := range []int{1, 32} {
		b.Run(fmt.Sprintf("memory/in-flight=%d", inFlight), func(b *testing.B) {
			messages := make([]string, 1000)
			for i := range messages {
				messages[i] = text
			}
			f := newFixture(b, map[string]bool{"plaintext": true, "many-commands": true}, newMemBackend(messages))
			benchmarkRETR(b, f.addr, inFlight, len(messages), len(text))
		})
	}
}

func benchmarkRETR(b *testing.B, addr string, inFlight, count, size int) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	r := bufio.NewReaderSize(conn, 256<<10)
	line := func() string {
		l, err := r.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		return string(l)
	}
	io.WriteString(conn, aliceLogin)
	for range 3 {
		if l := line(); !strings.HasPrefix(l, "+OK") {
			b.Fatal(l)
		}
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	sent := 0
	for i := range b.N {
		for sent < b.N && sent < i+inFlight {
			fmt.Fprintf(conn, "RETR %d\r\n", sent%count+1)
			sent++
		}
		if l := line(); l != "+OK\r\n" {
			b.Fatal(l)
		}
		for {
			l, err := r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if string(l) == ".\r\n" {
				break
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
