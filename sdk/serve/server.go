package serve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// server answers the host. Describe and Configure come once; Lane runs once for
// each lane.
type server struct {
	wire.UnimplementedPluginServer
	plugin     sdk.Plugin
	keepOutput func()
	once       sync.Once

	mu    sync.Mutex
	ready bool         // configured
	lanes int32        // how many the host may open
	open  atomic.Int32 // handlers that have not returned
}

func newServer(p sdk.Plugin, keepOutput func()) *server {
	return &server{plugin: p, keepOutput: keepOutput}
}

// Describe implements wire.PluginServer.
func (s *server) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	s.once.Do(s.keepOutput)
	d, err := wire.ToManifest(s.plugin.Describe())
	if err != nil {
		return nil, status.Error(codes.Internal, "describe: "+err.Error())
	}
	return d, nil
}

// Configure implements wire.PluginServer. Complaints travel in the response: an
// RPC error is for what the administrator can't mend in the file.
func (s *server) Configure(ctx context.Context, r *wire.ConfigureRequest) (*wire.ConfigureResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return nil, status.Error(codes.FailedPrecondition, "configured already")
	}
	config, err := wire.FromTable(r.GetConfig())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "configure: "+err.Error())
	}
	err = s.plugin.Configure(ctx, sdk.Settings{Config: config, StateDir: r.GetStateDir()})
	if err != nil {
		return &wire.ConfigureResponse{Errors: complaints(err)}, nil
	}
	s.lanes = int32(max(1, min(r.GetLanes(), 1<<16)))
	s.ready = true
	return &wire.ConfigureResponse{}, nil
}

// complaints lists every SettingError of a (joined) error; what is none is a
// complaint about the table as a whole.
func complaints(err error) []*wire.SettingError {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var list []*wire.SettingError
		for _, e := range many.Unwrap() {
			list = append(list, complaints(e)...)
		}
		return list
	}
	var setting *sdk.SettingError
	if errors.As(err, &setting) {
		return []*wire.SettingError{{Key: setting.Key, Problem: setting.Problem}}
	}
	return []*wire.SettingError{{Problem: err.Error()}}
}

// Lane implements wire.PluginServer. A handler counts until the last Ask that it
// started has returned, also when its stream was reset long before; the host
// that asks for a new lane in its place is refused until then. So the host learns
// which of its slots are really free.
func (s *server) Lane(stream wire.Plugin_LaneServer) error {
	s.mu.Lock()
	ready, lanes := s.ready, s.lanes
	s.mu.Unlock()
	if !ready {
		return status.Error(codes.FailedPrecondition, "lane before configure")
	}
	defer s.open.Add(-1)
	if s.open.Add(1) > lanes {
		return status.Error(codes.ResourceExhausted, "all lanes are taken")
	}
	if err := stream.SendHeader(nil); err != nil { // tells the host that a handler runs
		return err
	}
	l := newLane(stream, s.plugin)
	defer l.close()
	return l.run()
}
