package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

// TestMain lets the test binary be what sluice is: the wrapper of plugins, and the plugins.
func TestMain(m *testing.M) {
	if len(os.Args) >= 4 && os.Args[1] == "plugin" {
		switch os.Args[2] {
		case "exec":
			os.Exit(pluginhost.Exec(os.Stderr))
		case "run":
			runTestPlugin(os.Args[3])
		}
		return
	}
	os.Exit(m.Run())
}

// runTestPlugin is the main function of the plugins of these tests: each has the one fault that its name says.
func runTestPlugin(name string) {
	if os.Getenv("SLUICE_PLUGIN") == "" && name != "stays" && name != "raw-polite" {
		os.Exit(2)
	}
	switch name {
	case "greets":
		fmt.Println("hello, I am a plugin and I like to talk")
	case "silent":
		time.Sleep(time.Hour)
	case "exits":
		fmt.Fprintln(os.Stderr, "no licence file")
		os.Exit(3)
	case "elsewhere":
		fmt.Println("1|1|tcp|127.0.0.1:4711|grpc|")
		time.Sleep(time.Hour)
	case "newer":
		fmt.Printf("1|9|unix|%s/s|grpc|\n", os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
		time.Sleep(time.Hour)
	case "stays":
		if os.Getenv("SLUICE_PLUGIN") == "" {
			time.Sleep(time.Hour)
		}
	}
	if raw, ok := strings.CutPrefix(name, "raw-"); ok {
		(&rawPlugin{name: raw}).main()
		return
	}
	serve.Main(&testPlugin{name: name})
}

// testPlugin uses sdk/serve, and does wrong what that leaves to the author.
type testPlugin struct {
	name      string
	described int
	current   atomic.Int64 // recipients of the question that came last
	asked     atomic.Int64
}

func (p *testPlugin) Describe() sdk.Manifest {
	m := sdk.Manifest{
		Name: "test", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, MaxLanes: 4,
		Changes: []sdk.ChangeKind{sdk.AddField},
	}
	switch p.name {
	case "good", "check-writes", "check-shrugs":
		m.CheckOnly = true
	case "name":
		m.Name = "Not A Name"
	case "changes-manifest":
		if p.described++; p.described > 1 {
			m.Version = "2"
		}
	case "all-phases":
		m.Phases = []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute}
		m.Events = []sdk.EventKind{sdk.EventDelivered, sdk.EventLearnSpam, sdk.EventCommand}
		m.Parsed = true
	case "deaf-events":
		m.Events = []sdk.EventKind{sdk.EventDelivered, sdk.EventLearnHam}
	case "deaf-connect":
		m.Phases = append(m.Phases, sdk.PhaseConnect)
	}
	return m
}

func (p *testPlugin) Configure(_ context.Context, s sdk.Settings) error {
	var settings struct {
		Word  string   `config:"word"`
		Words []string `config:"words"`
	}
	switch {
	case p.name == "check-writes" && s.CheckOnly:
		if err := os.WriteFile(filepath.Join(s.StateDir, "state.db"), nil, 0o600); err != nil {
			return err
		}
	case p.name == "check-shrugs" && s.CheckOnly:
		return nil
	}
	switch p.name {
	case "takes-all-keys":
		return nil
	case "takes-any-type":
		for key := range s.Config {
			if key != "word" && key != "words" {
				return &sdk.SettingError{Key: key, Problem: "unknown"}
			}
		}
		return nil
	case "first-complaint":
		err := s.Decode(&settings)
		var first *sdk.SettingError
		if errors.As(err, &first) {
			return first
		}
		return err
	case "picky":
		return &sdk.SettingError{Key: "word", Problem: "is not polite"}
	}
	return s.Decode(&settings)
}

func (p *testPlugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	p.current.Store(int64(len(m.Recipients)))
	n := p.asked.Add(1)
	switch {
	case p.name == "deaf-events" && m.Phase == sdk.PhaseEvent, p.name == "deaf-connect" && m.Phase == sdk.PhaseConnect:
		<-ctx.Done()
		time.Sleep(5 * time.Second)
	case p.name == "no-recipients" && len(m.Recipients) > 5000:
		os.Exit(4)
	case p.name == "early":
		return sdk.Verdict{Action: sdk.Reject}, nil
	}
	seen, err := look(m.Content)
	if err != nil {
		return sdk.Verdict{}, err
	}
	switch p.name {
	case "nul":
		if seen.nul {
			os.Exit(9)
		}
	case "empty":
		if seen.octets == 0 {
			panic("there is always a message") // an error answer, which is none of our business
		}
	case "empty-crash":
		if seen.octets == 0 {
			os.Exit(9)
		}
	case "one-place":
		time.Sleep(time.Millisecond)
		return sdk.Verdict{Score: float64(p.current.Load())}, nil
	case "counts":
		return sdk.Verdict{Score: float64(n / 40)}, nil
	case "infinite":
		return sdk.Verdict{Score: math.Inf(1)}, nil
	case "unannounced":
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.RemoveField, Name: "Subject"}}}, nil
	case "good":
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-Test", Value: "1"}}, Tags: map[string]string{"a": "b"}}, nil
	}
	return sdk.Verdict{}, nil
}

type sight struct {
	octets int64
	nul    bool
}

func look(r io.Reader) (s sight, err error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		s.octets += int64(n)
		s.nul = s.nul || strings.Contains(string(buf[:n]), "\x00")
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return s, err
		}
	}
}
