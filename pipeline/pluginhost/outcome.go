package pluginhost

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// This file is about what became of a question.

// ended deals with the result of a question. The alarm is disarmed.
func (l *lane) ended(ctx context.Context, content *content, sent chan error, r result) (sdk.Verdict, error) {
	content.close()
	if r.err != nil {
		l.abandon(sent)
		if cause := content.failure(); cause != nil {
			return sdk.Verdict{}, failf(Error, "read the message: %w", cause)
		}
		return sdk.Verdict{}, l.brokenLane(ctx, r.err)
	}
	l.p.answered.Add(1)
	l.p.resets.Store(0)
	l.release(sent)
	if cause := content.failure(); cause != nil { // an opinion about half a message
		return sdk.Verdict{}, failf(Error, "read the message: %w", cause)
	}
	return opinion(ctx, r.answer)
}

// giveUp leaves the lane to come back by itself. The alarm is disarmed, or has rung.
func (l *lane) giveUp(ctx context.Context, content *content, sent chan error) error {
	content.close()
	l.p.gone.Add(1)
	go l.cancelled(sent)
	return gaveUp(ctx)
}

// gaveUp says why nobody waits any more.
func gaveUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return failf(Timeout, "the question was withdrawn: %w", err)
	}
	return failf(Timeout, "no answer in time")
}

// opinion reads an answer. An error within the last moment before the deadline is the
// plugin noticing it a little before us.
func opinion(ctx context.Context, a *wire.Answer) (sdk.Verdict, error) {
	switch x := a.GetResult().(type) {
	case *wire.Answer_Verdict:
		v, err := wire.FromVerdict(x.Verdict)
		if err != nil {
			return sdk.Verdict{}, &Failure{Invalid, err}
		}
		return v, nil
	case *wire.Answer_Error:
		text := printable(x.Error.GetText())
		if len(text) > 1000 {
			text = text[:1000]
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 10*time.Millisecond {
			return sdk.Verdict{}, failf(Timeout, "no answer in time: %s", text)
		}
		return sdk.Verdict{}, failf(Error, "%s", text)
	}
	return sdk.Verdict{}, failf(Invalid, "the answer has neither verdict nor error")
}

// brokenLane says what the end of a stream means: the process died, or we killed it, or
// the plugin alone ended the stream.
func (l *lane) brokenLane(ctx context.Context, err error) error {
	if l.p.runner.awaitDeath(ctx.Done()) {
		switch reason := l.p.killedFor(); reason {
		case "":
			return failf(Crash, "the plugin died: %s", l.p.runner.status)
		case "stopped":
			return failf(Busy, "the plugin is being stopped")
		default:
			return failf(Timeout, "the plugin was killed: %s", reason)
		}
	}
	if status.Code(err) == codes.Unavailable {
		l.p.kill("it closed its connection")
		return failf(Crash, "the plugin closed its connection: %w", err)
	}
	return failf(Error, "the plugin ended the lane: %w", err)
}
