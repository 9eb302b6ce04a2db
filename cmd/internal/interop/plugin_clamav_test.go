package interop

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newClamd starts clamd with a database of our own, which knows the EICAR test file.
func newClamd(t testing.TB) *scanner {
	t.Helper()
	clamd := peer(t, "clamd", "clamav-daemon")
	d := &scanner{t: t, dir: scannerDir(t)}
	if err := os.Mkdir(filepath.Join(d.dir, "db"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.write("db/own.ndb", "Test.Eicar:0:*:"+hex.EncodeToString([]byte(eicarText()))+"\n")
	socket := filepath.Join(d.dir, "clamd.sock")
	d.write("clamd.conf", fmt.Sprintf(`Foreground yes
LocalSocket %s
FixStaleSocket yes
DatabaseDirectory %s/db
TemporaryDirectory %[2]s
StreamMaxLength 2M
MaxThreads 4
ScanMail yes
`, socket, d.dir))
	d.args = []string{clamd, "--config-file=" + filepath.Join(d.dir, "clamd.conf")}
	d.answer = func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(c, "zPING\x00")
		line, err := bufio.NewReader(c).ReadString(0)
		if err == nil && line != "PONG\x00" {
			err = fmt.Errorf("answered %q", line)
		}
		return err
	}
	d.start()
	return d
}

// TestClamAV: a real clamd finds the test file wherever it is in a message, and is taken away.
func TestClamAV(t *testing.T) {
	d := newClamd(t)
	address := fmt.Sprintf("address = \"unix:%s/clamd.sock\"\nmax_size = \"1MB\"", d.dir)
	s := twoPolicies(t, "clamav", address, address)
	s.start()
	defer s.stop()

	const id = "clean.mx@example.org"
	if _, err := s.sendTo("mx", letter(id, "the minutes", 2000)); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", id)
	for name, part := range map[string]string{
		"plain": "\r\n" + eicarText() + "\r\n",
		"attached": "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=x.com\r\n\r\n" +
			base64Lines(eicarText()),
	} {
		message := fmt.Sprintf("From: <%s>\r\nMessage-ID: <%s@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhello\r\n--b\r\n%s--b--\r\n",
			stranger, name, part)
		if text, err := s.sendTo("strict", message); replyCode(err) != 550 || !strings.Contains(err.Error(), "Test.Eicar") {
			t.Errorf("%s: %q %v, expected 550 with the virus's name", name, text, err)
		}
	}
	const large = "large.mx@example.org"
	if _, err := s.sendTo("mx", letter(large, "large", 3<<20)); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", large)
	if trace := s.sluice("", "trace", large); !strings.Contains(trace, "CLAMAV_PARTIAL (the first 1048576 of") {
		t.Errorf("the trace of a large message:\n%s", trace)
	}
	s.drill(d)
}

// eicarText is the EICAR test file, put together here so that scanners leave this source alone.
func eicarText() string {
	return `X5O!P%@AP[4\PZX54(P^)7CC)7}$` + `EICAR` + `-STANDARD-ANTIVIRUS-` + `TEST-FILE!$H+H*`
}

// base64Lines is a body in base64 (RFC 2045 section 6.8).
func base64Lines(text string) string {
	var b strings.Builder
	for line := base64.StdEncoding.EncodeToString([]byte(text)); line != ""; {
		n := min(len(line), 76)
		b.WriteString(line[:n] + "\r\n")
		line = line[n:]
	}
	return b.String()
}
