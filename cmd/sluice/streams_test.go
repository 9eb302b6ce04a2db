package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// failing takes so many octets, and then no more.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	n := min(f.room, len(p))
	f.room -= n
	if n < len(p) {
		return n, f.err
	}
	return n, nil
}

// TestOutputFails: what could not be written is no success, in commands that look at what Write returns and in those
// that don't; that nobody reads on needs no words.
func TestOutputFails(t *testing.T) {
	name := writeConfig(t, testConfig)
	for _, args := range []string{"version", "--help", "user list", "dkim show", "check --no-plugins", "dns example.test", "queue hold --all", "trace"} {
		for _, c := range []struct {
			err  error
			want string
		}{{syscall.ENOSPC, "sluice: no space left on device\n"}, {syscall.EPIPE, ""}} {
			var stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stdout: &failing{room: 3, err: c.err}, stderr: &stderr}
			code := a.run(t.Context(), append([]string{"--config", name}, strings.Fields(args)...))
			if code != exitFailed || stderr.String() != c.want {
				t.Errorf("sluice %s, %v: status %d, %q; want 1, %q", args, c.err, code, stderr.String(), c.want)
			}
		}
	}
}

// TestInput: whoever waits for standard input ends with the context, and reads what comes before that.
func TestInput(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in := &input{ctx, r}
	go func() { _, _ = w.Write([]byte("some")) }()
	buf := make([]byte, 8)
	if n, err := in.Read(buf); string(buf[:n]) != "some" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	time.AfterFunc(20*time.Millisecond, cancel) // and the pipe stays open
	if text, err := io.ReadAll(in); len(text) != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", text, err)
	}
	if n, err := in.Read(make([]byte, 8)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %d, %v", n, err)
	}
	all, err := io.ReadAll(&input{t.Context(), strings.NewReader(strings.Repeat("x", 200_000))})
	if err != nil || len(all) != 200_000 {
		t.Errorf("%d, %v", len(all), err)
	}
}

// TestInterrupted: Ctrl-C ends commands that wait for standard input.
func TestInterrupted(t *testing.T) {
	name := writeConfig(t, testConfig)
	for _, args := range []string{"user add bob@example.test --password-stdin", "report show -"} {
		r, w := io.Pipe()
		defer w.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var out, stderr bytes.Buffer
		done := make(chan int, 1)
		go func() {
			a := &app{stdin: r, stdout: &out, stderr: &stderr}
			done <- a.run(ctx, append([]string{"--config", name}, strings.Fields(args)...))
		}()
		select {
		case code := <-done:
			if code != exitFailed || stderr.Len() == 0 || strings.Contains(out.String(), "no reports") {
				t.Errorf("%s: %d, %q, %q", args, code, out.String(), stderr.String())
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s waits on", args)
		}
	}
}

// TestReportNothingThere: a place that can't be looked into is not one without reports.
func TestReportNothingThere(t *testing.T) {
	name := writeConfig(t, testConfig)
	for _, args := range [][]string{{"report", "show", filepath.Join(t.TempDir(), "absent")}, {"report", "show", "--account", "nobody@example.test"}} {
		code, stdout, stderr := sluice(t, "", append([]string{"--config", name}, args...)...)
		if code != exitFailed || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if code, stdout, _ := sluice(t, "", "--config", name, "trace"); code != exitDone || stdout != "there are no traces: no message has come yet\n" {
		t.Errorf("trace: %d, %q", code, stdout)
	}
}
