// Package serve is the main function of a plugin:
//
//	func main() { serve.Main(scanner{}) }
//
// Main speaks the protocol of sdk/PROTOCOL.md with the host that started the
// process: go-plugin's handshake on standard output, then gRPC on a unix
// socket in the directory that the host names. It promises the author that
//
//   - Describe, Configure and Ask are called in that order, Ask from at most as
//     many goroutines as the host has lanes;
//   - the context of Ask ends at the question's deadline, when the host cancels
//     it and when the host is gone;
//   - Ask may return early: the rest of the message is read and thrown away;
//   - a panic in Ask becomes an error answer and its stack goes to standard error.
//     The questions beside it live on: they must not pay for it, and a plugin
//     that is broken for good by the panic (a lock never released) loses its lanes
//     to time-outs and is replaced by the host. A panic in a goroutine that the
//     plugin started ends the process, as always in Go;
//   - the new body of a verdict is read after Ask returned, and sent in pieces: it is
//     never held as a whole;
//   - a plugin that is an io.Closer and was configured is closed before the process
//     ends, if the host asks for the end or is gone; see sdk.Plugin;
//   - what the plugin prints, on standard output too, arrives in the server's log:
//     both go to file descriptor 2 as they are;
//   - the process ends when the host does, however the host ended.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"

	hclog "github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Main runs a plugin until its host ends it. It is the whole main function and
// does not return before that; the process may then end with status 0. Started
// by hand it prints what to do instead and ends the process with status 2.
func Main(p sdk.Plugin) {
	if os.Getenv(wire.CookieKey) != wire.CookieValue {
		fmt.Fprintf(os.Stderr, "%s is a plugin for the mail server Sluice, which starts it.\n"+
			"Name it in sluice.toml:\n\n    [plugin.%s]\n    command = %s\n",
			os.Args[0], p.Describe().Name, strings.ReplaceAll(fmt.Sprintf("%q", os.Args), `" "`, `", "`))
		os.Exit(2)
	}
	if os.Getenv("GOGC") == "" {
		// A plugin's live heap is small, so Go would collect every few hundred messages; this lets
		// it grow to 16 MiB first and spares a tenth of the processor time.
		debug.SetGCPercent(400)
	}
	server := newServer(p, keepOutput())
	server.socketDir = os.Getenv(wire.SocketDir)
	server.watch.processors = newProcessors()
	var process atomic.Pointer[grpc.Server]
	if os.Getenv(wire.WatchStdin) == "1" {
		go exitWithHost(os.Stdin, &process, server)
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{
			wire.ProtocolVersion: {wire.ServiceName: &service{server: server}},
		},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			process.Store(grpc.NewServer(append(opts, options()...)...))
			return process.Load()
		},
		Logger: hclog.NewNullLogger(),
	})
	report(server.end()) // Shutdown was called
}

// exitWithHost ends the process when its standard input does: the host holds the
// other end and never writes.
func exitWithHost(stdin io.Reader, process *atomic.Pointer[grpc.Server], s *server) {
	_, _ = io.Copy(io.Discard, stdin)
	if running := process.Load(); running != nil {
		running.Stop()
	}
	report(s.end())
	os.Exit(0)
}

// report prints what went wrong at the end.
func report(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// keepOutput returns a function that undoes what go-plugin does to os.Stdout and
// os.Stderr after the handshake: it turns them into pipes that are carried over
// gRPC, where the last words before a crash are lost and an unread pipe stops
// the plugin. Standard output becomes standard error: file descriptor 1 belongs
// to the handshake. To be called from the first RPC, which go-plugin's change
// happens before.
func keepOutput() func() {
	stderr := os.Stderr
	return func() { os.Stdout, os.Stderr = stderr, stderr }
}

// Serve serves a plugin on a listener until ctx ends, without the handshake: for
// tests and for hosts that are in the same process. It closes the listener, and the
// plugin as Main does; an error of its Close is returned.
func Serve(ctx context.Context, l net.Listener, p sdk.Plugin) error {
	s := grpc.NewServer(options()...)
	h := health.NewServer()
	h.SetServingStatus(wire.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(s, h)
	server := newServer(p, func() {})
	if l.Addr().Network() == "unix" {
		server.socketDir = filepath.Dir(l.Addr().String())
	}
	wire.RegisterPluginServer(s, server)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return errors.Join(fmt.Errorf("serve %s: %w", filepath.Base(l.Addr().String()), err), server.end())
	}
	return server.end()
}

// Flow-control windows. A lane may run this far ahead of its plugin; a fixed
// window also spares both sides the pings that estimate one.
const (
	laneWindow = 1 << 20
	connWindow = 16 << 20
	maxFrame   = 16 << 20 // an Ask with ten thousand recipients has room
)

func options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InitialWindowSize(laneWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(maxFrame),
		grpc.ForceServerCodecV2(wire.Codec()),
	}
}

// service is the plugin as go-plugin wants it.
type service struct {
	goplugin.NetRPCUnsupportedPlugin
	server *server
}

// GRPCServer implements goplugin.GRPCPlugin.
func (s *service) GRPCServer(_ *goplugin.GRPCBroker, g *grpc.Server) error {
	wire.RegisterPluginServer(g, s.server)
	return nil
}

// GRPCClient implements goplugin.GRPCPlugin; this end has none.
func (s *service) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("sdk/serve is the plugin's end")
}
