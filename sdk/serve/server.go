package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// closeTime is how long the last questions and the plugin's Close have together: after
// that the host kills.
const closeTime = 2 * time.Second

// server answers the host. Describe and Configure come once; Lane runs once for
// each lane.
type server struct {
	wire.UnimplementedPluginServer
	plugin     sdk.Plugin
	keepOutput func()
	once       sync.Once
	patience   time.Duration // closeTime
	direct     *direct
	watch      *watch
	socketDir  string // for direct lanes; "": none

	ending   sync.Once
	endError error

	mu         sync.Mutex
	configured bool          // Configure was called
	ready      bool          // and found no fault
	lanes      int           // how many the host may open
	parsed     bool          // the manifest asks for the shared parse
	open       int           // lanes whose handler has not returned
	running    int           // those, shared connections, and Configure
	closing    bool          // no more of them
	idle       chan struct{} // closed when running is 0 and will stay so
}

func newServer(p sdk.Plugin, keepOutput func()) *server {
	s := &server{plugin: p, keepOutput: keepOutput, patience: closeTime, watch: newWatch(), idle: make(chan struct{})}
	s.direct = newDirect(s)
	return s
}

// Describe implements wire.PluginServer.
func (s *server) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	s.once.Do(s.keepOutput)
	d, err := wire.ToManifest(s.plugin.Describe())
	if err != nil {
		return nil, status.Error(codes.Internal, "describe: "+err.Error())
	}
	d.LaneSocket = s.direct.listen(s.socketDir, laneSocket, s.direct.serveLane)
	d.SharedSocket = s.direct.listen(s.socketDir, sharedSocket, s.direct.serveShared)
	return d, nil
}

// Configure implements wire.PluginServer. Complaints travel in the response: an
// RPC error is for what the administrator can't mend in the file. After a mere check
// the plugin is as if nobody had called: no lane is opened, and it is not closed.
func (s *server) Configure(ctx context.Context, r *wire.ConfigureRequest) (*wire.ConfigureResponse, error) {
	if err := s.beginConfigure(); err != nil {
		return nil, err
	}
	ready := false
	defer func() { s.leave(func() { s.configured, s.ready = ready, ready }) }()
	config, err := wire.FromTable(r.GetConfig())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "configure: "+err.Error())
	}
	lanes := max(1, min(r.GetLanes(), 1<<16))
	manifest := s.plugin.Describe()
	if r.GetCheckOnly() && !manifest.CheckOnly { // it would open what must not be opened
		return nil, status.Error(codes.Unimplemented, "configure: the plugin cannot only check its settings")
	}
	err = s.plugin.Configure(ctx, sdk.Settings{
		Config: config, StateDir: r.GetStateDir(), Dir: r.GetDir(), Lanes: int(lanes), CheckOnly: r.GetCheckOnly(),
	})
	var unready *sdk.Unready
	switch {
	case errors.As(err, &unready):
		return nil, status.Error(codes.FailedPrecondition, text(err.Error()))
	case err != nil:
		return &wire.ConfigureResponse{Errors: complaints(err)}, nil
	}
	if r.GetCheckOnly() {
		return &wire.ConfigureResponse{}, nil
	}
	s.mu.Lock()
	s.lanes, s.parsed = int(lanes), manifest.Parsed
	if len(manifest.Events) > 0 {
		s.lanes++ // the event lane
	}
	s.mu.Unlock()
	ready = true
	return &wire.ConfigureResponse{}, nil
}

func (s *server) beginConfigure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.configured {
		return status.Error(codes.FailedPrecondition, "configured already")
	}
	if s.closing {
		return status.Error(codes.Unavailable, "the plugin is ending")
	}
	s.configured = true
	s.running++
	return nil
}

// leave ends what counts as running, and changes the state with it.
func (s *server) leave(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.running--
	if s.closing && s.running == 0 {
		close(s.idle)
	}
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
		return []*wire.SettingError{{Key: text(setting.Key), Problem: text(setting.Problem)}}
	}
	return []*wire.SettingError{{Problem: text(err.Error())}}
}

// Lane implements wire.PluginServer. A handler counts until the last Ask that it
// started has returned, also when its stream was reset long before; the host
// that asks for a new lane in its place is refused until then. So the host learns
// which of its slots are really free.
func (s *server) Lane(stream wire.Plugin_LaneServer) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave(func() { s.open-- })
	if err := stream.SendHeader(nil); err != nil { // tells the host that a handler runs
		return err
	}
	return newLane(stream, s.plugin, s.parsed, s.watch).run()
}

func (s *server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.serving(); err != nil {
		return err
	}
	if s.open >= s.lanes {
		return status.Error(codes.ResourceExhausted, "all lanes are taken")
	}
	s.open++
	s.running++
	return nil
}

// enterShared is enter for a connection that is no lane of its own.
func (s *server) enterShared() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.serving(); err != nil {
		return err
	}
	s.running++
	return nil
}

// serving says why there can be no questions. s.mu is held.
func (s *server) serving() error {
	switch {
	case s.closing:
		return status.Error(codes.Unavailable, "the plugin is ending")
	case !s.ready:
		return status.Error(codes.FailedPrecondition, "lane before configure")
	}
	return nil
}

// end waits for the last questions, whose contexts the caller has ended, and closes the
// plugin if it is configured and an io.Closer. Each caller gets the same answer.
func (s *server) end() error {
	s.ending.Do(func() {
		s.direct.close()
		ctx, cancel := context.WithTimeout(context.Background(), s.patience)
		defer cancel()
		s.endError = s.close(ctx)
	})
	return s.endError
}

func (s *server) close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	if s.running == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
	case <-ctx.Done():
		return errors.New("close the plugin: it is still being asked; it was not closed")
	}
	closer, ok := s.plugin.(io.Closer)
	if !s.ready || !ok {
		return nil
	}
	closed := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				closed <- fmt.Errorf("panic: %v", cause)
			}
		}()
		closed <- closer.Close()
	}()
	select {
	case err := <-closed:
		if err != nil {
			return fmt.Errorf("close the plugin: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the plugin: not done within %s", s.patience)
	}
}
