package sdktest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

type echo struct{ want sdk.Want }

func (e echo) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "echo", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: e.want}
}

func (e echo) Configure(_ context.Context, s sdk.Settings) error {
	if s.StateDir == "" {
		return errors.New("no state directory")
	}
	return sdk.NoSettings(s)
}

func (e echo) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Sender == "broken" {
		return sdk.Verdict{}, errors.New("broken")
	}
	n, err := io.Copy(io.Discard, m.Content)
	return sdk.Verdict{Score: float64(n), Tags: map[string]string{"to": m.Recipients[0].Address}}, err
}

func TestAsk(t *testing.T) {
	text := "A: b\n\n" + strings.Repeat("0123456789\n", 100000)
	for want, octets := range map[sdk.Want]float64{sdk.WantNone: 0, sdk.WantHeader: 8, sdk.WantAll: 8 + 1200000} {
		p := Start(t, echo{want}, nil)
		v, err := p.Ask(Mail(text))
		if err != nil || v.Score != octets || v.Tags["to"] != "alice@example.test" || p.Manifest.Want != want {
			t.Errorf("%s: %+v %v, expected %v octets", want, v, err, octets)
		}
		broken := Mail(text)
		broken.Sender = "broken"
		if _, err := p.Ask(broken); err == nil || err.Error() != "broken" {
			t.Errorf("%v", err)
		}
	}
}

func TestConfigure(t *testing.T) {
	err := Configure(t, echo{sdk.WantAll}, map[string]any{"b": int64(1), "a": true})
	if err == nil || !strings.Contains(err.Error(), "a: unknown key") || !strings.Contains(err.Error(), "b: unknown key") {
		t.Errorf("%v", err)
	}
}
