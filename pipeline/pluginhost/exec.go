package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// execSpec is what `sluice plugin exec NAME` needs to know: from the host through the
// environment variable of that name, which the plugin does not see.
type execSpec struct {
	Program string   `json:"program"` // absolute
	Args    []string `json:"args"`    // with the program's name
	SHA256  string   `json:"sha256,omitempty"`
	Parent  int      `json:"parent"` // our process ID
	Memory  int64    `json:"memory,omitempty"`
	Read    []string `json:"read,omitempty"`  // beside the system's
	Write   []string `json:"write,omitempty"` // its own directories
	Dir     string   `json:"dir"`             // to work in, if it may
	Umask   int      `json:"umask"`
	Tasks   uint64   `json:"tasks,omitempty"` // processes and threads of its user; 0: no limit
}

// maxTasks is how many processes and threads the user of the plugins may have altogether (RLIMIT_NPROC).
const maxTasks = 1024

const execVariable = "SLUICE_PLUGIN_EXEC"

// self is this program, also after its file was replaced by a newer one.
const self = "/proc/self/exe"

// spec resolves the program of a plugin and checks its files.
func (l *launch) spec() (*execSpec, error) {
	c := l.config
	s := &execSpec{SHA256: c.SHA256, Parent: os.Getpid(), Memory: int64(c.Memory)}
	if c.Builtin != "" {
		s.Program, s.Args = self, []string{"sluice", "plugin", "run", c.Builtin}
	} else {
		program, err := l.resolve(c.Command[0])
		if err != nil {
			return nil, &badSettings{&FieldError{Key: "command", Problem: err.Error()}}
		}
		s.Program, s.Args = program, append([]string{program}, c.Command[1:]...)
		for _, arg := range c.Command[1:] { // a script that an interpreter is to run
			if path := l.absolute(arg); !strings.HasPrefix(arg, "-") && isFile(path) {
				s.Read = append(s.Read, path)
			}
		}
	}
	for name, digest := range c.Files {
		path := l.absolute(name)
		if digest != "" {
			if err := checkFile(path, digest); err != nil {
				return nil, &badSettings{&FieldError{Key: "files." + name, Problem: err.Error()}}
			}
		}
		s.Read = append(s.Read, path)
	}
	l.files = fingerprint(append([]string{s.Program}, s.Read...))
	for _, path := range c.Read {
		s.Read = append(s.Read, l.absolute(path))
	}
	return s, nil
}

// fingerprint tells whether files were replaced: a reload starts a plugin anew whose program is another.
func fingerprint(paths []string) string {
	var b strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			continue
		}
		if info.Mode().IsRegular() {
			inode := uint64(0)
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				inode = stat.Ino
			}
			fmt.Fprintf(&b, "%s: %d %d %d\n", path, inode, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

func (l *launch) absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(l.dir, path)
}

func (l *launch) resolve(program string) (string, error) {
	if strings.Contains(program, "/") {
		program = l.absolute(program)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func checkFile(path, digest string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkDigest(f, digest)
}

func checkDigest(r io.Reader, digest string) error {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if have := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(have, digest) {
		return fmt.Errorf("its SHA-256 is %s, expected %s", have, strings.ToLower(digest))
	}
	return nil
}

// command returns the wrapped process, ready to start. handshake is what go-plugin
// puts into the environment.
func (s *execSpec) command(l *launch, handshake []string, socketDir string) (*exec.Cmd, error) {
	tempDir := filepath.Join(socketDir, "tmp")
	if err := os.Mkdir(tempDir, 0o700); err != nil {
		return nil, err
	}
	home := l.stateDir
	if home == "" {
		home = tempDir
	}
	own := *s
	own.Write, own.Dir, own.Umask = []string{socketDir, home}, l.dir, 0o077
	as := l.options.User
	if as != nil {
		own.Umask, own.Tasks = 0o007, maxTasks
		for _, dir := range []string{socketDir, tempDir} {
			if err := share(dir, as); err != nil {
				return nil, err
			}
		}
	}
	text, err := json.Marshal(&own)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "plugin", "exec", l.config.Name)
	cmd.Args[0] = "sluice"
	cmd.Env = append(environment(home, tempDir), handshake...)
	cmd.Env = append(cmd.Env, "SLUICE_WATCH_STDIN=1", execVariable+"="+string(text))
	cmd.Dir = "/"
	cmd.SysProcAttr = processAttributes(as)
	return cmd, nil
}

// Exec is `sluice plugin exec NAME`: the last thing that runs before a plugin. It gives up
// every privilege that a plugin does not need and becomes the plugin. It returns the exit
// status if that failed.
func Exec(stderr io.Writer) int {
	text, ok := os.LookupEnv(execVariable)
	if !ok {
		fmt.Fprintln(stderr, "sluice plugin exec is for the server; to try a plugin use sluice plugin ask")
		return 2
	}
	var spec execSpec
	err := errors.Join(json.Unmarshal([]byte(text), &spec), os.Unsetenv(execVariable))
	if err == nil {
		err = spec.exec(stderr)
	}
	fmt.Fprintf(stderr, "start %s: %v\n", spec.Program, err)
	return 1
}
