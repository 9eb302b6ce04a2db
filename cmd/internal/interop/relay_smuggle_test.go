package interop

import (
	"fmt"
	"strings"
	"testing"
)

// smuggled are ends of content that some servers take for one and others don't
// (RFC 5321 section 4.1.1.4 knows CRLF.CRLF alone).
var smuggled = []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n..\r\n", "\n\n.\n\n"}

// smuggle sends through us what hides a second message in the first one. What of
// it we take arrives at the peer as one message, whichever way it came to us: what
// is within it stays within it.
func smuggle(t *testing.T, w *world, m *mta) {
	box := "box@" + m.domain()
	hidden := "MAIL FROM:<" + alice + ">\r\nRCPT TO:<" + box + ">\r\nDATA\r\nFrom: <" + alice + ">\r\nSubject: smuggled\r\nMessage-ID: <second@example.test>\r\n\r\nsmuggled\r\n"
	before := len(m.received())
	var taken []string
	for i, end := range smuggled {
		for _, chunked := range []bool{false, true} {
			id := fmt.Sprintf("smuggle.%d.%v@example.test", i, chunked)
			message := strings.Replace(letter(id, "two in one", 600), stranger, alice, 1) + "Before." + end + hidden
			c := w.submission()
			var err error
			if chunked {
				err = c.sendChunks(alice, box, message)
			} else if _, err = c.command(250, "MAIL FROM:<%s>", alice); err == nil {
				if _, err = c.command(250, "RCPT TO:<%s>", box); err == nil {
					if _, err = c.command(354, "DATA"); err == nil {
						_, err = c.command(250, "%s.", message)
					}
				}
			}
			c.close()
			switch code := replyCode(err); {
			case err == nil:
				taken = append(taken, id)
			case code/100 != 5:
				t.Errorf("%q, BDAT %v: %v", end, chunked, err)
			}
		}
	}
	if len(taken) < 8 {
		t.Errorf("only %d of %d were taken: %q", len(taken), 2*len(smuggled), taken)
	}
	for _, id := range taken {
		if text := m.await(id); strings.Count(text, "\nMAIL FROM:<") != 1 || strings.Count(text, "\nSubject: smuggled") != 1 || !strings.HasSuffix(text, "\nsmuggled\n") {
			t.Errorf("%s arrived as\n%q", id, text)
		}
	}
	if n := len(m.received()) - before; n != len(taken) {
		t.Errorf("%d messages were taken, and %d arrived", len(taken), n)
	}
}

// sendChunks sends a message with BDAT (RFC 3030), cut in three.
func (c *smtpClient) sendChunks(from, to, message string) error {
	if _, err := c.command(250, "MAIL FROM:<%s>", from); err != nil {
		return err
	}
	if _, err := c.command(250, "RCPT TO:<%s>", to); err != nil {
		return err
	}
	first, second := len(message)/3, len(message)*2/3
	for i, part := range []string{message[:first], message[first:second], message[second:]} {
		last := ""
		if i == 2 {
			last = " LAST"
		}
		if _, err := fmt.Fprintf(c.conn, "BDAT %d%s\r\n%s", len(part), last, part); err != nil {
			return err
		}
		if _, err := c.reply(250); err != nil {
			return err
		}
	}
	return nil
}
