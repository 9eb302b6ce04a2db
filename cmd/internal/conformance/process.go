package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk/wire"
)

const (
	startTime    = 10 * time.Second // for handshake, Describe and Configure together (section 1)
	maxHandshake = 4096             // octets of the handshake line
	maxFrame     = 1 << 20          // octets of one PluginFrame (section 11)
)

// process is one run of the plugin.
type process struct {
	cmd       *exec.Cmd
	socketDir string
	stdin     *os.File      // our end; nothing is ever written
	line      chan string   // the first line of standard output; closed without one when it ends
	exited    chan struct{} // closed when it was reaped
	words     words
	fit       bool // configured, and nothing has been done to it that it need not survive

	conn   *grpc.ClientConn
	client wire.PluginClient
	once   sync.Once
}

// start starts the plugin with a handshake environment.
func start(c *pluginhost.Config, dir, stateDir string, environ ...string) (*process, error) {
	socketDir, err := os.MkdirTemp("", "sluice-check-")
	if err != nil {
		return nil, err
	}
	p := &process{socketDir: socketDir, line: make(chan string, 1), exited: make(chan struct{})}
	environ = append([]string{"PLUGIN_UNIX_SOCKET_DIR=" + socketDir, "PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000"}, environ...)
	p.cmd, err = pluginhost.Command(c, dir, stateDir, socketDir, environ)
	if err == nil {
		err = p.run()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(socketDir))
	}
	return p, nil
}

// handshake is the environment of an ordinary start, versions what PLUGIN_PROTOCOL_VERSIONS says.
func handshake(versions string) []string {
	return []string{wire.CookieKey + "=" + wire.CookieValue, "PLUGIN_PROTOCOL_VERSIONS=" + versions}
}

// run starts the process from a thread of its own that lives as long as the process: the kernel kills a plugin when the
// thread that started it ends.
func (p *process) run() error {
	stdin, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	p.stdin, p.cmd.Stdin = ours, stdin
	outR, outW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdin.Close(), ours.Close())
	}
	p.cmd.Stdout, p.cmd.Stderr = outW, &p.words
	p.cmd.WaitDelay = 200 * time.Millisecond
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock it: the thread ends with this goroutine
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.reap()
		}
	}()
	err = <-started
	_, _ = stdin.Close(), outW.Close()
	if err != nil {
		return errors.Join(err, ours.Close(), outR.Close())
	}
	go p.readOutput(outR)
	return nil
}

// reap waits for the end, and ends what is left of the group before its number can be given to another.
func (p *process) reap() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Wait()
	close(p.exited)
}

// readOutput takes the first line for the handshake and keeps the end of the rest.
func (p *process) readOutput(r *os.File) {
	defer r.Close()
	b := bufio.NewReaderSize(r, maxHandshake)
	first, err := b.ReadSlice('\n')
	if err == nil || len(first) > 0 {
		p.line <- string(first)
	}
	close(p.line)
	_, _ = io.Copy(&p.words, b)
}

// greeting waits for the handshake line.
func (p *process) greeting(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.line:
		if !ok {
			return "", errors.New("standard output ended without a line" + p.lastWords())
		}
		return line, nil
	case <-p.exited:
		select {
		case line, ok := <-p.line:
			if ok {
				return line, nil
			}
		case <-time.After(100 * time.Millisecond):
		}
		return "", fmt.Errorf("it ended (%s)%s", p.cmd.ProcessState, p.lastWords())
	case <-ctx.Done():
		return "", fmt.Errorf("no line on standard output within %s%s", startTime, p.lastWords())
	}
}

// socketOf reads a handshake line.
func (p *process) socketOf(line string) (string, error) {
	body, ended := strings.CutSuffix(line, "\n")
	fields := strings.Split(body, "|")
	switch {
	case !ended:
		return "", fmt.Errorf("%.200q, which no line feed ends within %d octets", line, maxHandshake)
	case len(fields) < 5 || fields[0] != "1":
		return "", fmt.Errorf("the line %.200q", line)
	case fields[1] != strconv.Itoa(wire.ProtocolVersion):
		return "", fmt.Errorf("version %.40q of the protocol in %.200q", fields[1], line)
	case fields[2] != "unix" || fields[4] != "grpc":
		return "", fmt.Errorf("the transport %.40q with %.40q in %.200q", fields[2], fields[4], line)
	case len(fields) > 5 && fields[5] != "":
		return "", fmt.Errorf("a certificate in %.200q", line)
	case filepath.Dir(filepath.Clean(fields[3])) != p.socketDir:
		return "", fmt.Errorf("the socket %.200q, not directly in PLUGIN_UNIX_SOCKET_DIR (%s)", fields[3], p.socketDir)
	}
	info, err := os.Lstat(fields[3])
	if err != nil {
		return "", fmt.Errorf("the socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return "", fmt.Errorf("%s is no socket", fields[3])
	}
	return fields[3], nil
}

// connect makes the gRPC connection, with the limits that the server has.
func (p *process) connect(socket string) error {
	conn, err := grpc.NewClient("passthrough:plugin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}),
		grpc.WithInitialWindowSize(256<<10), grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFrame)),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return err
	}
	p.conn, p.client = conn, wire.NewPluginClient(conn)
	return nil
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// waitExit reports whether the process ended by itself in time.
func (p *process) waitExit(limit time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// end kills the process group and removes what is left.
func (p *process) end() {
	p.once.Do(func() {
		if p.conn != nil {
			_ = p.conn.Close()
		}
		if p.alive() {
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		}
		select {
		case <-p.exited:
		case <-time.After(5 * time.Second): // stuck in the kernel
		}
		_, _ = p.stdin.Close(), os.RemoveAll(p.socketDir)
	})
}

// died says how it ended, for reports.
func (p *process) died() string {
	if p.alive() {
		return "the process lives"
	}
	return fmt.Sprintf("the process ended (%s)%s", p.cmd.ProcessState, p.lastWords())
}

func (p *process) lastWords() string {
	time.Sleep(20 * time.Millisecond) // what it wrote last is on its way through a pipe
	if text := p.words.last(); text != "" {
		return "; its last words: " + text
	}
	return ""
}

// peak returns the most memory that the processes of the group that still run have held, in octets.
func (p *process) peak() int64 {
	var sum int64
	group := p.cmd.Process.Pid
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if g, err := syscall.Getpgid(pid); err == nil && g == group {
			sum += highWater(pid)
		}
	}
	return sum
}

func highWater(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}
