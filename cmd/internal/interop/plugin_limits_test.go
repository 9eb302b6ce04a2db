package interop

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAttachments: a program in an archive is refused by what it is, an encrypted archive is kept, and a
// clean one arrives; through the shared parse and a real process.
func TestAttachments(t *testing.T) {
	t.Parallel()
	s := newSite(t, "[pipeline.inbound.anti-virus]\nplugins = [\"attachments\"]\n")
	s.start()
	defer s.stop()
	packed := func(name string, octets []byte, flags uint16) string {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		e, err := w.CreateRaw(&zip.FileHeader{
			Name: name, Flags: flags, UncompressedSize64: uint64(len(octets)), CompressedSize64: uint64(len(octets)),
		})
		if err == nil {
			_, err = e.Write(octets)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	program := append([]byte("MZ\x90\x00\x03\x00\x00\x00\x04\x00"), make([]byte, 1<<20)...)
	for name, c := range map[string]struct {
		archive string
		code    int
		reason  string
	}{
		"clean":     {packed("notes.txt", []byte("hello"), 0), 0, ""},
		"program":   {packed("picture.jpg", program, 0), 550, "ATTACHMENT_BLOCKED"},
		"encrypted": {packed("notes.txt", []byte("hello"), 1), 0, "ATTACHMENT_ENCRYPTED"},
	} {
		id := name + "@example.org"
		message := fmt.Sprintf("From: <%s>\r\nMessage-ID: <%s>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\n"+
			"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n filename*0*=utf-8''a%%2E;\r\n filename*1=zip\r\n\r\n%s--b--\r\n",
			stranger, id, base64Lines(c.archive))
		if _, err := s.sendTo("mx", message); replyCode(err) != c.code {
			t.Errorf("%s: %v, expected %d", name, err, c.code)
		}
		trace := s.sluice("", "trace", id)
		if !strings.Contains(trace, c.reason) || c.reason != "" && !strings.Contains(trace, "a.zip > ") {
			t.Errorf("%s: the trace does not have %s of a.zip:\n%s", name, c.reason, trace)
		}
	}
	s.waitMail(alice, "INBOX", "clean@example.org")
	if list := s.sluice("", "quarantine", "list"); !strings.Contains(list, "encrypted@example.org") && strings.Count(list, stranger) != 1 {
		t.Errorf("the encrypted one is not in quarantine:\n%s", list)
	}
}

// TestHijackedAccount: an account that writes to too many is held, the administrator gets one letter, and
// after the release it goes on. The hold survives the server's restart.
func TestHijackedAccount(t *testing.T) {
	s := newSite(t, `
[plugin.ratelimit]
builtin = "ratelimit"
[plugin.ratelimit.config]
hijack = { recipients = 5, per = "1h" }
[pipeline.outbound.anti-spam]
plugins = ["ratelimit"]
`)
	s.start()
	defer func() { s.stop() }()
	send := func(n int) string {
		id := fmt.Sprintf("mine.%d@example.test", n)
		c, err := dialSMTP(s.addr("submission"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if err := c.startTLS(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.command(235, "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+alice+"\x00"+password))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.send(alice, []string{bob}, strings.ReplaceAll(letter(id, "hello", 500), stranger, alice)); err != nil {
			t.Fatal(err)
		}
		return id
	}
	for n := range 5 {
		s.waitMail(bob, "INBOX", send(n))
	}
	held := send(5)
	eventually(t, 20*time.Second, "a letter to the administrator", func() bool {
		return strings.Contains(s.letterToPostmaster("looks hijacked"), alice)
	})
	s.stop()
	s.start()
	send(6) // held too, and the administrator knows
	if got := s.sluice("", "plugin", "tell", "ratelimit", "held"); !strings.Contains(got, alice+" since ") {
		t.Fatalf("not held: %s", got)
	}
	if got := s.sluice("", "plugin", "tell", "ratelimit", "release", alice); !strings.Contains(got, "is released") {
		t.Fatal(got)
	}
	s.waitMail(bob, "INBOX", send(7))
	if got := s.sluice("", "trace", held); !strings.Contains(got, "RATELIMIT_HELD") || !strings.Contains(got, "quarantine") {
		t.Errorf("the trace of a held message:\n%s", got)
	}
}
