package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

// TestMain lets the test binary be what sluice is: the wrapper of plugins, and the plugins.
func TestMain(m *testing.M) {
	if len(os.Args) >= 4 && os.Args[1] == "plugin" {
		switch os.Args[2] {
		case "exec":
			os.Exit(Exec(os.Stderr))
		case "run":
			runTestPlugin(os.Args[3])
		}
		return
	}
	if dir := os.Getenv("SLUICE_TEST_HOST"); dir != "" {
		hostForKill(dir)
		return
	}
	os.Exit(m.Run())
}

// runTestPlugin is the main function of the plugins of these tests.
func runTestPlugin(name string) {
	switch name {
	case "garbage":
		fmt.Println("hello, I am a plugin and I like to talk")
	case "silent":
		time.Sleep(time.Hour)
	case "exits":
		fmt.Fprintln(os.Stderr, "no licence file")
		os.Exit(3)
	case "flood":
		for range 5000 {
			fmt.Fprintln(os.Stderr, `{"@message":1}`)
		}
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20)+"\x1b[31m")
	}
	badStart(name)
	if strings.HasPrefix(name, "raw-") {
		(&rawPlugin{name: name}).main()
		return
	}
	serve.Main(&testPlugin{name: name})
}

// testPlugin does what the message says: a line "do: WORD ARGUMENT" at its beginning.
type testPlugin struct {
	name  string
	asked atomic.Int64
	state *os.File // it holds a lock
}

func (p *testPlugin) Describe() sdk.Manifest {
	m := sdk.Manifest{
		Name: "test", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Changes: []sdk.ChangeKind{sdk.AddField},
	}
	switch p.name {
	case "header":
		m.Want = sdk.WantHeader
	case "envelope", "none":
		m.Want = sdk.WantNone
	case "one":
		m.MaxLanes = 1
	case "two":
		m.MaxLanes = 2
	case "overlap", "overlap2":
		m.Overlap = true
	case "checks":
		m.CheckOnly = true
	case "all":
		m.Phases = []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute}
		m.Events = []sdk.EventKind{sdk.EventDelivered, sdk.EventLearnSpam, sdk.EventCommand}
		m.Parsed, m.MaxContent = true, 1000
		m.Changes = []sdk.ChangeKind{sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveRecipient, sdk.ChangeSender}
	}
	if strings.HasSuffix(p.name, "2") {
		m.Version = "2"
	}
	return m
}

