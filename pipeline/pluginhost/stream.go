package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// stream carries the frames of a lane: a stream of gRPC, or a direct lane (sdk/wire, HostEnd), which
// costs less than half and which plugins of sdk/serve have.
type stream interface {
	Send(*wire.HostFrame) error
	Recv() (*wire.PluginFrame, error)

	// started waits until a handler of the plugin serves the lane, and reports whether one does.
	started() bool
}

// newStream opens a stream; reset ends it, and so does the end of the process.
func (p *process) newStream() (s stream, reset context.CancelFunc, err error) {
	ctx, reset := context.WithCancel(p.ctx)
	if p.direct != "" && !p.directGone.Load() {
		if s, err = dialDirect(ctx, p.direct); err == nil {
			return s, reset, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || p.runner.isReaped() {
			reset()
			return nil, nil, err
		}
		if p.directGone.CompareAndSwap(false, true) { // somebody has cleared up, and the plugin lives: it still has gRPC
			p.log.Warn("the plugin's socket for direct lanes was removed: its new lanes are slower until it is started again", "why", err)
		}
	}
	lane, err := p.client.Lane(ctx)
	if err != nil {
		reset()
		return nil, nil, err
	}
	return &grpcStream{lane}, reset, nil
}

type grpcStream struct{ wire.Plugin_LaneClient }

func (s *grpcStream) started() bool {
	header, err := s.Header() // ends with the stream at the latest
	return err == nil && header != nil
}

// directStream is a direct lane. Its first Recv waits for the sign that a handler serves it.
type directStream struct {
	*wire.HostEnd
	begun chan struct{} // closed when the sign came, or will not come
	ok    bool          // it came; to be read after begun
	first bool          // of the reader: no Recv yet
}

// dialTime is how long a plugin may take to accept a connection, which its kernel does for it.
const dialTime = 5 * time.Second

// dialDirect connects; the connection is closed when ctx ends.
func dialDirect(ctx context.Context, socket string) (*directStream, error) {
	conn, err := dialOwn(ctx, socket)
	if err != nil {
		return nil, err
	}
	conn = wire.Quick(conn)
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return &directStream{HostEnd: wire.NewHostEnd(conn), begun: make(chan struct{}), first: true}, nil
}

// Recv implements stream.
func (s *directStream) Recv() (*wire.PluginFrame, error) {
	if s.first {
		s.first = false
		err := s.Begin()
		s.ok = err == nil
		close(s.begun)
		if err != nil {
			return nil, err
		}
	}
	return s.HostEnd.Recv()
}

func (s *directStream) started() bool {
	<-s.begun // the reader's word, at the latest when the connection is closed
	return s.ok
}

// findSocket looks at what a plugin's field calls a socket of its own. What cannot be used is no reason not to
// run a plugin: it has streams of gRPC. A place outside its own directory is.
func (p *process) findSocket(ctx context.Context, field, socket string) (string, error) {
	if socket == "" {
		return "", nil
	}
	path, err := ownPath(p.runner.socketDir, socket)
	if err != nil {
		return "", fmt.Errorf("its %s: %w", field, err)
	}
	try, err := dialOwn(ctx, path)
	if errors.Is(err, errNoSocket) {
		return "", fmt.Errorf("its %s: %w", field, err)
	}
	if err != nil {
		p.log.Warn("plugin's "+field+" cannot be used", "why", err)
		return "", nil
	}
	_ = try.Close() // before Configure no handler takes it
	return path, nil
}
