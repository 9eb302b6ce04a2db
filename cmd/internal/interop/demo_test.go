package interop

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestDemo: the README's first command, as a newcomer runs it.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, sluicePath(t), "demo", "--exit").CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	for _, want := range []string{
		"IMAP found it in INBOX", "IMAP found it in Junk", "550 5.7.1", "POP3 shows one message",
		"DKIM signature of example.test", "dkim=pass dmarc=pass", "All held",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
