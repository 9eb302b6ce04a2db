// Command scribe is a plugin that writes down what it is told, a line for each event, in the file "events" of its state
// directory, for the tests of package interop. What a message is to become stands in its field X-Scribe. While the file
// "closed" is there, it learns nothing.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

func main() { serve.Main(&scribe{}) }

type scribe struct {
	dir string
	mu  sync.Mutex
}

func (*scribe) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "scribe", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, MaxLanes: 4,
		Events: []sdk.EventKind{
			sdk.EventDelivered, sdk.EventBounced, sdk.EventDeferred, sdk.EventQuarantined, sdk.EventReleased, sdk.EventDiscarded,
			sdk.EventRefused, sdk.EventLearnSpam, sdk.EventLearnHam, sdk.EventCommand,
		},
	}
}

func (s *scribe) Configure(_ context.Context, settings sdk.Settings) error {
	s.dir = settings.StateDir
	return sdk.NoSettings(settings)
}

func (s *scribe) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Phase != sdk.PhaseEvent {
		header, err := textproto.NewReader(bufio.NewReader(m.Content)).ReadMIMEHeader()
		if err != nil && !errors.Is(err, io.EOF) {
			return sdk.Verdict{}, err
		}
		word := header.Get("X-Scribe")
		if word == "alert" {
			return sdk.Verdict{Alerts: []sdk.Alert{{Key: "account " + alice, Text: "It looks hijacked: \u00e4\u00f6\u00fc."}}}, nil
		}
		if word == "" {
			return sdk.Verdict{}, nil
		}
		action, err := sdk.ParseAction(word)
		return sdk.Verdict{Action: action}, err
	}
	switch e := m.Event; e.Kind {
	case sdk.EventCommand:
		if e.Words[0] == "fail" {
			return sdk.Verdict{}, errors.New("I was told to fail")
		}
		return sdk.Verdict{Reasons: []sdk.Reason{
			{Symbol: "HEARD", Text: strings.Join(e.Words, "|")}, {Symbol: "HEARD", Text: fmt.Sprint(len(e.Words), " words")},
		}}, nil
	case sdk.EventLearnSpam, sdk.EventLearnHam:
		if _, err := os.Stat(filepath.Join(s.dir, "closed")); err == nil {
			return sdk.Verdict{}, errors.New("closed")
		}
		octets, err := io.ReadAll(m.Content)
		if err != nil || int64(len(octets)) != m.Size {
			return sdk.Verdict{}, fmt.Errorf("%d of %d octets: %w", len(octets), m.Size, err)
		}
		header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(string(octets)))).ReadMIMEHeader()
		if err != nil {
			return sdk.Verdict{}, err
		}
		return sdk.Verdict{}, s.write("%s %s %s", e.Kind, strings.Trim(header.Get("Message-ID"), "<>"), e.Account)
	default:
		return sdk.Verdict{}, s.write("%s %s %s %s", e.Kind, m.ID, e.Recipient, e.Text)
	}
}

const alice = "alice@example.test"

func (s *scribe) write(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, "events"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format+"\n", args...)
	return errors.Join(err, f.Close())
}
