package pipeline

import (
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Observer is told what a pipeline did, so that it can be counted. Its methods are
// called from the goroutines of sessions, many at a time; they must not block, and
// must not keep what they are given.
type Observer interface {
	// Stage is called once for each stage that a message went through.
	Stage(r *StageReport)

	// Plugin is called once for each answer of a plugin, also of those that failed; not
	// for shadow plugins, whose host counts them.
	Plugin(r *PluginReport)
}

// StageReport is how one message went through one stage.
type StageReport struct {
	Pipeline string
	Stage    string
	Action   sdk.Action // the strongest among the recipients after it
	Took     time.Duration
}

// PluginReport is how one question to one plugin ended.
type PluginReport struct {
	Pipeline  string
	Stage     string
	Phase     sdk.Phase
	Plugin    string
	Action    sdk.Action  // the verdict's, or what the failure stands for
	Failure   FailureKind // "": it answered
	Refused   int         // changes, routes and bodies that it asked for and may not
	Unscanned bool        // it failed, and the mail went on all the same
	Took      time.Duration
}

// Alerter hears what plugins want the administrator to know soon. Alert is called
// from the goroutines of sessions and must not block; the pipeline has logged the
// alert by then.
type Alerter interface {
	Alert(plugin string, a sdk.Alert)
}

// nobody is the Observer and Alerter of who wants none.
type nobody struct{}

func (nobody) Stage(*StageReport)      {}
func (nobody) Plugin(*PluginReport)    {}
func (nobody) Alert(string, sdk.Alert) {}
