// Command scanner is a Sluice plugin in about thirty lines: it refuses mail whose
// subject has a word that the administrator listed, and scores shouting.
package main

import (
	"context"
	"mime"
	"net/mail"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

type scanner struct {
	Words []string `config:"words"`
}

func (*scanner) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "scanner", Version: "1.0", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantHeader, Overlap: true, CheckOnly: true}
}

func (s *scanner) Configure(_ context.Context, settings sdk.Settings) error {
	err := settings.Decode(s) // complains about unknown keys and values of another type
	if err == nil && len(s.Words) == 0 {
		return &sdk.SettingError{Key: "words", Problem: `missing, expected a list of words: ["lottery"]`}
	}
	return err
}

func (s *scanner) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	parsed, err := mail.ReadMessage(m.Content)
	if err != nil {
		return sdk.Verdict{}, err // the administrator's on_failure decides
	}
	subject := parsed.Header.Get("Subject")
	if decoded, err := new(mime.WordDecoder).DecodeHeader(subject); err == nil { // as a reader sees it
		subject = decoded
	}
	for _, word := range s.Words {
		if strings.Contains(strings.ToLower(subject), strings.ToLower(word)) {
			return sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "We do not want that word here"}}, nil
		}
	}
	if subject != "" && subject == strings.ToUpper(subject) {
		return sdk.Verdict{Score: 2, Reasons: []sdk.Reason{{Symbol: "SHOUTING", Score: 2, Text: "the subject has no small letter"}}}, nil
	}
	return sdk.Verdict{}, nil // no objection
}

func main() { serve.Main(&scanner{}) }
