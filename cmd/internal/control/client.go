package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrNotRunning is the cause when nobody answers on the socket: the caller opens the store itself.
var ErrNotRunning = errors.New("the server is not running")

// ErrSilent is the cause when a server that is there says nothing at all: its process is stopped, or stuck.
var ErrSilent = errors.New("the server does not answer")

// patience is how long a client waits for the next octet of an answer. A server that works on it sends one every few
// seconds.
const patience = 3 * beat

// maxItem bounds one line of an answer.
const maxItem = 64 << 20

// Client asks the server whose data_dir is dir.
type Client struct {
	dir      string
	http     *http.Client
	patience time.Duration
	server   atomic.Int32 // process ID of who listens; 0: not known
}

// NewClient returns a client; it connects with each call.
func NewClient(dir string) *Client {
	c := &Client{dir: dir, patience: patience}
	c.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx, dir)
			if u, ok := conn.(*net.UnixConn); ok && err == nil {
				if who, err := peer(u); err == nil { // of who called listen(2), see unix(7)
					c.server.Store(who.Pid)
				}
			}
			return conn, err
		},
	}}
	return c
}

// Running reports whether a server answers.
func (c *Client) Running(ctx context.Context) bool {
	conn, err := dial(ctx, c.dir)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Call sends a request and hands each item of the answer to each, which may be nil. The error is ErrNotRunning when
// nobody answers, ErrSilent when somebody is there and does not, the handler's words when it failed, and each's own error
// when that ended the call.
func (c *Client) Call(ctx context.Context, name string, request any, each func(item json.RawMessage) error) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(c.patience, func() { cancel(ErrSilent) })
	defer quiet.Stop()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sluice/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	answer, err := c.http.Do(post)
	if errors.Is(err, ErrNotRunning) {
		return ErrNotRunning
	}
	if err != nil && (context.Cause(ctx) == ErrSilent || isTimeout(err)) {
		return c.silent()
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("the server hung up; its log may say why (it talks neither to its plugins nor to processes with no_new_privs): %w", err)
	}
	if err != nil {
		var wrapped *url.Error // its words are about a URL that nobody knows
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("ask the server: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return errors.New(strings.TrimSpace(string(text)))
	}
	err = read(answer.Body, func(l *line) error {
		quiet.Stop() // what the caller does with an item is no silence of the server's
		defer quiet.Reset(c.patience)
		if l.Alive || each == nil {
			return nil
		}
		return each(l.Item)
	})
	if err != nil && context.Cause(ctx) == ErrSilent {
		return c.silent()
	}
	return err
}

// isTimeout reports that not even a connection was to be had: who stands in the queue before a server that does not
// accept any (unix(7)).
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func (c *Client) silent() error {
	who := ""
	if pid := c.server.Load(); pid > 0 {
		who = fmt.Sprintf(" (process %d)", pid)
	}
	return fmt.Errorf("%w: it is there%s, but nothing came from it for %v; its process may be stopped, or wait for its disk", ErrSilent, who, c.patience)
}

// Get is Call for an answer of exactly one item.
func Get[T any](ctx context.Context, c *Client, name string, request any) (T, error) {
	var out T
	found := false
	err := c.Call(ctx, name, request, func(item json.RawMessage) error {
		found = true
		return json.Unmarshal(item, &out)
	})
	if err == nil && !found {
		err = fmt.Errorf("the server's answer to %s is empty", name)
	}
	return out, err
}

func read(body io.Reader, each func(*line) error) error {
	in := bufio.NewReaderSize(body, 64<<10)
	for {
		raw, err := readLine(in)
		if err != nil {
			return fmt.Errorf("the server went away before it had answered: %w", err)
		}
		var l line
		if err := json.Unmarshal(raw, &l); err != nil {
			return fmt.Errorf("the server's answer is not understood: %w", err)
		}
		switch {
		case l.Error != "":
			return errors.New(l.Error)
		case l.End:
			return nil
		}
		if err := each(&l); err != nil {
			return err
		}
	}
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var whole []byte
	for {
		part, err := in.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case err == nil:
			return whole, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		case len(whole) > maxItem:
			return nil, errors.New("a line of the answer is too long")
		}
	}
}

// dial connects to the socket. Absent and refused both mean that no server runs.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	path, done, err := reach(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	defer done()
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNotRunning
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("the control socket in %s is not ours to use, run the command as the server's user or as root: %w", dir, err)
	}
	return conn, err
}

// longest is how long the path of a socket may be: sun_path has 108 octets and ends with NUL (unix(7)).
const longest = 107

// reach returns a path for the socket that fits into a socket's address. Where the real one is too long, it goes through a
// descriptor of the directory, which stays open until done is called.
func reach(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, Socket)
	if len(path) <= longest {
		return path, func() {}, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, fmt.Errorf("open data_dir: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), Socket), func() { f.Close() }, nil
}
