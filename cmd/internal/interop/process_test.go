package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// run runs a peer to its end and returns what it printed on both streams.
func (s *site) run(limit time.Duration, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "LC_ALL=C", "no_proxy=*")
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%s did not end within %v", filepath.Base(args[0]), limit)
	}
	return string(out), err
}

// mustRun is run for a peer that must end well.
func (s *site) mustRun(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.run(time.Minute, stdin, args...)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// writeCertificate makes cert.pem and key.pem for localhost and 127.0.0.1.
func writeCertificate(dir string) error {
	return writeCertificateFor(dir, net.IPv4(127, 0, 0, 1), "localhost", "mx.example.test")
}

// writeCertificateFor makes cert.pem and key.pem for names; the certificate signs
// itself and is what peers trust.
func writeCertificateFor(dir string, ip net.IP, names ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: names[0]},
		DNSNames:              names,
		IPAddresses:           []net.IP{ip},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)
}

// process is what /proc says about one process.
type process struct {
	pid, parent int
	state       byte
	rss         int64 // octets
	threads     int
	command     string
}

func readProcess(pid int) (process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return process{}, err
	}
	// The name in parentheses may hold anything; the fields begin behind its last one.
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 22 {
		return process{}, fmt.Errorf("cannot read %s/stat", dir)
	}
	number := func(i int) int { n, _ := strconv.Atoi(fields[i]); return n }
	command, _ := os.ReadFile(dir + "/cmdline")
	return process{
		pid: pid, state: fields[0][0], parent: number(1), threads: number(17), rss: int64(number(21)) * int64(os.Getpagesize()),
		command: strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")),
	}, nil
}

// processes lists all processes that pick chooses.
func processes(pick func(process) bool) []process {
	entries, _ := os.ReadDir("/proc")
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil && pick(p) {
			found = append(found, p)
		}
	}
	return found
}

func childrenOf(pid int) []process {
	return processes(func(p process) bool { return p.parent == pid && p.state != 'Z' })
}

// childOf returns the only child of a process, or 0.
func childOf(pid int) int {
	if c := childrenOf(pid); len(c) == 1 {
		return c[0].pid
	}
	return 0
}

// eventually asks until it is true, and fails the test when it never is.
func eventually(t testing.TB, limit time.Duration, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ask() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

const raceMark = "WARNING: DATA RACE"

func containsRace(log string) bool { return strings.Contains(log, raceMark) }

func raceReport(log string) string { return log[strings.Index(log, raceMark):] }
