package imap

import (
	"bufio"
	"strings"
	"testing"
)

// benchCommand measures one command over a mailbox of n messages of 4 KiB, with
// the client's reading.
func benchCommand(b *testing.B, n int, cmd string) {
	_, addr := start(b, Options{AllowPlaintextLogin: true, MaxCommands: 1 << 30})
	p := dial(b, addr).login()
	p.r = bufio.NewReaderSize(p.conn, 64<<10)
	msg := "From: Alice <alice@example.net>\r\nTo: bob@example.test\r\nSubject: numbers\r\nMessage-ID: <1@x>\r\nDate: Sat, 21 Nov 2026 20:00:00 +0000\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 70)+"\r\n", 55)
	for range n {
		p.append("INBOX", "", msg)
	}
	p.ok("SELECT INBOX")
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		p.send("t " + cmd + "\r\n")
		for {
			l, err := p.r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(l) > 4 && string(l[:4]) == "t OK" {
				break
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/message")
}

func BenchmarkFetchFlags(b *testing.B) { benchCommand(b, 2000, "FETCH 1:* (FLAGS)") }
func BenchmarkFetchEnvelope(b *testing.B) {
	benchCommand(b, 2000, "FETCH 1:* (ENVELOPE BODYSTRUCTURE)")
}
func BenchmarkFetchBody(b *testing.B)     { benchCommand(b, 2000, "FETCH 1:* BODY.PEEK[]") }
func BenchmarkSearchUnseen(b *testing.B)  { benchCommand(b, 2000, "SEARCH UNSEEN") }
func BenchmarkSearchSubject(b *testing.B) { benchCommand(b, 2000, "SEARCH SUBJECT nothing") }
func BenchmarkSearchBody(b *testing.B)    { benchCommand(b, 2000, "SEARCH BODY nothing") }
func BenchmarkNoop(b *testing.B)          { benchCommand(b, 1, "NOOP") }
