package interop

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestAuthorAskInterrupted: who has seen enough gets the sum of what was answered, and no failure that is none.
func TestAuthorAskInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	cmd := exec.Command(sluicePath(t), "plugin", "ask", "gtube", "-", "--config", s.writeFile("p.toml", "[plugin.gtube]\nbuiltin = \"gtube\"\n"))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	one := "From a@example.org Thu Jan  1 12:00:00 2026\nSubject: x\n\n" + strings.Repeat("Hello\n", 500) + "\n"
	if _, err := io.WriteString(in, one+one+one+"and on"); err != nil { // the third has no end
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 2 {
		if !lines.Scan() {
			t.Fatalf("no answer: %v %s", lines.Err(), errs.String())
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var rest []string
	for lines.Scan() {
		rest = append(rest, lines.Text())
	}
	err = cmd.Wait()
	if len(rest) != 1 || !strings.Contains(rest[0], "2 asked, 2 accept;") || exitStatus(err) != 1 || !strings.Contains(errs.String(), "interrupted: there is more in -") {
		t.Errorf("%q, %v, %s", rest, err, errs.String())
	}
}
