package serve

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// direct serves lanes without gRPC (sdk/wire, HostEnd): the same frames over a unix socket
// of its own. A host that does not know them opens streams.
type direct struct {
	server *server
	cancel context.CancelFunc
	ctx    context.Context

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	closed   bool
}

func newDirect(s *server) *direct {
	d := &direct{server: s, conns: make(map[net.Conn]bool)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// listen returns the path of the socket, which is made once, or "" if there can be none.
func (d *direct) listen(dir string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || dir == "" {
		return ""
	}
	if d.listener == nil {
		l, err := (&net.ListenConfig{}).Listen(d.ctx, "unix", filepath.Join(dir, "lanes.sock"))
		if err != nil {
			return "" // streams of gRPC serve as well
		}
		d.listener = l
		go d.accept(l)
	}
	return d.listener.Addr().String()
}

func (d *direct) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go d.serve(wire.Quick(conn))
	}
}

// serve is the handler of one lane.
func (d *direct) serve(conn net.Conn) {
	defer conn.Close()
	if !d.add(conn, true) {
		return
	}
	defer d.add(conn, false)
	if d.server.enter() != nil {
		return // the host sees the end of the connection
	}
	defer d.server.leave(func() { d.server.open-- })
	end := wire.NewPluginEnd(conn)
	if end.Begin() != nil {
		return
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	_ = newLane(&directStream{end, ctx, conn}, d.server.plugin, d.server.parsed, d.server.watch).run()
}

// add counts a connection in or out.
func (d *direct) add(conn net.Conn, in bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !in {
		delete(d.conns, conn)
		return true
	}
	if !d.closed {
		d.conns[conn] = true
	}
	return !d.closed
}

// close ends every lane.
func (d *direct) close() {
	d.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.listener != nil {
		_ = d.listener.Close()
	}
	for conn := range d.conns {
		_ = conn.Close()
	}
}

// directStream is a direct lane as a lane wants it. Its context ends with the process; the end of
// the connection is seen by who reads.
type directStream struct {
	*wire.PluginEnd
	ctx  context.Context
	conn net.Conn
}

// watchEvery is how often the connection is looked at while nobody reads it.
const watchEvery = 100 * time.Millisecond

// watch calls gone when the connection is closed while its reader waits for the plugin, who may wait
// for something else. gRPC would tell.
func (s *directStream) watch(gone func()) (stop func()) {
	var timer *time.Timer
	var mu sync.Mutex
	stopped := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(watchEvery, func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case stopped:
		case hungUp(s.conn):
			gone()
		default:
			timer.Reset(watchEvery)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// Context implements stream.
func (s *directStream) Context() context.Context { return s.ctx }
