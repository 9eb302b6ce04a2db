package serve

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimit: a question's context is one like any other, whether it is waited for or not.
func TestLimit(t *testing.T) {
	for name, use := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"as it is":   func(c context.Context) (context.Context, context.CancelFunc) { return c, func() {} },
		"waited for": func(c context.Context) (context.Context, context.CancelFunc) { c.Done(); return c, func() {} },
		"child":      context.WithCancel,
	} {
		for end, c := range map[string]struct {
			act  func(l *limit, stream context.CancelFunc)
			want error
		}{
			"deadline":      {func(*limit, context.CancelFunc) { time.Sleep(time.Second) }, context.DeadlineExceeded},
			"cancel":        {func(l *limit, _ context.CancelFunc) { l.cancel() }, context.Canceled},
			"stream":        {func(_ *limit, stream context.CancelFunc) { stream() }, context.Canceled},
			"then deadline": {func(l *limit, _ context.CancelFunc) { l.cancel(); time.Sleep(time.Second) }, context.Canceled},
		} {
			synctest.Test(t, func(t *testing.T) {
				stream, stop := context.WithCancel(t.Context())
				defer stop()
				l := &limit{Context: stream, end: time.Now().Add(time.Second)}
				defer l.cancel()
				ctx, release := use(l)
				defer release()
				if d, ok := ctx.Deadline(); !ok || time.Until(d) != time.Second || ctx.Err() != nil {
					t.Errorf("%s, %s: %v %v before the end", name, end, d, ctx.Err())
				}
				c.act(l, stop)
				synctest.Wait()
				if !errors.Is(ctx.Err(), c.want) {
					t.Errorf("%s, %s: %v, expected %v", name, end, ctx.Err(), c.want)
				}
				<-ctx.Done()
			})
		}
	}
	forever := &limit{Context: t.Context()}
	if _, ok := forever.Deadline(); ok || forever.Err() != nil {
		t.Error("a deadline where there is none")
	}
	done := forever.Done()
	forever.cancel()
	<-done
}
