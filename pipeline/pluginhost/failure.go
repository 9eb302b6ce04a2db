package pluginhost

import (
	"errors"
	"fmt"
)

// Kind says how a plugin failed to form an opinion.
type Kind string

// The kinds of failure. They are the words of pipeline.FailureKind.
const (
	Busy    Kind = "busy"    // no lane in time; never lets mail through unscanned (RULES C2)
	Timeout Kind = "timeout" // no answer in time
	Crash   Kind = "crash"   // the process died, or can't be started
	Error   Kind = "error"   // the plugin said that it could not
	Invalid Kind = "invalid" // the answer breaks the contract
	Poison  Kind = "poison"  // this message kills the plugin (RULES C3)
)

var kinds = [...]Kind{Busy, Timeout, Crash, Error, Invalid, Poison}

// Failure is the error of Ask.
type Failure struct {
	Kind Kind
	Err  error
}

func (f *Failure) Error() string { return string(f.Kind) + ": " + f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

func failf(kind Kind, format string, args ...any) *Failure {
	return &Failure{kind, fmt.Errorf(format, args...)}
}

// kindOf returns the kind of an error of Ask, "" for nil.
func kindOf(err error) Kind {
	if err == nil { // spares an allocation for each question
		return ""
	}
	var f *Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}
