// Command mischief is a plugin that does whatever the field X-Mischief of a
// message says, for the tests of package interop. It is built by them alone.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

func main() { serve.Main(&mischief{}) }

type mischief struct{ held [][]byte }

func (*mischief) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "mischief", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Changes: []sdk.ChangeKind{sdk.AddField}, MaxLanes: 8, Overlap: true,
	}
}

func (*mischief) Configure(context.Context, sdk.Settings) error { return nil }

func (p *mischief) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	header, err := textproto.NewReader(bufio.NewReader(m.Content)).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return sdk.Verdict{}, err
	}
	seen := sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-Mischief-Seen", Value: "yes"}}}
	switch what := header.Get("X-Mischief"); what {
	case "":
		if _, err := io.Copy(io.Discard, m.Content); err != nil {
			return sdk.Verdict{}, err
		}
	case "attack":
		seen.Changes = append(seen.Changes, sdk.Change{Kind: sdk.AddField, Name: "X-Attack", Value: attack(header.Get("X-Directory"))})
	case "early": // answers without reading the rest
	case "error":
		return sdk.Verdict{}, errors.New("I do not feel like it")
	case "panic":
		panic("mischief")
	case "crash":
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
	case "crash-goroutine":
		go panic("mischief in a goroutine")
		time.Sleep(time.Hour)
	case "hang":
		select {} // deaf to the context too
	case "nan":
		return sdk.Verdict{Score: math.NaN()}, nil
	case "unknown-action":
		return sdk.Verdict{Action: sdk.Action(99)}, nil
	case "reply-injection":
		return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 250, Enhanced: "9.9.9", Text: "no\r\n250 2.0.0 fine\x00"}}, nil
	case "reject":
		return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 554, Enhanced: "5.7.1", Text: "no mischief here"}}, nil
	case "field-injection":
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-A: b\r\nX-C", Value: "d\r\n\r\nbody"}}}, nil
	case "forbidden-change":
		seen.Changes = append(seen.Changes, sdk.Change{Kind: sdk.RemoveField, Name: "Subject"})
	case "unknown-recipient":
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "nobody@example.org", Action: sdk.Reject}}}, nil
	case "huge-answer":
		reasons := make([]sdk.Reason, 10000)
		for i := range reasons {
			reasons[i] = sdk.Reason{Symbol: strings.Repeat("S", 100), Text: strings.Repeat("t", 1000)}
		}
		return sdk.Verdict{Reasons: reasons}, nil
	case "stderr-flood":
		line := strings.Repeat("flood ", 1000) + "\n"
		for range 10000 {
			io.WriteString(os.Stderr, line)
		}
	case "stderr-endless-line":
		for range 1000 {
			io.WriteString(os.Stderr, strings.Repeat("x", 64<<10))
		}
	case "stdout":
		for range 1000 {
			fmt.Println("1|1|unix|/tmp/elsewhere|grpc|", strings.Repeat("\x00\xff", 500))
		}
	case "memory":
		for range 1 << 14 {
			block := make([]byte, 1<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			p.held = append(p.held, block)
		}
	default:
		return sdk.Verdict{}, fmt.Errorf("unknown mischief %q", what)
	}
	return seen, nil
}
