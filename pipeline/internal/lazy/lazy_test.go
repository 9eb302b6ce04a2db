package lazy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestContext(t *testing.T) {
	none := func() {}
	for name, use := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"as it is":   func(c context.Context) (context.Context, context.CancelFunc) { return c, none },
		"waited for": func(c context.Context) (context.Context, context.CancelFunc) { c.Done(); return c, none },
		"of another": func(c context.Context) (context.Context, context.CancelFunc) {
			d := WithTimeout(c, time.Hour)
			return d, d.Stop
		},
		"of standard": func(c context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(c, time.Hour)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := WithTimeout(t.Context(), time.Second)
			defer c.Stop()
			ctx, stop := use(c)
			defer stop()
			if end, ok := ctx.Deadline(); !ok || time.Until(end) != time.Second {
				t.Errorf("%s: ends in %v", name, time.Until(end))
			}
			time.Sleep(time.Second - 1)
			if err := ctx.Err(); err != nil {
				t.Errorf("%s: %v before its end", name, err)
			}
			time.Sleep(1)
			synctest.Wait()
			if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v at its end", name, err)
			}
			<-ctx.Done()
		})
		synctest.Test(t, func(t *testing.T) {
			parent, cancel := context.WithCancel(t.Context())
			c := WithTimeout(parent, time.Second)
			defer c.Stop()
			ctx, stop := use(c)
			defer stop()
			select {
			case <-Withdrawn(c):
				t.Errorf("%s: withdrawn", name)
			default:
			}
			cancel()
			synctest.Wait()
			if err := ctx.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v after its parent", name, err)
			}
			<-ctx.Done()
			<-Withdrawn(c)
		})
	}
}
