package receive

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// TestUnfitIsTold: whatever receive itself refuses after RCPT is told to the pipeline, once, with why and what the peer
// hears; what did not arrive as a whole is not.
func TestUnfitIsTold(t *testing.T) {
	for _, c := range []struct{ how, want string }{
		{"DATA\r\nA: b\r\n\r\nbare\nLF\r\n.\r\n", "17 octets: bare LF: 550 5.6.11 The message has an LF without CR <nil>"},
		{"DATA\r\nA: b\r\n\r\nnul\x00\r\n.\r\n", "14 octets: NUL: 550 5.6.11 The message has an octet 0 <nil>"},
		{"DATA\r\n\r\n" + strings.Repeat("x", 2000) + "\r\n.\r\n", "2004 octets: longer line than max_line: 550 5.6.0 The message has a line that is too long <nil>"},
		{"DATA\r\n" + strings.Repeat("Received: x\r\n", 101) + "\r\n.\r\n", "1315 octets: more Received than max_received: 554 5.4.6 Too many hops, the message seems to run in a circle <nil>"},
		{"DATA\r\n\r\n" + strings.Repeat("0123456\r\n", 500) + ".\r\n", "4502 octets: larger than max_size: 552 5.3.4 The message is too large <nil>"},
		{"DATA\r\n\r\n" + strings.Repeat("0123456\r\n", 1200), "octets: larger than max_size: 552 5.3.4 The message is too large <nil>"}, // and the server hangs up
		{"BDAT 5000 LAST\r\n", "5000 octets: larger than max_size: 552 5.3.4 The message is too large <nil>"},
		{"BDAT 3000\r\n" + strings.Repeat("0123456\r\n", 334)[:3000] + "BDAT 3000 LAST\r\n" + strings.Repeat("x", 3000), "octets: larger than max_size: 552 5.3.4 The message is too large <nil>"},
		{"BDAT 3000\r\n" + strings.Repeat("0123456\r\n", 334)[:3000] + "BDAT 5000 LAST\r\n", "octets: larger than max_size: 552 5.3.4 The message is too large <nil>"},
		{"BDAT 10\r\n0123456789QUIT\r\n", ""},
	} {
		s := serve(t, func(o *Options) { o.Config.MaxSize, o.Config.MaxLine = units.Size(4000), units.Size(1000) })
		conn, send, read := dial(t, s)
		begin(t, send, read)
		send(c.how)
		name := fmt.Sprintf("%.12q...", c.how)
		deadline := time.Now().Add(5 * time.Second)
		for len(s.pipeline.refused()) == 0 && c.want != "" && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if c.want == "" {
			for range 3 {
				read()
			}
		}
		conn.Close()
		told := s.pipeline.refused()
		if c.want == "" && len(told) != 0 || c.want != "" && (len(told) != 1 || !strings.HasPrefix(told[0], "a@b.example for 1, ") || !strings.HasSuffix(told[0], c.want)) {
			t.Errorf("%s: told %q, want %q\n%s", name, told, c.want, s.log)
		}
	}
}

// TestUnfitOfALogin: what our own people may not write is told as well, without a word of the content.
func TestUnfitOfALogin(t *testing.T) {
	s := serve(t, func(o *Options) { o.Protocol, o.AllowPlaintextLogin = Submission, true })
	_, send, read := dial(t, s)
	expect(t, read(), "220 ")
	send("EHLO c.example\r\nAUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=\r\n")
	expect(t, read(), "250 ")
	expect(t, read(), "235 ")
	for _, header := range []string{"From: eve@other.example", "From: alice@example.test\r\nBcc\x00: x@example.test"} {
		send("MAIL FROM:<alice@example.test>\r\nRCPT TO:<bob@other.example>\r\nDATA\r\n")
		for _, want := range []string{"250 ", "250 ", "354 "} {
			expect(t, read(), want)
		}
		send(header + "\r\n\r\nhello\r\n.\r\n")
		expect(t, read(), "55")
	}
	want := []string{
		"alice@example.test for 1, 34 octets: From or Sender is not the account's: 550 5.7.1 From or Sender is missing, unreadable, or not an address of your account <nil>",
		"alice@example.test for 1, 57 octets: Bcc: a field is not written as RFC 5322 section 2.2 wants it: 554 5.6.0 From, Sender or Bcc is not written as RFC 5322 section 2.2 wants it <nil>",
	}
	if told := s.pipeline.refused(); !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}
