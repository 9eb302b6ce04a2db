package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestSocketModes (DRILLS E6.6): nobody but the server, and with a user of their own the plugins, can reach a plugin's sockets,
// whatever umask the server was started with.
func TestSocketModes(t *testing.T) {
	for _, as := range []string{"the server's user", "plugin_user"} {
		t.Run(as, func(t *testing.T) {
			var run string
			var h *harness
			var open fs.FileMode
			if as == "plugin_user" {
				h, _ = asNobody(t, nil)
				open = 0o070 // of a group that only the two have
			} else {
				h = newHarness(t, "plain", nil)
				h.ready(t)
			}
			proc, err := h.current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			run = proc.runner.socketDir
			sockets := 0
			err = filepath.WalkDir(run, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				if info.Mode().Perm()&^(0o700|open) != 0 {
					t.Errorf("%s: %v", path, info.Mode())
				}
				if info.Mode().Type() == os.ModeSocket {
					sockets++
				}
				return nil
			})
			if err != nil || sockets < 2 { // of gRPC, and of direct lanes
				t.Errorf("%d sockets, %v", sockets, err)
			}
			if info, err := os.Stat(filepath.Dir(run)); err != nil || info.Mode().Perm()&0o066 != 0 {
				t.Errorf("the directory above: %v, %v", info.Mode(), err)
			}
		})
	}
}

// TestSocketElsewhere (DRILLS E6.6): a plugin that calls somebody else's socket its own, by its path, by a link or by a way that
// climbs through one, is not started, or not asked there: the server would write there what others send.
func TestSocketElsewhere(t *testing.T) {
	for name, want := range map[string]string{
		"raw-elsewhere-path": "lane_socket", "raw-elsewhere-link": "lane_socket", "raw-elsewhere-climb": "",
		"elsewhere-path": "not in the directory", "elsewhere-link": "calls its socket is none", "elsewhere-climb": "the plugin's socket",
	} {
		t.Run(name, func(t *testing.T) {
			var reached chan bool
			h := newHarness(t, name, func(_ *Config, o *Options) { _, reached = otherSocket(t, o) })
			err := h.host.WaitReady(t.Context())
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%v, expected %q", err, want)
			}
			if err := h.host.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if len(reached) > 0 {
				t.Errorf("the other socket was connected to %d times", len(reached))
			}
		})
	}
}

// otherSocket is one beside the plugin's files, and tells when somebody connects.
func otherSocket(t *testing.T, o *Options) (path string, reached chan bool) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(o.StateDir, "t"), 0o700); err != nil {
		t.Fatal(err)
	}
	path, reached = filepath.Join(o.StateDir, "t", "other"), make(chan bool, 100)
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			reached <- true
			conn.Close()
		}
	}()
	return path, reached
}

// TestSocketReplaced (DRILLS E6.6): nor is a link followed that a plugin puts in the place of its socket when it runs.
func TestSocketReplaced(t *testing.T) {
	var other string
	var reached chan bool
	h := newHarness(t, "plain", func(_ *Config, o *Options) { other, reached = otherSocket(t, o) })
	h.ready(t)
	if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
		t.Fatalf("%+v %q", v, kind)
	}
	proc, err := h.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{proc.direct, proc.links.socket} {
		if err := errors.Join(os.Remove(socket), os.Symlink(other, socket)); err != nil {
			t.Fatal(err)
		}
	}
	proc.cut(t)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, _, err := h.Ask(ctx, message("hello")); err == nil {
			t.Error("it was asked")
		}
		cancel()
	}
	if len(reached) > 0 {
		t.Errorf("the other socket was connected to %d times", len(reached))
	}
}

// elsewhere returns, in a plugin, a path to the socket in its state directory, which is not its own.
func elsewhere(how string) string {
	own, other := os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), os.Getenv("HOME")
	switch how {
	case "link":
		if err := os.Symlink(filepath.Join(other, "other"), filepath.Join(own, "link")); err != nil {
			panic(err)
		}
		return filepath.Join(own, "link")
	case "climb": // link leads to a directory whose parent has the socket
		if err := os.Mkdir(filepath.Join(other, "below"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			panic(err)
		}
		if err := os.Symlink(filepath.Join(other, "below"), filepath.Join(own, "link")); err != nil {
			panic(err)
		}
		return own + "/link/../other"
	}
	return filepath.Join(other, "other")
}

// badStart is, in a plugin, what some write in place of the line of the handshake.
func badStart(name string) {
	if how, ok := strings.CutPrefix(name, "elsewhere-"); ok {
		fmt.Printf("1|1|unix|%s|grpc\n", elsewhere(how))
		time.Sleep(time.Hour)
	}
	text, ok := map[string]string{
		"endless-line": "x", "endless-lines": "hello\n", "endless-nul": "\x00", "endless-numbers": "1|1|unix|",
	}[name]
	for ok {
		if _, err := os.Stdout.WriteString(strings.Repeat(text, 1000)); err != nil {
			os.Exit(1)
		}
	}
}

// TestEndlessHandshake (DRILLS E6.6): what never ends, or is not text, in place of the line of the handshake ends the start soon,
// and costs next to nothing.
func TestEndlessHandshake(t *testing.T) {
	for _, name := range []string{"endless-line", "endless-lines", "endless-nul", "endless-numbers"} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			h := newHarness(t, name, nil)
			err := h.host.WaitReady(t.Context())
			if err == nil || len(err.Error()) > 16<<10 || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\x00\n\x1b") {
				t.Errorf("%.500v", err)
			}
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("after %v: only the time for the start has ended it", took)
			}
			if err := h.host.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%d MB were allocated", grown>>20)
			}
			if log := h.log.String(); len(log) > 1<<20 {
				t.Errorf("%d octets of log", len(log))
			}
		})
	}
}
