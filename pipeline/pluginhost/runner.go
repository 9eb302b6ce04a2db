package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxHandshake bounds the handshake line, in octets.
const maxHandshake = 4 << 10

// runner is go-plugin's runner.Runner: it starts the process and owns its pipes,
// so that go-plugin never sees what the plugin writes to standard error. (Its parser
// panics on the line {"@message":1}: log_entry.go:48 of v1.8.0, in a goroutine that
// nobody recovers.) Of standard output go-plugin sees the first line alone; longer lines than
// 64 KiB would end its reader and block the plugin.
type runner struct {
	cmd       *exec.Cmd
	socketDir string
	threads   *starter
	output    *output
	group     *cgroup  // nil: none
	groupDir  *os.File // until the start

	stdout, stderr *io.PipeReader // go-plugin's ends
	hostEnd        *os.File       // the plugin's standard input: ends when we do
	died           chan struct{}  // closed when the process has ended and was reaped

	mu     sync.Mutex
	pid    int
	reaped bool
	status string // how it ended, after died
	note   func() // called before died is closed
}

func newRunner(cmd *exec.Cmd, socketDir string, threads *starter, out *output) *runner {
	return &runner{cmd: cmd, socketDir: socketDir, threads: threads, output: out, died: make(chan struct{})}
}

// Start implements runner.Runner.
func (r *runner) Start(ctx context.Context) error {
	stdin, hostEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), hostEnd.Close())
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), hostEnd.Close(), outR.Close(), outW.Close())
	}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = stdin, outW, errW
	err = r.threads.do(ctx, r.cmd.Start)
	if r.groupDir != nil {
		_ = r.groupDir.Close()
	}
	_, _, _ = stdin.Close(), outW.Close(), errW.Close()
	if err != nil {
		r.group.end()
		return errors.Join(err, hostEnd.Close(), outR.Close(), errR.Close())
	}
	r.mu.Lock()
	r.hostEnd, r.pid = hostEnd, r.cmd.Process.Pid
	r.mu.Unlock()
	var first, none *io.PipeWriter
	r.stdout, first = io.Pipe()
	r.stderr, none = io.Pipe()
	var reading sync.WaitGroup
	reading.Add(2)
	go func() {
		defer reading.Done()
		r.output.copy("stdout", handshakeLine(outR, first))
	}()
	go func() {
		defer reading.Done()
		r.output.copy("stderr", errR)
	}()
	go r.reap(outR, errR, &reading, func() { _, _ = first.Close(), none.Close() })
	return nil
}

// handshakeLine gives go-plugin the first line and returns what follows.
func handshakeLine(stdout io.Reader, first *io.PipeWriter) io.Reader {
	var line []byte
	octet := make([]byte, 1) // octet by octet: what follows the line belongs to the log
	for len(line) < maxHandshake {
		n, err := stdout.Read(octet)
		if n == 1 {
			line = append(line, octet[0])
		}
		if err != nil || octet[0] == '\n' {
			break
		}
	}
	_, _ = first.Write(bytes.TrimRight(line, "\n"))
	_ = first.Close()
	return stdout
}

// awaitDeath is called when a stream has ended. It reports whether the process died, and has waited until that is told. On a busy
// machine this comes late: what the kernel says decides, or a crash would pass for an error of a plugin that lives.
func (r *runner) awaitDeath(giveUp <-chan struct{}) bool {
	select {
	case <-r.died:
		return true
	case <-time.After(deathTime):
	case <-giveUp:
	}
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, r.pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	if err == nil && info.Signo == 0 {
		return false // it runs
	}
	select {
	case <-r.died:
		return true
	case <-time.After(10 * deathTime): // its last words are bounded in time; this is not to be reached
		return false
	}
}