func (p *testPlugin) Configure(_ context.Context, s sdk.Settings) error {
	switch s.Config["configure"] {
	case "hang":
		time.Sleep(time.Hour)
	case "crash":
		fmt.Fprintln(os.Stderr, "out of luck")
		os.Exit(3)
	case "look": // at what a check gives it
		entries, _ := os.ReadDir(s.StateDir)
		return fmt.Errorf("check %v, %d files, %v", s.CheckOnly, len(entries), os.WriteFile(filepath.Join(s.StateDir, "x"), nil, 0o600))
	}
	if _, broken := s.Config["broken"]; broken {
		return errors.New("the licence has expired")
	}
	if _, err := os.Stat(filepath.Join(s.StateDir, "locked")); err == nil {
		return &sdk.Unready{Err: errors.New("open the state: another process holds it")}
	}
	if _, held := s.Config["hold"]; held { // its state, until the process ends
		file, err := os.Create(filepath.Join(s.StateDir, "held"))
		if err == nil {
			err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err != nil {
			return &sdk.Unready{Err: fmt.Errorf("open the state: %w", err)}
		}
		p.state = file
	}
	if how, ok := s.Config["behave"].(string); ok {
		p.name += how
	}
	if _, bad := s.Config["bad"]; bad {
		return errors.Join(&sdk.SettingError{Key: "bad", Problem: "is bad"}, &sdk.SettingError{Key: "worse.still", Problem: "is worse"})
	}
	return nil
}

func (p *testPlugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	switch {
	case m.Phase == sdk.PhaseEvent:
		return p.event(ctx, m)
	case strings.HasSuffix(p.name, "wait"): // behave = "wait"
		<-ctx.Done()
		return sdk.Verdict{}, ctx.Err()
	case strings.HasSuffix(p.name, "junk"):
		return sdk.Verdict{Action: sdk.Junk}, nil
	case strings.HasSuffix(p.name, "die"):
		os.Exit(3)
	case m.Phase != sdk.PhaseContent:
		return sdk.Verdict{Tags: map[string]string{"phase": string(m.Phase)}, Route: routeIn(m)}, nil
	}
	if strings.HasPrefix(p.name, "crash-always") {
		os.Exit(7)
	}
	if strings.HasPrefix(p.name, "count") {
		n, err := io.Copy(io.Discard, m.Content)
		return sdk.Verdict{Score: float64(n)}, err
	}
	first := make([]byte, 256)
	n, err := m.Content.Read(first)
	if err != nil && err != io.EOF {
		return sdk.Verdict{}, err
	}
	line, _, _ := strings.Cut(string(first[:n]), "\r\n")
	command, argument, _ := strings.Cut(strings.TrimPrefix(line, "do: "), " ")
	switch command {
	case "crash":
		os.Exit(9)
	case "parsed":
		parsed, err := m.Parsed()
		if err != nil {
			return sdk.Verdict{}, err
		}
		return sdk.Verdict{Tags: map[string]string{"type": parsed.Parts[0].Type}, Score: float64(n)}, nil
	case "body":
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.ReplaceBody, Body: strings.NewReader(strings.Repeat(argument, 1<<20))}}}, nil
	case "body-empty":
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.ReplaceBody, Body: strings.NewReader("")}}}, nil
	case "version":
		time.Sleep(50 * time.Millisecond)
		return sdk.Verdict{Tags: map[string]string{"version": p.Describe().Version, "pid": fmt.Sprint(os.Getpid())}}, nil
	case "panic":
		panic("at the disco")
	case "hang":
		time.Sleep(time.Hour)
	case "sleep": // deaf to ctx
		d, _ := time.ParseDuration(argument)
		time.Sleep(d)
	case "wait": // until cancelled
		<-ctx.Done()
		return sdk.Verdict{}, ctx.Err()
	case "early":
		return sdk.Verdict{Action: sdk.Reject}, nil
	case "error":
		return sdk.Verdict{}, errors.New("line one\nline two")
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(time.Second) // it may take another thread a moment to see the signal
	case "print":
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "on stderr")
	case "env":
		return sdk.Verdict{Tags: map[string]string{"env": strings.Join(os.Environ(), " ")}}, nil
	case "read":
		octets, err := os.ReadFile(argument)
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "READ", Text: fmt.Sprint(len(octets), err)}}}, nil
	case "attack":
		server := os.Getppid()
		seize := unix.PtraceSeize(server)
		var limit syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &limit)
		privileges, _ := os.ReadFile("/proc/self/status")
		return sdk.Verdict{Tags: map[string]string{
			"signal": fmt.Sprint(syscall.Kill(server, 0)), "ptrace": fmt.Sprint(seize),
			"write": fmt.Sprint(os.WriteFile(argument, []byte("x"), 0o600)),
			"own":   fmt.Sprint(os.WriteFile(os.Getenv("HOME")+"/x", nil, 0o600), os.WriteFile(os.Getenv("TMPDIR")+"/x", nil, 0o600)),
			"core":  fmt.Sprint(limit.Max),
			"nonew": fmt.Sprint(strings.Contains(string(privileges), "NoNewPrivs:\t1")),
		}}, nil
	case "who":
		groups, _ := os.Getgroups()
		status, _ := os.ReadFile("/proc/self/status")
		caps := ""
		for line := range strings.Lines(string(status)) {
			if name, value, _ := strings.Cut(line, ":"); name == "CapEff" || name == "CapPrm" || name == "CapAmb" || name == "CapInh" {
				caps += strings.TrimSpace(value) + " "
			}
		}
		var limit syscall.Rlimit
		_ = syscall.Getrlimit(unix.RLIMIT_NPROC, &limit)
		wd, _ := os.Getwd()
		return sdk.Verdict{Tags: map[string]string{
			"ids": fmt.Sprint(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid(), groups), "caps": caps, "tasks": fmt.Sprint(limit.Max), "dir": wd,
			"root": fmt.Sprint(syscall.Setuid(0)),
			"own":  fmt.Sprint(os.WriteFile(os.Getenv("HOME")+"/x", nil, 0o666), os.WriteFile(os.Getenv("TMPDIR")+"/x", nil, 0o666)),
		}}, nil
	case "bomb": // children until there are enough, or no more
		var n, failed int
		var last error
		for n < 1200 && failed < 20 {
			child := exec.Command("/bin/sleep", "1000")
			if err := child.Start(); err != nil {
				failed, last = failed+1, err
				continue
			}
			n++
		}
		return sdk.Verdict{Score: float64(n), Reasons: []sdk.Reason{{Symbol: "BOMB", Text: fmt.Sprint(last)}}}, nil
	case "allocate":
		var all [][]byte
		for range 10 << 10 / 16 { // 10 GB
			piece := make([]byte, 16<<20)
			for i := 0; i < len(piece); i += 4096 {
				piece[i] = 1
			}
			all = append(all, piece)
		}
		return sdk.Verdict{Score: float64(len(all))}, nil
	case "fill": // one file
		f, err := os.Create(os.Getenv("TMPDIR") + "/fill")
		if err != nil {
			return sdk.Verdict{}, err
		}
		defer f.Close()
		err = f.Truncate(2 << 30)
		_, err2 := f.WriteAt([]byte("x"), 1<<30)
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "FILL", Text: fmt.Sprint(err, err2)}}}, nil
	case "fork", "daemon", "hidden":
		child := exec.Command("/bin/sleep", "1000")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: command != "fork"}
		if command == "hidden" {
			child.Env = []string{"A=b"}
		}
		err := child.Start()
		return sdk.Verdict{Tags: map[string]string{"pid": fmt.Sprint(child.Process.Pid)}}, err
	default:
		if v, ok := replies()[command]; ok {
			return v, nil
		}
		if v, ok := verdicts()[command]; ok {
			return v, nil
		}
	}
	if _, err := io.Copy(io.Discard, m.Content); err != nil {
		return sdk.Verdict{}, err
	}
	return sdk.Verdict{Score: 1, Reasons: []sdk.Reason{{Symbol: "SEEN", Score: 1}}, Tags: map[string]string{"id": m.ID}}, nil
}

