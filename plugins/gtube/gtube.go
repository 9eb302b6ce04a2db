// Package gtube is the shipped plugin that gives a message with the Generic Test for
// Unsolicited Bulk Email (https://spamassassin.apache.org/gtube/) a score of 1000, also
// where it is inside base64 and quoted-printable parts. It has no settings, keeps no state
// and no message in memory.
package gtube

import (
	"context"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/scan"
)

// Symbol is its only reason, Score what that counts.
const (
	Symbol = "GTUBE"
	Score  = 1000
)

// Signature returns the 68 octets of the test. They are put together here so that filters
// leave mail about this source alone.
func Signature() string {
	return "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE" + "-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
}

type plugin struct{ signature string }

// New returns the plugin.
func New() sdk.Plugin { return &plugin{signature: Signature()} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "gtube", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error { return sdk.NoSettings(s) }

// Ask implements sdk.Plugin.
func (p *plugin) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	found, err := scan.Find(m.Content, p.signature)
	if err != nil || !found {
		return sdk.Verdict{}, err
	}
	return sdk.Verdict{
		Score:   Score,
		Reasons: []sdk.Reason{{Symbol: Symbol, Score: Score, Text: "the message holds the generic test for unsolicited bulk email"}},
	}, nil
}
