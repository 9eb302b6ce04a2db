package interop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newCicap starts Debian's c-icap with its scanner, which asks a real clamd.
func newCicap(t testing.TB, clamd *scanner) (d *scanner, url string) {
	t.Helper()
	program := peer(t, "c-icap", "c-icap")
	modules := "/usr/lib/x86_64-linux-gnu/c_icap"
	if found, _ := filepath.Glob("/usr/lib/*/c_icap"); len(found) > 0 {
		modules = found[0]
	}
	if _, err := os.Stat(filepath.Join(modules, "virus_scan.so")); err != nil {
		peer(t, filepath.Join(modules, "virus_scan.so"), "libc-icap-mod-virus-scan")
	}
	d = &scanner{t: t, dir: scannerDir(t)}
	address := "127.0.0.1:" + scannerPort(t)
	d.write("c-icap.conf", fmt.Sprintf(`PidFile %[1]s/pid
CommandsSocket %[1]s/ctl
Port %[2]s
StartServers 1
MaxServers 2
ThreadsPerChild 10
TmpDir %[1]s
ServerLog %[1]s/server.log
AccessLog %[1]s/access.log
ModulesDir %[3]s
ServicesDir %[3]s
LoadMagicFile /etc/c-icap/c-icap.magic
TemplateDir /usr/share/c_icap/templates/
Service echo srv_echo.so
Module common clamd_mod.so
clamd_mod.ClamdSocket %[4]s/clamd.sock
Service antivirus_module virus_scan.so
virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE
virus_scan.DefaultEngine clamd
virus_scan.MaxObjectSize 5M
ServiceAlias avscan virus_scan?allow204=on&sizelimit=off&mode=simple
`, d.dir, address, modules, clamd.dir))
	d.args = []string{program, "-N", "-f", filepath.Join(d.dir, "c-icap.conf")}
	d.answer = func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(c, "OPTIONS icap://%s/avscan ICAP/1.0\r\nHost: x\r\nEncapsulated: null-body=0\r\n\r\n", address)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && !strings.Contains(line, " 200 ") {
			err = fmt.Errorf("answered %q", line)
		}
		return err
	}
	d.start()
	return d, "icap://" + address + "/"
}

// TestICAP: a real ICAP server with a real scanner behind it.
func TestICAP(t *testing.T) {
	d, url := newCicap(t, newClamd(t))
	config := fmt.Sprintf("url = %q", url+"avscan")
	s := twoPolicies(t, "icap", config, config)
	s.start()
	defer s.stop()
	for _, listener := range []string{"mx", "strict"} {
		id := "clean." + listener + "@example.org"
		if _, err := s.sendTo(listener, letter(id, "the minutes", 200<<10)); err != nil {
			t.Fatal(err)
		}
		s.waitMail(alice, "INBOX", id)
		if _, err := s.sendTo(listener, letter("bad."+id, "x", 100)+eicarText()+"\r\n"); replyCode(err) != 550 || !strings.Contains(err.Error(), "Test.Eicar") {
			t.Errorf("%s: %v, expected 550 with the virus's name", listener, err)
		}
	}
	s.drill(d)
}