// event counts what it is told, and says so when it is commanded to.
func (p *testPlugin) event(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	switch {
	case m.Event.Kind != sdk.EventCommand:
		n, err := io.Copy(io.Discard, m.Content)
		p.asked.Add(1)
		if m.Event.Text == "crash" {
			os.Exit(9)
		}
		return sdk.Verdict{Score: float64(n)}, err
	case m.Event.Words[0] == "sleep":
		time.Sleep(300 * time.Millisecond)
	}
	return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "COUNT", Text: fmt.Sprint(p.asked.Load())}}}, nil
}

func routeIn(m *sdk.Message) *sdk.Route {
	if m.Phase == sdk.PhaseRoute || strings.HasPrefix(m.Sender, "route@") {
		return &sdk.Route{To: []string{"elsewhere@example.test"}}
	}
	return nil
}

// harness is a host with one plugin named "t".
type harness struct {
	*Plugin
	host *Host
	log  *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHarness(t testing.TB, builtin string, change func(*Config, *Options)) *harness {
	t.Helper()
	log := &logBuffer{}
	o := Options{
		Logger:   slog.New(slog.NewTextHandler(log, nil)),
		Builtins: []string{builtin}, StateDir: t.TempDir(), Dir: t.TempDir(), StartTimeout: 10 * time.Second,
	}
	c := DefaultConfig()
	c.Name, c.Builtin, c.Timeout = "t", builtin, units.Of(5*time.Second)
	if change != nil {
		change(&c, &o)
	}
	h := New(o)
	if err := h.Start(context.Background(), []Config{c}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = h.Stop(ctx)
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return &harness{h.Plugin("t"), h, log}
}

func (h *harness) ready(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.host.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// message makes a question about a text.
func message(text string) *Question { return messageOf([]byte(text)) }

func messageOf(octets []byte) *Question {
	return &Question{
		Envelope: sdk.Envelope{
			ID: "Q1", Origin: sdk.Stranger, Sender: "a@example.org", ClientAddr: "192.0.2.1", Helo: "h\xff",
			Recipients: []sdk.Recipient{{Address: "alice@example.test", Accounts: []string{"alice@example.test"}}, {Address: "bob@example.test"}},
		},
		Size:       int64(len(octets)),
		HeaderSize: int64(max(bytes.Index(octets, []byte("\r\n\r\n"))+4, 0)),
		Open:       func() (io.Reader, error) { return bytes.NewReader(octets), nil },
		Key:        func() [32]byte { return sha256.Sum256(octets) },
	}
}

func (h *harness) ask(t testing.TB, q *Question) (sdk.Verdict, Kind) {
	t.Helper()
	v, _, err := h.Ask(context.Background(), q)
	if err != nil && kindOf(err) == "" {
		t.Fatalf("an error of Ask that is no *Failure: %v", err)
	}
	if err != nil {
		t.Log(err)
	}
	return v, kindOf(err)
}

func eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	end := time.Now().Add(within)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// goroutines waits for the number of goroutines to come down to what it was.
func goroutines(t testing.TB, before int) {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, were %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func digestOf(t *testing.T, name string) string {
	octets, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(octets))
}

// lineLog is a slog.Handler that keeps the text of what plugins said.
type lineLog []string

func (l *lineLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *lineLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lineLog) WithGroup(string) slog.Handler            { return l }
func (l *lineLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "text" {
			*l = append(*l, a.Value.String())
		}
		return true
	})
	return nil
}
