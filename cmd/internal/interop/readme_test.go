package interop

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestMinimalReadme types what examples/minimal/README.md says: its message arrives, its trace tells so, and it can be read.
// Only ports, file and password are this test's own.
func TestMinimalReadme(t *testing.T) {
	peer(t, "curl", "curl")
	page, err := os.ReadFile("../../../examples/minimal/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "    curl ")
	block, _, ok := strings.Cut("    curl "+block, "\n\n"+"A mail program connects")
	script := strings.ReplaceAll("\n"+block, "\n    ", "\n")
	send, rest, heredoc := strings.Cut(script, "\nEND\n")
	trace, read, lines := strings.Cut(rest, "\n")
	if !ok || !heredoc || !lines || !strings.HasPrefix(trace, "./sluice trace ") || !strings.HasPrefix(read, "curl ") {
		t.Fatalf("the page reads otherwise now:\n%s", script)
	}
	s := newSite(t, "")
	s.start()
	defer s.stop()
	own := strings.NewReplacer("127.0.0.1:2525", s.addr("mx"), "127.0.0.1:2143", s.addr("imap"), "a password", password,
		"./sluice", s.program, "examples/minimal/sluice.toml", s.config)
	s.mustRun(own.Replace(send)+"\nEND\n", "/bin/sh", "-e")
	eventually(t, 10*time.Second, "the trace shows the delivery", func() bool {
		return strings.Contains(s.mustRun(own.Replace(trace), "/bin/sh", "-e"), "delivered")
	})
	if out := s.mustRun(own.Replace(read), "/bin/sh", "-e"); !strings.Contains(out, "\nSubject: hello\n") && !strings.Contains(out, "Subject: hello\r\n") || !strings.Contains(out, "It works.") {
		t.Errorf("read back:\n%s", out)
	}
}
