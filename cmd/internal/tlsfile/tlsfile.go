// Package tlsfile gives listeners their certificate: the administrator's, read again by itself when its file changes, or
// one that is made and signed by itself.
//
// It promises: TLS 1.2 and up (RFC 8996, RFC 9325); a renewed certificate is in use within half a minute without a signal;
// one that cannot be read, or whose key does not fit, leaves the old one in use and is logged once; a certificate of our
// own is ECDSA P-256 for the server's hostname and this machine's loopback addresses, kept in data_dir with mode 0600 so
// that clients that have accepted it meet it again after a restart.
//
// It owns data_dir/selfsigned.pem. Its input is the administrator's.
package tlsfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// How long things last.
const (
	lookAgain = 30 * time.Second          // between looks at the files
	lifetime  = 10 * 365 * 24 * time.Hour // of a certificate of our own
	renewal   = 30 * 24 * time.Hour       // before its end a new one is made
)

// Load reads a certificate chain and its key. The files are looked at again while the server runs.
func Load(certificate, key string, logger *slog.Logger) (*tls.Config, error) {
	f := &files{certificate: certificate, key: key, logger: logger, now: time.Now}
	stamp, err := f.stamp()
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate %s with the key %s: %w", certificate, key, err)
	}
	f.current, f.seen, f.looked = &cert, stamp, f.now()
	config := base()
	config.GetCertificate = f.get
	return config, nil
}

// Check reports what is wrong with a certificate for a hostname without using it: an error where Load would fail, a
// warning where clients would complain.
func Check(certificate, key, hostname string, now time.Time) (warning string, err error) {
	cert, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return "", err
	}
	switch {
	case now.After(leaf.NotAfter):
		return "has ended on " + leaf.NotAfter.UTC().Format(time.DateOnly), nil
	case now.Add(14 * 24 * time.Hour).After(leaf.NotAfter):
		return "ends on " + leaf.NotAfter.UTC().Format(time.DateOnly), nil
	case leaf.VerifyHostname(hostname) != nil:
		return fmt.Sprintf("is for %s, not for %s", strings.Join(leaf.DNSNames, ", "), hostname), nil
	}
	return "", nil
}

// base is what all of our listeners offer.
func base() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }

// files is a certificate that may be renewed under us. get may be called from any goroutine.
type files struct {
	certificate, key string
	logger           *slog.Logger
	now              func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	seen    string // what the files looked like when current, or a failure, was read
	looked  time.Time
}

func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookAgain {
		f.looked = now
		f.refresh()
	}
	return f.current, nil
}

// refresh reads the files if they have changed. Between the two writes of a renewal the key does not fit; the next look
// sees a change again.
func (f *files) refresh() {
	stamp, err := f.stamp()
	if err != nil || stamp == f.seen {
		return
	}
	f.seen = stamp
	cert, err := tls.LoadX509KeyPair(f.certificate, f.key)
	if err != nil {
		f.logger.Error("certificate not renewed; the old one stays in use", "file", f.certificate, "why", err)
		return
	}
	f.current = &cert
	f.logger.Info("certificate renewed", "file", f.certificate)
}

// stamp changes when one of the files does.
func (f *files) stamp() (string, error) {
	var b strings.Builder
	for _, name := range []string{f.certificate, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%d %d;", info.ModTime().UnixNano(), info.Size())
	}
	return b.String(), nil
}

// SelfSigned returns the certificate of our own that is in dir, making one if there is none for that hostname, or if it
// ends soon.
func SelfSigned(dir, hostname string, logger *slog.Logger) (*tls.Config, error) {
	name := filepath.Join(dir, "selfsigned.pem")
	cert, err := readSelfSigned(name, hostname, time.Now())
	if err != nil {
		if cert, err = makeSelfSigned(name, hostname, time.Now()); err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
	}
	logger.Warn("no [tls] in the configuration: the certificate is signed by ourselves, and clients will say so",
		"file", name, "hostname", hostname)
	config := base()
	config.Certificates = []tls.Certificate{cert}
	return config, nil
}

func readSelfSigned(name, hostname string, now time.Time) (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(name, name)
	if err != nil {
		return cert, err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return cert, err
	}
	if now.Add(renewal).After(leaf.NotAfter) {
		return cert, errors.New("it ends soon")
	}
	return cert, leaf.VerifyHostname(hostname)
}

func makeSelfSigned(name, hostname string, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: short(hostname)},
		DNSNames:              []string{hostname, "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	if err := writeWhole(name, text); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(text, text)
}

// short keeps a common name within the 64 characters of X.520; clients look at the SAN anyway (RFC 6125 section 6.4.4).
func short(hostname string) string { return hostname[:min(len(hostname), 64)] }

// writeWhole writes a file so that a reader, or a crash, sees all of it or nothing.
func writeWhole(name string, text []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".selfsigned-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if _, err := temporary.Write(text); err != nil {
		temporary.Close()
		return err
	}
	if err := errors.Join(temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), name)
}