// reap waits for the process, ends what is left of its group while its number
// can't have been given to another, and closes the pipes: children that left the
// group may hold them open for ever.
func (r *runner) reap(outR, errR *os.File, reading *sync.WaitGroup, closePipes func()) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, r.pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-r.pid, unix.SIGKILL)
	err := r.cmd.Wait()
	r.group.end()
	r.mu.Lock()
	r.reaped = true
	r.status = "exit status 0"
	if err != nil {
		r.status = err.Error()
	}
	r.mu.Unlock()
	quiet := make(chan struct{})
	go func() {
		reading.Wait()
		close(quiet)
	}()
	select { // the last words are in the pipes already
	case <-quiet:
	case <-time.After(200 * time.Millisecond):
	}
	_, _, _ = outR.Close(), errR.Close(), r.hostEnd.Close()
	closePipes()
	<-quiet
	r.output.flush()
	endOrphans(r.socketDir)
	_ = os.RemoveAll(r.socketDir)
	r.mu.Lock()
	if r.note != nil {
		r.note()
	}
	close(r.died)
	r.mu.Unlock()
}

// beforeTold sets what is called once before died is closed.
func (r *runner) beforeTold(note func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note = note
}

// ending says how the process has ended, or "it runs" while it does.
func (r *runner) ending() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.reaped {
		return "it runs"
	}
	return r.status
}

// isReaped reports whether the process has ended and its directory is being removed, or was.
func (r *runner) isReaped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reaped
}

// Wait implements runner.AttachedRunner.
func (r *runner) Wait(ctx context.Context) error {
	select {
	case <-r.died:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill implements runner.AttachedRunner: SIGKILL for the whole group.
func (r *runner) Kill(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pid == 0 || r.reaped {
		return nil
	}
	return unix.Kill(-r.pid, unix.SIGKILL)
}

// waitDead waits for the end of a process that was killed. One that the kernel
// can't end (stuck in a device) is left to itself after five seconds.
func (r *runner) waitDead() {
	r.mu.Lock()
	pid := r.pid
	r.mu.Unlock()
	if pid == 0 { // never started
		_ = os.RemoveAll(r.socketDir)
		return
	}
	select {
	case <-r.died:
	case <-time.After(5 * time.Second):
	}
}

// Stdout, Stderr, Name, ID and Diagnose implement runner.Runner.
func (r *runner) Stdout() io.ReadCloser { return r.stdout }

// Stderr returns a stream that is empty until the process ends.
func (r *runner) Stderr() io.ReadCloser { return r.stderr }

// Name returns the program.
func (r *runner) Name() string { return r.cmd.Path }

// ID returns the process ID.
func (r *runner) ID() string { return strconv.Itoa(r.pid) }

// Diagnose has nothing to add: the plugin's last words are in the start error.
func (r *runner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.AddrTranslator: a plugin's socket lies in the
// directory that it was given, and a TCP port is open to everybody on the machine.
func (r *runner) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" {
		return "", "", fmt.Errorf("the plugin listens on %q, expected a unix socket", network)
	}
	path, err := ownPath(r.socketDir, address)
	if err != nil {
		return "", "", fmt.Errorf("the plugin's socket %.100q: %w", address, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return "", "", fmt.Errorf("the plugin's socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return "", "", errNoSocket
	}
	return network, path, nil
}

// HostToPlugin implements runner.AddrTranslator.
func (r *runner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// starter runs functions on one operating-system thread that lives as long as the
// host: PR_SET_PDEATHSIG kills a child when the thread that started it ends, and
// Go ends threads when it likes.
type starter struct {
	work chan func()
}

func (s *starter) do(ctx context.Context, start func() error) error {
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- start() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// environment is what a plugin may know of ours: enough to find programs,
// certificates, the language and the time zone. Secrets of the server stay with
// the server.
func environment(stateDir, tempDir string) []string {
	env := []string{"HOME=" + stateDir, "TMPDIR=" + tempDir}
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	env = append(env, "PATH="+path)
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		switch {
		case name == "TZ", name == "LANG", strings.HasPrefix(name, "LC_"),
			name == "SSL_CERT_FILE", name == "SSL_CERT_DIR":
			env = append(env, pair)
		}
	}
	return env
}
