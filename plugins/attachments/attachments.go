// Package attachments is the shipped plugin that looks at what a message carries: types by
// content and by name, archives from the inside, encrypted ones, documents with macros,
// names that deceive, and structures that programs read differently.
//
// The message is kept in memory up to 256 KiB, else in the plugin's temporary directory, while
// it is looked at; the shared parse says where its parts are. What programs may read beside
// them is looked at too: every name and encoding of a repeated field, what stands before, between and behind the parts,
// multiparts and messages in base64 or quoted-printable, messages attached as files, uuencode, yEnc and TNEF. Archives (zip and everything built on it, tar,
// gzip, bzip2, xz, zstd, rar, 7z) are looked into within limits on depth, ratio, files, octets
// and time; nothing is ever written under a name of the archive's.
//
// Each kind of finding has an action in the settings; the strongest wins. What a type
// claims and what its octets are is judged by both: a program that calls itself a picture is a
// program.
//
// Untrusted input: all of it. A parser that panics or fails is the finding "damaged". Memory
// beyond the limits is contained by the process's own (pluginhost).
package attachments

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Settings is [plugin.attachments.config].
type Settings struct {
	BlockTypes []string   `config:"block_types"` // words of typeOf
	BlockNames []string   `config:"block_names"` // patterns as in a shell, small letters, of the last element of a name
	AllowNames []string   `config:"allow_names"` // exceptions from both
	Blocked    sdk.Action `config:"blocked"`     // what happens to a blocked type or name
	Encrypted  sdk.Action `config:"encrypted"`   // an archive that nobody can look into
	Macros     sdk.Action `config:"macros"`      // a document with macros
	Limit      sdk.Action `config:"limit"`       // an archive over a limit
	Damaged    sdk.Action `config:"damaged"`     // an archive that does not read
	Unreadable sdk.Action `config:"unreadable"`  // an archive of a kind that nothing here looks into
	Deceptive  sdk.Action `config:"deceptive"`   // a name written to look like another
	Ambiguous  sdk.Action `config:"ambiguous"`   // a structure that programs read differently
	Score      float64    `config:"score"`       // spam points for each kind of finding
	Limits     Limits     `config:"limits"`
	Text       string     `config:"text"` // of the reply to what is refused
}

// Limits bound the work for one message.
type Limits struct {
	Depth  int           `config:"depth"`  // archives within archives
	Files  int           `config:"files"`  // in all archives together
	Octets sdk.Octets    `config:"octets"` // unpacked, of all together
	Ratio  int           `config:"ratio"`  // octets unpacked for each octet of an archive, beyond a megabyte
	Time   time.Duration `config:"time"`
}

func defaults() Settings {
	return Settings{
		BlockTypes: []string{"executable", "shortcut"}, BlockNames: dangerousNames(),
		Blocked: sdk.Reject, Encrypted: sdk.Quarantine, Macros: sdk.Quarantine, Limit: sdk.Quarantine,
		Damaged: sdk.Accept, Unreadable: sdk.Quarantine, Deceptive: sdk.Quarantine, Ambiguous: sdk.Accept,
		Limits: Limits{Depth: 5, Files: 2000, Octets: 500 << 20, Ratio: 200, Time: 8 * time.Second},
		Text:   "The message has an attachment that is not accepted here",
	}
}

// dangerousNames are names of what runs when it is opened.
func dangerousNames() []string {
	const words = "ade adp appx appxbundle application bas bat chm cmd com cpl dll exe hta ins iso img inf isp jar jnlp js jse lnk mde msc " +
		"msi msix msp mst ocx one pif ppam ps1 ps1xml ps2 psc1 psm1 reg scf scr sct settingcontent-ms shb sys url vb vbe vbs vhd vhdx vxd wsc wsf wsh xbap xll xlam"
	var out []string
	for word := range strings.FieldsSeq(words) {
		out = append(out, "*."+word)
	}
	return out
}

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for i, word := range s.BlockTypes {
		if !knownType(word) {
			bad(fmt.Sprintf("block_types[%d]", i+1), "%q, expected one of %s", word, strings.Join(typeWords(), ", "))
		}
	}
	for key, list := range map[string][]string{"block_names": s.BlockNames, "allow_names": s.AllowNames} {
		for i, p := range list {
			if _, err := path.Match(p, "x"); err != nil || p != strings.ToLower(p) || p == "" {
				bad(fmt.Sprintf("%s[%d]", key, i+1), "%q, expected a pattern in small letters such as \"*.exe\"", p)
			}
		}
	}
	l := s.Limits
	if l.Depth < 1 || l.Depth > 20 {
		bad("limits.depth", "%d, expected 1 to 20", l.Depth)
	}
	if l.Files < 1 || l.Files > 100000 {
		bad("limits.files", "%d, expected 1 to 100000", l.Files)
	}
	if l.Octets < 1<<20 || l.Octets > 16<<30 {
		bad("limits.octets", "%d, expected 1MB to 16GB", l.Octets)
	}
	if l.Ratio < 2 {
		bad("limits.ratio", "%d, expected at least 2", l.Ratio)
	}
	if l.Time < 100*time.Millisecond || l.Time > 10*time.Minute {
		bad("limits.time", "%s, expected 100ms to 10m", l.Time)
	}
	return errors.Join(problems...)
}

type plugin struct{ settings Settings }

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "attachments", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, Parsed: true, Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	return errors.Join(s.Decode(&p.settings), p.settings.check())
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	kept, err := keep(m.Content, m.Size)
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("keep the message: %w", err)
	}
	defer kept.close()
	parsed, err := m.Parsed()
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("read the message's parts: %w", err)
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, p.settings.Limits.Time)
	defer cancel()
	l := newLook(ctx, &p.settings)
	for _, a := range parsed.Ambiguities {
		l.find(ambiguous, "", a.Kind+": "+a.Text)
	}
	l.message(parsed, kept)
	if parsed.Truncated {
		l.find(overLimit, "", "the message has more parts than are looked at")
	}
	if err := errors.Join(outer.Err(), l.failed); err != nil {
		return sdk.Verdict{}, fmt.Errorf("look at the attachments: %w", err)
	}
	return l.verdict(), nil
}

// verdict is the strongest of what the findings mean.
func (l *look) verdict() sdk.Verdict {
	var v sdk.Verdict
	seen := make(map[finding]bool)
	for _, f := range l.findings {
		v.Action = max(v.Action, l.settings.action(f.kind))
		if !seen[f.kind] {
			seen[f.kind] = true
			v.Score += l.settings.Score
		}
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "ATTACHMENT_" + string(f.kind), Text: f.text})
	}
	switch v.Action {
	case sdk.Reject:
		v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: l.settings.Text}
	case sdk.Defer:
		v.Reply = &sdk.Reply{Code: 451, Enhanced: "4.7.1", Text: l.settings.Text}
	}
	return v
}

func (s *Settings) action(f finding) sdk.Action {
	switch f {
	case blocked:
		return s.Blocked
	case encrypted:
		return s.Encrypted
	case macros:
		return s.Macros
	case overLimit:
		return s.Limit
	case damaged:
		return s.Damaged
	case unreadable:
		return s.Unreadable
	case deceptive:
		return s.Deceptive
	case ambiguous:
		return s.Ambiguous
	}
	return sdk.Accept
}
