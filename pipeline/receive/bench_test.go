package receive

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// discard accepts everything and keeps nothing.
type discard struct{ n atomic.Int64 }

func (d *discard) Asks(sdk.Phase) bool { return false }

func (d *discard) Connect(context.Context, *pipeline.Session) pipeline.Reply { return pipeline.Reply{} }

func (d *discard) Sender(context.Context, *pipeline.Message) pipeline.Reply { return pipeline.Reply{} }

func (d *discard) Recipient(_ context.Context, m *pipeline.Message, address string, params pipeline.RecipientParams) pipeline.Reply {
	m.Recipients = append(m.Recipients, &pipeline.Recipient{Address: address, Params: params})
	return pipeline.Reply{}
}

func (d *discard) Submit(ctx context.Context, m *pipeline.Message) pipeline.Result {
	if ctx.Err() != nil {
		return pipeline.Result{Reply: pipeline.ReplyTryLater}
	}
	d.n.Add(1)
	m.Content.Discard()
	return pipeline.Result{Reply: pipeline.Reply{Code: 250, Enhanced: "2.0.0", Text: "OK " + m.ID.String()}, Committed: true}
}

func (d *discard) Refuse(context.Context, *pipeline.Message, pipeline.Unfit) {}

// body is a message of about size octets in lines of 76.
func body(size int) []byte {
	var b bytes.Buffer
	b.WriteString("From: a@b.example\r\nTo: alice@example.test\r\nSubject: a message\r\nMessage-ID: <1@b.example>\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\n")
	for b.Len() < size-80 {
		b.WriteString(strings.Repeat("abcdefg ", 9) + "abc\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// send sends n messages over conns connections, MAIL, RCPT and DATA in one write. The client's own cost is included.
func sendMany(b *testing.B, addr string, conns int, message []byte) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	start := cpu()
	for range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			reply := func(code string) bool {
				for {
					line, err := in.ReadSlice('\n')
					if err != nil || string(line[:3]) != code {
						b.Errorf("the server said %q, %v", line, err)
						return false
					}
					if line[3] == ' ' {
						return true
					}
				}
			}
			_, _ = io.WriteString(conn, "EHLO c.example\r\n")
			if !reply("220") || !reply("250") {
				return
			}
			for left.Add(-1) >= 0 {
				_, _ = io.WriteString(conn, "MAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
				if !reply("250") || !reply("250") || !reply("354") {
					return
				}
				_, _ = conn.Write(message)
				if !reply("250") {
					return
				}
			}
		}()
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-start).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkReceive: messages of 4 KiB over 32 connections into a pipeline that keeps nothing.
func BenchmarkReceive(b *testing.B) {
	d := &discard{}
	s := serve(b, func(o *Options) { o.Pipeline, o.Logger = d, quiet() })
	sendMany(b, s.addr, 32, body(4096))
	if d.n.Load() != int64(b.N) {
		b.Errorf("%d of %d messages", d.n.Load(), b.N)
	}
}

// BenchmarkReceiveLarge: messages of 1 MiB.
func BenchmarkReceiveLarge(b *testing.B) {
	d := &discard{}
	s := serve(b, func(o *Options) { o.Pipeline, o.Logger = d, quiet() })
	message := body(1 << 20)
	b.SetBytes(int64(len(message)))
	sendMany(b, s.addr, 4, message)
}

// bare is go-smtp with nothing around it, for comparison.
type bare struct{ n atomic.Int64 }

func (*bare) Reset()                               {}
func (*bare) Logout() error                        { return nil }
func (*bare) Mail(string, *smtp.MailOptions) error { return nil }
func (*bare) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (d *bare) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	d.n.Add(1)
	return err
}

// BenchmarkLibrary is BenchmarkReceive with go-smtp's own server and reader.
func BenchmarkLibrary(b *testing.B) {
	d := &bare{}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return d, nil }))
	s.Domain = "mx.example.test"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	sendMany(b, l.Addr().String(), 32, body(4096))
}

// BenchmarkScan is the reader alone, BenchmarkTextproto what the library's is like.
func BenchmarkScan(b *testing.B) {
	message := body(4096)
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		s := scan{dots: true, refuse0: true, limits: wide}
		if _, ended := s.next(message, io.Discard, false); !ended {
			b.Fatal("no end")
		}
	}
}

func BenchmarkTextproto(b *testing.B) {
	message := body(4096)
	b.SetBytes(int64(len(message)))
	in := bytes.NewReader(nil)
	buffered := bufio.NewReader(in)
	for b.Loop() {
		in.Reset(message)
		buffered.Reset(in)
		if _, err := io.Copy(io.Discard, textproto.NewReader(buffered).DotReader()); err != nil {
			b.Fatal(err)
		}
	}
	runtime.KeepAlive(message)
}
