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
	"syscall"
	"time"
)

// ErrNotRunning is the cause when nobody answers on the socket: the caller opens the store itself.
var ErrNotRunning = errors.New("the server is not running")

// maxItem bounds one line of an answer.
const maxItem = 64 << 20

// Client asks the server whose data_dir is dir.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client; it connects with each call.
func NewClient(dir string) *Client {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, dir)
		},
	}
	return &Client{dir: dir, http: &http.Client{Transport: transport}}
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
// nobody answers, the handler's words when it failed, and each's own error when that ended the call.
func (c *Client) Call(ctx context.Context, name string, request any, each func(item json.RawMessage) error) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sluice/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	answer, err := c.http.Do(post)
	if errors.Is(err, ErrNotRunning) {
		return ErrNotRunning
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
	return read(answer.Body, each)
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

func read(body io.Reader, each func(json.RawMessage) error) error {
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
		case each != nil:
			if err := each(l.Item); err != nil {
				return err
			}
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
