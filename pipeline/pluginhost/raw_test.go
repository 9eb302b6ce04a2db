package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/sluicemail/sluice/sdk/wire"
)

// rawPlugin is a plugin that does not use sdk/serve, and breaks the protocol in the way its name
// says.
type rawPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	wire.UnimplementedPluginServer
	name string
}

func (p *rawPlugin) main() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{wire.ProtocolVersion: {"plugin": p}},
		GRPCServer:       goplugin.DefaultGRPCServer,
	})
}

func (p *rawPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	wire.RegisterPluginServer(s, p)
	s.RegisterService(&unaryService, p)
	return nil
}

func (p *rawPlugin) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("not here")
}

func (p *rawPlugin) Describe(context.Context, *wire.DescribeRequest) (*wire.DescribeResponse, error) {
	d := &wire.DescribeResponse{Name: "raw", Version: "0", Phases: []wire.Phase{wire.Phase_PHASE_CONTENT}, Want: wire.Want_WANT_ALL}
	switch p.name {
	case "raw-name":
		d.Name = "Not A Name"
	case "raw-version":
		d.Version = "1\x1b[2J"
	case "raw-phase":
		d.Phases = []wire.Phase{77}
	case "raw-newer":
		d.Phases, d.Changes = append(d.Phases, 12), []wire.ChangeKind{1, 14}
	case "raw-body-alone", "raw-body-none", "raw-body-huge", "raw-body-endless", "raw-body-late":
		d.Changes = []wire.ChangeKind{wire.ChangeKind_CHANGE_KIND_REPLACE_BODY}
	case "raw-elsewhere-path", "raw-elsewhere-link", "raw-elsewhere-climb":
		d.LaneSocket = elsewhere(strings.TrimPrefix(p.name, "raw-elsewhere-"))
	case "raw-shared-foreign-body", "raw-shared-endless-body":
		d.Changes = []wire.ChangeKind{wire.ChangeKind_CHANGE_KIND_REPLACE_BODY}
	case "raw-slow-describe":
		time.Sleep(time.Hour)
	}
	if how, ok := strings.CutPrefix(p.name, "raw-shared-"); ok {
		d.SharedSocket = listenShared(how)
	}
	return d, nil
}

func (p *rawPlugin) Configure(context.Context, *wire.ConfigureRequest) (*wire.ConfigureResponse, error) {
	return &wire.ConfigureResponse{}, nil
}

func (p *rawPlugin) Lane(stream wire.Plugin_LaneServer) error {
	answer := func(id uint64, score float64) {
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{
			Id: id, Result: &wire.Answer_Verdict{Verdict: &wire.Verdict{Score: score}},
		}}})
	}
	if p.name == "raw-ends" {
		return errors.New("I would rather not")
	}
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		if a := f.GetAsk(); a != nil {
			switch p.name {
			case "raw-early-deaf": // answers at once and never reads again
				answer(a.GetId(), 1)
				<-stream.Context().Done()
				return nil
			case "raw-empty":
				_ = stream.Send(&wire.PluginFrame{})
				_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: a.GetId()}}})
			case "raw-huge":
				v := &wire.Verdict{Detections: []string{string(make([]byte, 3<<20))}}
				_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{
					Id: a.GetId(), Result: &wire.Answer_Verdict{Verdict: v},
				}}})
			case "raw-storm": // never stops talking
				for i := uint64(0); stream.Context().Err() == nil; i++ {
					answer(1<<40+i, 9)
				}
			}
		}
		if c := f.GetChunk(); c != nil && p.name == "raw-partial" {
			os.Exit(1)
		}
		if e := f.GetEnd(); e != nil {
			if strings.HasPrefix(p.name, "raw-body-") {
				p.body(stream, e.GetId())
			}
			if strings.HasPrefix(p.name, "raw-shared-") {
				answer(e.GetId(), 2)
			}
			switch p.name {
			case "raw-prints": // through go-plugin's pipes, far more than they hold
				for range 20 {
					fmt.Print(strings.Repeat("print ", 2000), "\n")
				}
				answer(e.GetId(), 1)
			case "raw-twice": // late ones, early ones, and the right one twice
				answer(e.GetId()-1, 13)
				answer(e.GetId()+1, 13)
				answer(e.GetId(), 1)
				answer(e.GetId(), 13)
			case "raw-closes":
				answer(e.GetId(), 1)
				return nil
			case "raw-dies":
				answer(e.GetId(), 1)
				time.Sleep(10 * time.Millisecond)
				os.Exit(0)
			case "raw-newer", "raw-early-deaf":
				answer(e.GetId(), 1)
			}
		}
	}
}

// body sends new bodies that break the contract.
func (p *rawPlugin) body(stream wire.Plugin_LaneServer, id uint64) {
	piece := func(id uint64, n int) {
		_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Body{Body: &wire.Body{Id: id, Data: make([]byte, n)}}})
	}
	replace := &wire.Verdict{Score: 1, Changes: []*wire.Change{{Kind: wire.ChangeKind_CHANGE_KIND_REPLACE_BODY}}}
	switch p.name {
	case "raw-body-alone":
		piece(id, 10)
		replace.Changes = nil
	case "raw-body-huge":
		piece(id, wire.MaxChunk+1)
	case "raw-body-endless":
		for stream.Context().Err() == nil {
			piece(id, 1000)
		}
	case "raw-body-late": // of other questions
		piece(id-1, 10)
		piece(id+1, 10)
	}
	_ = stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id, Result: &wire.Answer_Verdict{Verdict: replace}}}})
}

// unaryService is what lanes are compared with: a call for each question, envelope and content in one.
var unaryService = grpc.ServiceDesc{
	ServiceName: "bench.Unary", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Ask",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var c wire.Chunk
			if err := decode(&c); err != nil {
				return nil, err
			}
			return &wire.Answer{Id: c.GetId(), Result: &wire.Answer_Verdict{Verdict: &wire.Verdict{Score: float64(len(c.GetData()))}}}, nil
		},
	}},
}
