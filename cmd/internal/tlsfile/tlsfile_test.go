package tlsfile

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// served returns the serial number of the certificate that a client meets.
func served(t *testing.T, config *tls.Config, version uint16) (string, error) {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go tls.Server(server, config).Handshake()
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MaxVersion: version}) // the test looks at it itself
	if err := c.Handshake(); err != nil {
		return "", err
	}
	leaf := c.ConnectionState().PeerCertificates[0]
	if err := leaf.VerifyHostname("mx.example.test"); err != nil {
		t.Error(err)
	}
	return leaf.SerialNumber.String(), nil
}

func TestSelfSigned(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	config, err := SelfSigned(dir, "mx.example.test", logger(&log))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("no warning: %s", &log)
	}
	info, err := os.Stat(filepath.Join(dir, "selfsigned.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v; want mode 0600", info, err)
	}
	first, err := served(t, config, tls.VersionTLS13)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := served(t, config, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	again, err := SelfSigned(dir, "mx.example.test", logger(&log))
	if err != nil {
		t.Fatal(err)
	}
	if second, err := served(t, again, tls.VersionTLS12); err != nil || second != first {
		t.Errorf("after a restart the certificate is %s, %v; want %s", second, err, first)
	}
	if _, err := readSelfSigned(filepath.Join(dir, "selfsigned.pem"), "other.example.test", time.Now()); err == nil {
		t.Error("a certificate for another name is taken")
	}
	if _, err := readSelfSigned(filepath.Join(dir, "selfsigned.pem"), "mx.example.test", time.Now().Add(lifetime-renewal)); err == nil {
		t.Error("a certificate that ends soon is taken")
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(when time.Time) {
		t.Helper()
		if _, err := makeSelfSigned(cert, "mx.example.test", time.Now()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(cert)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{cert, key} {
			if err := os.Chtimes(name, when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := time.Now()
	write(now)
	var log bytes.Buffer
	f := &files{certificate: cert, key: key, logger: logger(&log), now: func() time.Time { return now }}
	config := base()
	config.GetCertificate = f.get
	f.refresh()
	first, err := served(t, config, tls.VersionTLS13)
	if err != nil {
		t.Fatal(err)
	}
	write(now.Add(time.Second))
	f.looked = now
	if same, _ := served(t, config, tls.VersionTLS13); same != first {
		t.Error("the files are looked at with every handshake")
	}
	now = now.Add(lookAgain)
	second, err := served(t, config, tls.VersionTLS13)
	if err != nil || second == first {
		t.Errorf("a renewed certificate is not used: %v", err)
	}
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(lookAgain)
		if kept, err := served(t, config, tls.VersionTLS13); err != nil || kept != second {
			t.Errorf("a broken file takes the certificate away: %v", err)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
	if _, err := Load(cert, key, logger(&log)); err == nil || !strings.Contains(err.Error(), "cert.pem") {
		t.Errorf("Load of a broken file: %v", err)
	}
	if warning, err := Check(key, key, "other.test", time.Now()); err != nil || !strings.Contains(warning, "not for other.test") {
		t.Errorf("Check: %q, %v", warning, err)
	}
}
