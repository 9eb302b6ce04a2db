// Command policy is a Sluice plugin that refuses attachments by name and type, and sets aside what programs would read
// differently. It parses no MIME: the core's shared parse says what the parts are.
package main

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

type policy struct {
	Endings   []string   `config:"endings"`   // of file names: ".exe"
	Types     []string   `config:"types"`     // media types: "application/x-msdownload", "application/*"
	Exempt    []string   `config:"exempt"`    // origins that it does not look at: "login"
	Ambiguous sdk.Action `config:"ambiguous"` // for what programs read differently
}

func (*policy) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "policy", Version: "1.0", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantNone, Parsed: true, Overlap: true, CheckOnly: true}
}

func (p *policy) Configure(_ context.Context, settings sdk.Settings) error {
	p.Endings = []string{".bat", ".cmd", ".com", ".exe", ".hta", ".js", ".lnk", ".ps1", ".scr", ".vbs"}
	problems := []error{settings.Decode(p)}
	for _, ending := range p.Endings {
		if !strings.HasPrefix(ending, ".") {
			problems = append(problems, &sdk.SettingError{Key: "endings", Problem: ending + `, expected endings with their dot: [".exe"]`})
		}
	}
	for _, t := range p.Types {
		if _, err := path.Match(t, "a/b"); err != nil || !strings.Contains(t, "/") {
			problems = append(problems, &sdk.SettingError{Key: "types", Problem: t + `, expected media types: ["application/*"]`})
		}
	}
	return errors.Join(problems...)
}

func (p *policy) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	for _, origin := range p.Exempt {
		if string(m.Origin) == origin {
			return sdk.Verdict{}, nil
		}
	}
	parsed, err := m.Parsed()
	if err != nil {
		return sdk.Verdict{}, err
	}
	for _, part := range parsed.Parts {
		if why := p.refuses(&part); why != "" {
			return sdk.Verdict{
				Action:  sdk.Reject,
				Reasons: []sdk.Reason{{Symbol: "ATTACHMENT", Text: "part " + part.Section + ": " + why}},
				Reply:   &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "We do not take such attachments; put them where we can fetch them"},
			}, nil
		}
	}
	return p.doubtful(parsed), nil
}

// refuses says what is wrong with a part, or "".
func (p *policy) refuses(part *sdk.Part) string {
	name := strings.ToLower(strings.TrimRight(part.Name, ". ")) // which Windows ignores at the end
	for _, ending := range p.Endings {
		if strings.HasSuffix(name, ending) {
			return "its name ends with " + ending
		}
	}
	for _, t := range p.Types {
		if ok, _ := path.Match(t, part.Type); ok {
			return "its type is " + part.Type
		}
	}
	return ""
}

// doubtful is the opinion about a message that is not what it seems: the scanner may see other parts than the reader.
func (p *policy) doubtful(parsed *sdk.Parsed) sdk.Verdict {
	v := sdk.Verdict{Action: p.Ambiguous}
	for _, a := range parsed.Ambiguities {
		if len(v.Reasons) < 20 {
			v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "AMBIGUOUS_" + strings.ToUpper(strings.ReplaceAll(a.Kind, "-", "_")), Text: a.Text})
		}
	}
	if parsed.Truncated {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "TOO_MANY_PARTS", Text: "it has more parts than anybody looks at"})
	}
	if len(v.Reasons) == 0 {
		return sdk.Verdict{}
	}
	return v
}

func main() { serve.Main(&policy{Ambiguous: sdk.Accept}) }
