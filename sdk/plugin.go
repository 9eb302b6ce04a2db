package sdk

import "context"

// Phase is a moment at which a plugin can be asked.
type Phase string

// Content is asked after the final dot, before the message is accepted.
const Content Phase = "content"

// Want says how much of a message a plugin is sent.
type Want string

// The amounts.
const (
	WantNone   Want = "none"   // the envelope only
	WantHeader Want = "header" // up to and including the empty line
	WantAll    Want = "all"    // everything
)

// Manifest is what a plugin says about itself when asked to Describe.
type Manifest struct {
	Name     string       // [a-z0-9-]+
	Version  string       // free text, shown in traces
	Phases   []Phase      // when it is asked
	Want     Want         // how much of the message it is sent
	Changes  []ChangeKind // which changes it may ask for; others are refused by the core
	MaxLanes int          // questions it can work on at once; 0 is no limit of its own
	Overlap  bool         // a second instance may run beside the first during replacement
}

// Settings is the plugin's table in the configuration and its place on disk.
type Settings struct {
	Config   map[string]any // [plugin.NAME.config]: string, int64, float64, bool, time.Time, []any, map[string]any
	StateDir string         // a directory of the plugin's own that survives restarts
}

// SettingError is a complaint about one key of Settings.Config; the core shows it
// with the file and line of that key.
type SettingError struct {
	Key     string // path below [plugin.NAME.config], dotted
	Problem string // what is wrong and what was expected
}

func (e *SettingError) Error() string { return e.Key + ": " + e.Problem }

// Plugin is what an author implements. Describe is called first, then Configure
// once, then Ask from many goroutines at a time, at most Manifest.MaxLanes.
//
// Ask returns an opinion, or an error if it could not form one; the
// administrator's on_failure decides what an error means. ctx ends when nobody
// waits for the answer any more. Ask may return before it has read all of
// m.Content, and must not keep m.
type Plugin interface {
	Describe() Manifest
	Configure(ctx context.Context, s Settings) error
	Ask(ctx context.Context, m *Message) (Verdict, error)
}
