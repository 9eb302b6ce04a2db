package config

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/tlsfile"
)

// TestCheckSystem: certificates, programs and sums as they are on this machine.
func TestCheckSystem(t *testing.T) {
	dir := t.TempDir()
	if _, err := tlsfile.SelfSigned(dir, "other.example.test", slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "selfsigned.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "good"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Parse(filepath.Join(dir, "sluice.toml"), `
hostname = "mx.example.test"
[tls]
certificate = "selfsigned.pem"
key = "selfsigned.pem"
[plugin.good]
command = ["./good"]
sha256 = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf"
[plugin.good.files]
plain = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
[plugin.changed]
command = ["./good"]
sha256 = "b8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf"
[plugin.plain]
command = ["./plain"]
[plugin.path]
command = ["sh", "-c", "true"]
[plugin.path.files]
absent = ""
[plugin.none]
command = ["no-such-program-anywhere"]
`, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(c.CheckSystem(time.Now(), true).Error(), dir+"/", "")
	for _, want := range []string{
		"sluice.toml:4: tls.certificate: warning: is for other.example.test, localhost, not for mx.example.test",
		"sluice.toml:5: tls.key: warning: selfsigned.pem can be read by others (mode 0644), expected 0600",
		"sluice.toml:13: plugin.changed.sha256: good: its SHA-256 is a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf, not what the configuration expects",
		"sluice.toml:15: plugin.plain.command: exec: \"plain\": permission denied",
		"sluice.toml:18: plugin.path.files: absent: open absent: no such file or directory",
		"sluice.toml:21: plugin.none.command: exec: \"no-such-program-anywhere\": executable file not found in $PATH",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 6 {
		t.Errorf("%d problems, want 6:\n%s", n, got)
	}
}
