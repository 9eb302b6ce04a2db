// Package eicar is the shipped plugin that finds the EICAR test file
// (https://www.eicar.org/download-anti-malware-testfile/) anywhere in a message,
// also inside base64 and quoted-printable parts. It answers with the detection
// "Eicar-Test-Signature", so that on_infected decides; it has no settings, keeps no
// state and no message in memory.
package eicar

import (
	"context"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/scan"
)

// Detection is the name of what it finds.
const Detection = "Eicar-Test-Signature"

// Signature returns the 68 octets of the test file. They are put together here so that
// scanners leave our source and binary alone.
func Signature() string {
	return `X5O!P%@AP[4\PZX54(P^)7CC)7}$` + `EICAR` + `-STANDARD-ANTIVIRUS-` + `TEST-FILE!$H+H*`
}

type plugin struct{ signature string }

// New returns the plugin.
func New() sdk.Plugin { return &plugin{signature: Signature()} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "eicar", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, Overlap: true, CheckOnly: true,
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
		Action:     sdk.Reject,
		Detections: []string{Detection},
		Reasons:    []sdk.Reason{{Symbol: Detection, Text: "the message holds the EICAR test file"}},
	}, nil
}
