package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Beginner is an Asker that can be asked in two halves, so that a stage puts its question to all plugins before
// it waits for any of them, and needs no goroutine for each.
type Beginner interface {
	Asker

	// Begin puts the question to the plugin if nothing has to be waited for. It returns a function that is called once and returns
	// what Ask would, and how long the plugin took; or nil if it has done nothing, and Ask is to be called.
	Begin(ctx context.Context, q *Question) (wait func() (sdk.Verdict, time.Duration, error))
}

// asking is one answer while it is made.
type asking struct {
	*Answer
	ctx  context.Context
	q    Question
	via  *Pipeline
	sink bodySink
	wait func() (sdk.Verdict, time.Duration, error) // the question is with the plugin
	over bool                                       // there is an answer
}

// askAll makes all answers.
func askAll(list []asking) {
	begun := 0
	for i := range list {
		one := &list[i]
		one.prepare()
		if len(list) > 1 && !one.over {
			one.begin()
		}
		if one.wait != nil {
			begun++
		}
	}
	var others sync.WaitGroup
	for i := range list {
		switch one := &list[i]; {
		case one.over, one.wait != nil:
		case i == len(list)-1 && begun == 0: // this goroutine has nothing else to do
			one.finish(one.ask)
		default:
			others.Go(func() { one.finish(one.ask) })
		}
	}
	for i := len(list) - 1; i >= 0; i-- { // whoever was asked last mostly answers last: then the others' answers are there
		if one := &list[i]; one.wait != nil {
			one.finish(one.wait)
		}
	}
	others.Wait()
}

func (a *asking) prepare() {
	a.sink.closed = true
	if a.over {
		return
	}
	if errors.Is(a.ctx.Err(), context.DeadlineExceeded) { // RULES C2
		a.Failure, a.over = &Failure{FailTimeout, errNotReached}, true
		return
	}
	a.q.NewBody = func() (io.Writer, error) {
		a.sink.open(a.via, a.q.Phase)
		return &a.sink, nil
	}
}

// begin puts the question, if that goes without waiting.
func (a *asking) begin() {
	b, ok := a.Asker.(Beginner)
	if !ok {
		return
	}
	defer a.catch()
	a.wait = b.Begin(a.ctx, &a.q)
}

func (a *asking) ask() (sdk.Verdict, time.Duration, error) {
	start := time.Now()
	verdict, err := a.Asker.Ask(a.ctx, &a.q)
	return verdict, time.Since(start), err
}

// finish waits for the verdict and makes the answer of it.
func (a *asking) finish(wait func() (sdk.Verdict, time.Duration, error)) {
	defer a.catch()
	verdict, took, err := wait()
	a.Took, a.by = took, a.q.By
	body, bad := a.sink.close()
	a.Body = body
	if err == nil && bad != nil {
		err = &Failure{FailInvalid, bad}
	}
	if err == nil {
		err = checkScores(&verdict)
	}
	if err == nil {
		a.Verdict = verdict
		return
	}
	a.discardBody()
	if !errors.As(err, &a.Failure) {
		a.Failure = &Failure{FailError, err}
	}
}

// catch takes a panic over to the goroutine that waits for all answers,
// which belongs to a session: there it ends one connection, here it would end the server.
func (a *asking) catch() {
	if v := recover(); v != nil {
		a.over = true
		a.Body, _ = a.sink.close()
		a.discardBody()
		a.panicked = fmt.Sprintf("ask plugin %s: %v\n%s", a.Asker.Name(), v, debug.Stack())
	}
}
