package conformance

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemail/sluice/sdk/wire"
)

// rawPlugin speaks the protocol without sdk/serve, as an author in another language would, and breaks it in the way that its
// name says.
type rawPlugin struct {
	wire.UnimplementedPluginServer
	grpc_health_v1.UnimplementedHealthServer
	name    string
	open    atomic.Int32
	sockets sync.Once
}

const rawLanes = 3

func (p *rawPlugin) main() {
	if os.Getenv(wire.CookieKey) != wire.CookieValue {
		if p.name == "polite" {
			os.Exit(0)
		}
		os.Exit(2)
	}
	if p.name != "deaf-stdin" {
		go func() {
			_, _ = os.Stdin.Read(make([]byte, 1))
			os.Exit(0)
		}()
	}
	if versions := os.Getenv("PLUGIN_PROTOCOL_VERSIONS"); p.name == "first-version" && versions != "1" {
		fmt.Printf("1|%s|unix|x|grpc|\n", strings.Split(versions, ",")[0])
	}
	socket := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(p.maxRecv()))
	wire.RegisterPluginServer(s, p)
	grpc_health_v1.RegisterHealthServer(s, p)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "plugin.GRPCController", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Shutdown", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if p.name != "deaf-shutdown" {
				time.AfterFunc(50*time.Millisecond, func() { os.Exit(0) })
			}
			return &emptypb.Empty{}, decode(&emptypb.Empty{})
		},
	}}}, p)
	fmt.Printf("1|1|unix|%s|grpc|\n", socket)
	_ = s.Serve(l)
}

func (p *rawPlugin) maxRecv() int {
	if p.name == "small-frames" {
		return 300 << 10
	}
	return 16 << 20
}

func (p *rawPlugin) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if p.name == "unhealthy" {
		<-ctx.Done()
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (p *rawPlugin) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	d := &wire.DescribeResponse{Name: "raw", Version: "0", Phases: []wire.Phase{4}, Want: wire.Want_WANT_ALL, MaxLanes: rawLanes}
	if p.name == "phase" {
		d.Phases = []wire.Phase{77}
	}
	switch {
	case strings.HasPrefix(p.name, "direct-"):
		d.LaneSocket = p.listen()
	case strings.HasPrefix(p.name, "shared-"):
		d.SharedSocket = p.listen()
	}
	return d, nil
}

func (p *rawPlugin) Configure(_ context.Context, r *wire.ConfigureRequest) (*wire.ConfigureResponse, error) {
	out := &wire.ConfigureResponse{}
	for key := range r.GetConfig() {
		out.Errors = append(out.Errors, &wire.SettingError{Key: key, Problem: "unknown"})
	}
	return out, nil
}

func (p *rawPlugin) Lane(stream wire.Plugin_LaneServer) error {
	if p.open.Add(1) > rawLanes && p.name != "takes-all-lanes" {
		p.open.Add(-1)
		return status.Error(codes.ResourceExhausted, "all lanes are taken")
	}
	defer func() {
		if p.name != "loses-lanes" || stream.Context().Err() == nil {
			p.open.Add(-1)
		}
	}()
	if p.name != "no-headers" {
		_ = stream.SendHeader(nil)
	}
	var id uint64
	answered := true
	answer := func(v *wire.Verdict) {
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id, Result: &wire.Answer_Verdict{Verdict: v}}}})
		answered = true
	}
	for {
		f, err := stream.Recv()
		if err != nil {
			if p.name == "holds-lanes" && stream.Context().Err() == nil {
				time.Sleep(time.Hour)
			}
			return err
		}
		if f.GetFrame() == nil && p.name == "knows-all" {
			return status.Error(codes.InvalidArgument, "what is this?")
		}
		if a := f.GetAsk(); a != nil {
			id, answered = a.GetId(), false
			if d := a.GetDeadlineUnixNano(); p.name == "late" && d < time.Now().UnixNano() {
				time.Sleep(3 * time.Second)
			}
			continue
		}
		if c := f.GetCancel(); c != nil && (c.GetId() == id || p.name == "any-id") && !answered && p.name != "ignores-cancel" {
			_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id, Result: &wire.Answer_Error{Error: &wire.Error{Text: "cancelled"}}}}})
			answered = true
			if p.name == "stops-reading" {
				<-stream.Context().Done()
				return nil
			}
			continue
		}
		if e := f.GetEnd(); e != nil && (e.GetId() == id) && !answered {
			p.finish(id, stream, answer)
			answered = true
		}
	}
}

func (p *rawPlugin) finish(id uint64, stream wire.Plugin_LaneServer, answer func(*wire.Verdict)) {
	switch p.name {
	case "twice":
		answer(&wire.Verdict{})
		answer(&wire.Verdict{})
	case "wrong-id":
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id + 1, Result: &wire.Answer_Verdict{Verdict: &wire.Verdict{}}}}})
		answer(&wire.Verdict{})
	case "other-id":
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id + 1, Result: &wire.Answer_Verdict{Verdict: &wire.Verdict{}}}}})
	case "body":
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Body{Body: &wire.Body{Id: id, Data: []byte("x")}}})
		answer(&wire.Verdict{})
	case "nothing":
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id}}})
	default:
		answer(&wire.Verdict{})
	}
}
