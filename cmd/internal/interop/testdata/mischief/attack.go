package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attack tries what a hostile plugin would, in the directory where the server's configuration and data are. It says for each
// thing whether it got it.
func attack(dir string) string {
	server := os.Getppid()
	var list []string
	try := func(what string, got bool) { list = append(list, fmt.Sprintf("%s=%v", what, got)) }
	_, err := os.ReadDir(filepath.Join(dir, "data"))
	try("list-data", err == nil)
	stores, _ := filepath.Glob(filepath.Join(dir, "data/store/*"))
	try("list-store", len(stores) > 0)
	for _, name := range []string{"key.pem", "data/lock", "data/store/CURRENT", "sluice.toml"} {
		_, err := os.ReadFile(filepath.Join(dir, name))
		try("read-"+filepath.Base(name), err == nil)
	}
	for _, name := range []string{"planted", "data/planted", "data/plugin/planted", "data/plugin/other/planted"} {
		try("write-"+strings.ReplaceAll(name, "/", "-"), os.WriteFile(filepath.Join(dir, name), nil, 0o600) == nil)
	}
	try("remove", os.Remove(filepath.Join(dir, "key.pem")) == nil)
	_, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", server))
	try("environ", err == nil)
	_, err = os.Open(fmt.Sprintf("/proc/%d/mem", server))
	try("mem", err == nil)
	try("control", control(filepath.Join(dir, "data/control.sock")))
	try("signal", syscall.Kill(server, syscall.SIGTERM) == nil)
	try("group", syscall.Kill(0-syscall.Getpgrp(), 0) != nil)
	try("ptrace", unix.PtraceSeize(server) == nil)
	try("setuid", syscall.Setuid(0) == nil && os.Getppid() != server)
	try("mount", unix.Mount("none", os.TempDir(), "tmpfs", 0, "") == nil)
	core := exec.Command("/usr/bin/su", "-c", "true")
	try("su", os.Getuid() != 0 && core.Run() == nil)
	return strings.Join(list, " ")
}

// control reports whether the server's administration answers.
func control(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.WriteString(c, "POST /v1/plugin/list HTTP/1.1\r\nHost: sluice\r\nContent-Length: 2\r\n\r\n{}")
	answer, _ := io.ReadAll(io.LimitReader(c, 100))
	return len(answer) > 0
}
