package deliver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// BenchmarkSend is one message of 4 KiB to a sink in this process, by a relay and by MX, on connections that are kept. It reports the CPU of
// both sides together, and of the sink alone when it is fed without us (BenchmarkSink).
func BenchmarkSend(b *testing.B) {
	content := "From: a@example.org\r\nSubject: benchmark\r\n\r\n" + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 56)
	for _, way := range []string{"relay", "mx"} {
		b.Run(way, func(b *testing.B) {
			port := sink(b)
			dns := resolvertest.New(resolvertest.MustParse("example.test. MX 10 mx1.example.test.\nmx1.example.test. A 127.0.0.1\n"))
			config := DefaultConfig()
			config.AllowPrivate, config.Port, config.MaxMessages = []string{"127.0.0.0/8"}, port, 100_000
			o := Options{
				Config: func(string) Config { return config }, Hostname: "client.example.org",
				Finder: mx.New(mx.Options{DNS: dns}), Policies: tlspolicy.New(tlspolicy.Options{DNS: dns}),
			}
			if way == "relay" {
				t := pipeline.Transport{Hosts: []string{fmt.Sprintf("127.0.0.1:%d", port)}, TLS: "none"}
				o.Transport = func(string) pipeline.Transport { return t }
			}
			r := New(o)
			defer r.Close()
			p := &pipeline.Parcel{
				Pipeline: "outbound", Domain: "example.test", Sender: "sender@example.org", Size: int64(len(content)),
				Recipients: []pipeline.ParcelRecipient{{Address: "bob@example.test"}},
				Open:       func(context.Context) (pipeline.Octets, error) { return octets{strings.NewReader(content)}, nil },
			}
			b.ReportAllocs()
			b.SetParallelism(8)
			before := cpu()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					hop, err := r.NextHop(b.Context(), p.Domain, "")
					if err != nil {
						b.Error(err)
						return
					}
					sent, done, err := r.Send(b.Context(), hop, p)
					done()
					if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
						b.Errorf("%+v, %v", sent, err)
						return
					}
				}
			})
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-us/op")
		})
	}
}

// BenchmarkSink feeds the sink the same octets with as little as it takes, so that its part of BenchmarkSend is known.
func BenchmarkSink(b *testing.B) {
	port := sink(b)
	envelope := []byte("MAIL FROM:<sender@example.org> SIZE=4136\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n")
	content := append(bytes.Repeat([]byte("0123456789012345678901234567890123456789012345678901234567890123456789\r\n"), 57), ".\r\n"...)
	b.SetParallelism(8)
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buffer := make([]byte, 4096)
		conn.Read(buffer)
		for pb.Next() {
			conn.Write(envelope)
			conn.Read(buffer)
			conn.Write(content)
			conn.Read(buffer)
		}
	})
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1000, "cpu-us/op")
}

// cpu returns what the process has used, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return syscall.TimevalToNsec(u.Utime) + syscall.TimevalToNsec(u.Stime)
}

// sink takes every message and keeps none.
func sink(b *testing.B) (port int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go swallow(conn)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func swallow(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 16<<10)
	out := []byte("220 sink.example.test\r\n")
	for {
		if in.Buffered() == 0 {
			conn.SetDeadline(time.Now().Add(time.Minute))
			conn.Write(out)
			out = out[:0]
		}
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		switch string(line[:4]) {
		case "EHLO":
			out = append(out, "250-sink.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SIZE 1000000\r\n"...)
		case "DATA":
			out = append(out, "354 go\r\n"...)
			conn.Write(out)
			out = out[:0]
			for !bytes.Equal(line, []byte(".\r\n")) {
				if line, err = in.ReadSlice('\n'); err != nil {
					return
				}
			}
			out = append(out, "250 2.0.0 ok\r\n"...)
		case "QUIT":
			conn.Write([]byte("221 bye\r\n"))
			return
		default:
			out = append(out, "250 2.1.0 ok\r\n"...)
		}
	}
}
