package pipeline

import (
	"context"

	"github.com/sluicemail/sluice/sdk"
)

// The names of the stages: TOML key, log attribute and heading in the trace.
const (
	StageReceive      = "receive"
	StageAuthenticate = "authenticate"
	StageAntiSpam     = "anti-spam"
	StageAntiVirus    = "anti-virus"
	StageRoute        = "route"
	StageQueue        = "queue"
	StageDeliver      = "deliver"
)

// Stage is one of authenticate, anti-spam, anti-virus and route.
//
// The pipeline calls Process from the goroutine that received the message, one
// stage after the other; the message belongs to the stage until Process returns.
// A stage says what it thinks through Recipient.Take, Message.Change and
// Message.Trace. An error means that the stage could not do its work: every
// recipient is deferred. When ctx ends, Process returns soon.
type Stage interface {
	Name() string
	Process(ctx context.Context, m *Message) error
}

// Asker is one plugin as a stage sees it. It may be asked from many goroutines.
type Asker interface {
	Name() string
	Manifest() sdk.Manifest

	// Ask returns the plugin's verdict. An error is a *Failure; the zero Verdict comes
	// with it. What the plugin sends as a new body goes to q.NewBody before Ask returns,
	// and nothing afterwards.
	Ask(ctx context.Context, q *Question) (sdk.Verdict, error)

	// Shadow reports whether the plugin is asked for the record only; such an Asker
	// returns from Ask at once and obeys nobody.
	Shadow() bool

	// OnFailure returns what the administrator wants for a failure of this kind, and
	// false where the stage's default holds.
	OnFailure(kind FailureKind) (sdk.Action, bool)
}

// FailureKind says how a plugin failed to form an opinion.
type FailureKind string

// The kinds of failure.
const (
	FailBusy    FailureKind = "busy"    // no lane in time; never lets mail through unscanned (RULES C2)
	FailTimeout FailureKind = "timeout" // no answer in time
	FailCrash   FailureKind = "crash"   // the process died
	FailError   FailureKind = "error"   // the plugin said that it could not
	FailInvalid FailureKind = "invalid" // the answer breaks the contract
	FailPoison  FailureKind = "poison"  // this message kills the plugin (RULES C3)
)

// Failure is the error of an Asker.
type Failure struct {
	Kind FailureKind
	Err  error
}

func (f *Failure) Error() string { return string(f.Kind) + ": " + f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
