package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/tlsfile"
)

// CheckSystem looks at what a configuration refers to on this machine: certificates, ports and, if programs is set, those of
// plugins. It is what `sluice check` does beyond reading the file; the server finds out by itself.
func (c *Config) CheckSystem(now time.Time, programs bool) Problems {
	var out Problems
	report := func(path []string, warning bool, format string, args ...any) {
		out = append(out, c.src.problem(path, warning, fmt.Sprintf(format, args...)))
	}
	if c.TLS.Certificate != "" {
		warning, err := tlsfile.Check(c.TLS.Certificate, c.TLS.Key, c.Hostname, now)
		if err != nil {
			report(keys("tls", "certificate"), false, "cannot be used: %v", err)
		}
		if warning != "" {
			report(keys("tls", "certificate"), true, "%s", warning)
		}
		if mode, open := openToOthers(c.TLS.Key); open {
			report(keys("tls", "key"), true, "%s can be read by others (mode %04o), expected 0600", c.TLS.Key, mode)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plugin)) {
		if p := c.Plugin[name]; programs {
			checkProgram(keys("plugin", name), p.Command, p.SHA256, p.Files, report)
			checkProgram(keys("plugin", name, "canary"), p.Canary.Command, p.Canary.SHA256, p.Canary.Files, report)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		if port, least := privilegedPort(c.Listener[name].Address); port > 0 {
			report(keys("listener", name, "address"), true,
				"port %d is below %d and needs root, or the capability CAP_NET_BIND_SERVICE", port, least)
		}
	}
	return out.Sorted()
}

// checkProgram looks for the program of a plugin, or of its canary, at whose table the keys are.
func checkProgram(at, command []string, sum string, files map[string]string, report func([]string, bool, string, ...any)) {
	if len(command) == 0 {
		return
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		report(append(slices.Clip(at), "command"), false, "%v", err)
		return
	}
	if err := checkSum(program, sum); err != nil {
		report(append(slices.Clip(at), "sha256"), false, "%s: %v", program, err)
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := checkSum(file, files[file]); err != nil {
			report(append(slices.Clip(at), "files"), false, "%s: %v", file, err)
		}
	}
}

func checkSum(name, want string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if want == "" {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if have := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(have, want) {
		return fmt.Errorf("its SHA-256 is %s, not what the configuration expects", have)
	}
	return nil
}

// privilegedPort returns an address's port if this process may not open it, and the first port that anybody may; 0 if it
// may. The kernel setting is Linux's ip_unprivileged_port_start.
func privilegedPort(address string) (port, least int) {
	if os.Geteuid() == 0 {
		return 0, 0
	}
	least = 1024
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			least = n
		}
	}
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0, least
	}
	if port, err = strconv.Atoi(text); err != nil || port == 0 || port >= least {
		return 0, least
	}
	return port, least
}
