package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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

	mu        sync.Mutex
	listeners map[string]net.Listener // by the name of the socket
	conns     map[net.Conn]bool
	closed    bool
}

// The names of the sockets.
const (
	laneSocket   = "lanes.sock"
	sharedSocket = "shared.sock"
)

func newDirect(s *server) *direct {
	d := &direct{server: s, listeners: make(map[string]net.Listener), conns: make(map[net.Conn]bool)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// listen returns the path of a socket, which is made once, or "" if there can be none. serve is the handler of a connection to it.
func (d *direct) listen(dir, name string, serve func(net.Conn)) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || dir == "" {
		return ""
	}
	if d.listeners[name] == nil {
		l, err := (&net.ListenConfig{}).Listen(d.ctx, "unix", filepath.Join(dir, name))
		if err != nil {
			return "" // streams of gRPC serve as well
		}
		d.listeners[name] = l
		go d.accept(l, serve)
	}
	return d.listeners[name].Addr().String()
}

// acceptPause is how long after a connection could not be accepted the next one is tried.
const acceptPause = 50 * time.Millisecond

// accept takes connections until the end. A plugin that is out of descriptors for a moment has them again later, while the
// host, which is connected as soon as the socket listens, would wait for ever.
func (d *direct) accept(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			go d.handle(wire.Quick(conn), serve)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(acceptPause):
		}
	}
}

func (d *direct) handle(conn net.Conn, serve func(net.Conn)) {
	defer conn.Close()
	if !d.add(conn, true) {
		return
	}
	defer d.add(conn, false)
	serve(conn)
}

// serveLane is the handler of one lane.
func (d *direct) serveLane(conn net.Conn) {
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

// serveShared is the handler of a shared connection.
func (d *direct) serveShared(conn net.Conn) {
	if d.server.enterShared() != nil {
		return
	}
	defer d.server.leave(func() {})
	end := wire.NewPluginShare(conn)
	if end.Begin() != nil {
		return
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	if err := newShared(end, ctx, d.server).run(); err != nil {
		fmt.Fprintln(os.Stderr, "shared connection:", err)
	}
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
	for _, l := range d.listeners {
		_ = l.Close()
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
