package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the socket's name in data_dir.
const Socket = "control.sock"

const maxRequest = 16 << 20

// beat is how often a server that works on an answer says that it does.
const beat = 5 * time.Second

// Handler answers one kind of request. emit sends one item to the client and fails when it is gone; it may be called from
// one goroutine at a time. ctx ends when the client goes away or the server stops. The error's text is shown to the
// person who typed the command.
type Handler func(ctx context.Context, request json.RawMessage, emit func(item any) error) error

// Server answers requests on data_dir's socket.
type Server struct {
	dir      string
	logger   *slog.Logger
	mu       sync.Mutex
	handlers map[string]Handler
	http     *http.Server
	done     chan struct{} // closed when nobody listens any more
	beat     time.Duration
}

// NewServer returns a server for the socket in dir.
func NewServer(dir string, logger *slog.Logger) *Server {
	return &Server{dir: dir, logger: logger, handlers: make(map[string]Handler), beat: beat}
}

// Handle registers the handler of a name. Names are path segments: "user.add", "queue.list".
func (s *Server) Handle(name string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[name] = h
}

// Typed makes a Handler of a function with a request of its own type; unknown fields are an error, because the client and
// the server may be of different versions.
func Typed[T any](h func(ctx context.Context, request T, emit func(item any) error) error) Handler {
	return func(ctx context.Context, raw json.RawMessage, emit func(any) error) error {
		var request T
		dec := json.NewDecoder(strings.NewReader(string(raw)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&request); err != nil {
			return fmt.Errorf("the request is not understood: %w; are the command and the server of the same version?", err)
		}
		return h(ctx, request, emit)
	}
}

// Start opens the socket and answers in the background. The caller holds the lock of dir, so a socket that is there
// already has been left behind.
func (s *Server) Start(ctx context.Context) error {
	l, err := listen(s.dir)
	if err != nil {
		return err
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done) // the listener is closed now
		if err := s.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("control socket", "err", err)
		}
	}()
	return nil
}

// Stop closes the socket and waits for running requests until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	if s.http == nil {
		return nil
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.done
	return err
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	s.mu.Lock()
	h := s.handlers[name]
	s.mu.Unlock()
	switch {
	case !ok || h == nil:
		http.Error(w, fmt.Sprintf("this server has no %q", name), http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lines{enc: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
	defer out.keepAlive(s.beat)()
	if err := s.call(r.Context(), h, name, request, out); err != nil {
		_ = out.put(line{Error: err.Error()})
		return
	}
	_ = out.put(line{End: true})
}

// call runs a handler. A panic in one is net/http's to recover and log; the client sees that its answer was cut off.
func (s *Server) call(ctx context.Context, h Handler, name string, request json.RawMessage, out *lines) error {
	return h(ctx, request, func(item any) error {
		raw, err := json.Marshal(item)
		if err != nil {
			return fmt.Errorf("encode an answer of %s: %w", name, err)
		}
		return out.put(line{Item: raw})
	})
}

// line is one line of an answer.
type line struct {
	Item  json.RawMessage `json:"item,omitempty"`
	Error string          `json:"error,omitempty"`
	End   bool            `json:"end,omitempty"`
	Alive bool            `json:"alive,omitempty"` // nothing new
}

type lines struct {
	mu    sync.Mutex
	enc   *json.Encoder
	flush func() error
}

func (l *lines) put(v line) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	return l.flush()
}

// keepAlive says at once, and then every so often, that the answer is being worked on, until stop is called. A line that
// comes behind the last one is not read.
func (l *lines) keepAlive(every time.Duration) (stop func()) {
	_ = l.put(line{Alive: true})
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.C:
				if l.put(line{Alive: true}) != nil { // nobody listens: the handler hears it too
					return
				}
			}
		}
	}()
	return func() {
		close(end)
		<-done // w must not be used after the handler's return
	}
}

// listen makes the socket.
func listen(dir string) (net.Listener, error) {
	path, done, err := reach(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	// The directory's descriptor closes with this function, so the path would no longer lead to the socket at Close; the next
	// start removes it, and a client that finds nobody behind it takes the lock instead.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect the control socket: %w", err)
	}
	return &guarded{l}, nil
}

// guarded lets in root and the user that this process runs as, but none of our plugins.
type guarded struct{ *net.UnixListener }

func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		who, err := peer(conn)
		if err == nil && (who.Uid == 0 || who.Uid == uint32(os.Geteuid())) && !confined(who) {
			return conn, nil
		}
		conn.Close()
	}
}

// peer returns who is at the other end.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}
