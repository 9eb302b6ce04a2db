package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// phasePlugin is asked in connect, sender and recipient. At connect it does what its name says, later what the local
// part of the address says.
type phasePlugin struct{ connect string }

func (p *phasePlugin) Name() string                                      { return "gatekeeper" }
func (p *phasePlugin) Shadow() bool                                      { return false }
func (p *phasePlugin) OnFailure(pipeline.FailureKind) (sdk.Action, bool) { return 0, false }
func (p *phasePlugin) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: "gatekeeper", Version: "1", Phases: []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient}}
}

func (p *phasePlugin) Ask(ctx context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	e := q.Envelope()
	word := p.connect
	switch q.Phase {
	case sdk.PhaseSender:
		word, _, _ = strings.Cut(e.Sender, "@")
	case sdk.PhaseRecipient:
		word, _, _ = strings.Cut(e.Recipients[0].Address, "@")
	}
	switch word {
	case "spammer":
		return sdk.Verdict{Action: sdk.Reject, Reasons: []sdk.Reason{{Symbol: "LISTED"}},
			Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "Not you, " + e.ClientName + e.ClientAddr}}, nil
	case "whence":
		return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 550, Text: fmt.Sprintf("%s %t %s %s %t", e.Origin, e.ClientPort > 0, e.Listener, e.Helo, e.ESMTP)}}, nil
	case "greylisted":
		return sdk.Verdict{Action: sdk.Defer, Reply: &sdk.Reply{Code: 450, Enhanced: "4.7.1", Text: "Come again"}}, nil
	case "hostile": // E1.18: a reply that is several
		return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1",
			Text: "no\r\n250 2.0.0 fine\r\n250 \x00\x1b[2Jfine " + strings.Repeat("x", 2000)}}, nil
	case "liar": // an opinion counts however it is worded
		return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 250, Enhanced: "2.0.0", Text: "OK"}}, nil
	case "busy":
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailBusy, Err: errors.New("no lane")}
	case "dead":
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailCrash, Err: errors.New("exit status 1")}
	case "slow":
		<-ctx.Done()
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailTimeout, Err: ctx.Err()}
	case "panics":
		panic("a bug")
	}
	return sdk.Verdict{}, nil
}

// anybody is a router that knows everybody but nobody.
type anybody struct{}

func (anybody) Recipient(_ context.Context, _ *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	if strings.HasPrefix(r.Address, "nobody@") {
		return pipeline.ReplyNoMailbox
	}
	return pipeline.Reply{}
}

func phases(connect string) *pipeline.Pipeline {
	return pipeline.New(pipeline.Options{
		Name: "inbound", Hostname: "mx.example.test", Early: []pipeline.Asker{&phasePlugin{connect}}, Router: anybody{},
		PhaseTime: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
}

func (a anybody) Target(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	return a.Recipient(ctx, m, r)
}
