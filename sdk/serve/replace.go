package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// sendBody sends the new body of a verdict that replaces it, in pieces, before the
// answer. The readers are closed in any case; with send unset that is all. A
// panic of a reader is its author's, as one in Ask.
func (a *asker) sendBody(q *question, v *sdk.Verdict, send bool) (err error) {
	bodies, err := newBodies(v)
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "panic in a new body: %v\n%s", cause, debug.Stack())
			err = fmt.Errorf("panic in a new body: %v", cause)
		}
	}()
	defer closeAll(bodies)
	switch {
	case !send || err != nil:
		return err
	case len(bodies) == 0:
		return nil
	case len(bodies) > 1:
		return errors.New("replace the body: a verdict can have one new body, and this one has several")
	}
	return a.copyBody(q, bodies[0])
}

// copyBody sends what r holds until its end, or until nobody waits any more.
func (a *asker) copyBody(q *question, r io.Reader) error {
	size := wire.MaxChunk
	if sized, ok := r.(interface{ Len() int }); ok {
		size = min(size, max(sized.Len(), 1))
	}
	buffer := make([]byte, size)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buffer)
		if q.limit.Err() != nil {
			return fmt.Errorf("replace the body: %w", q.limit.Err())
		}
		if n > 0 || first && errors.Is(err, io.EOF) { // an empty body is one empty piece: none is a mistake
			piece := &wire.Body{Id: q.id, Data: buffer[:n]}
			if err := a.send(&wire.PluginFrame{Frame: &wire.PluginFrame_Body{Body: piece}}); err != nil {
				return fmt.Errorf("replace the body: %w", err)
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("replace the body: %w", err)
		}
	}
}

// newBodies lists the different readers of a verdict.
func newBodies(v *sdk.Verdict) (list []io.Reader, err error) {
	add := func(changes []sdk.Change) {
		for i := range changes {
			switch c := &changes[i]; {
			case c.Body == nil && c.Kind == sdk.ReplaceBody:
				err = errors.New("replace the body: the change has no Body")
			case c.Body != nil && !contains(list, c.Body):
				list = append(list, c.Body)
			}
		}
	}
	add(v.Changes)
	for i := range v.Recipients {
		add(v.Recipients[i].Changes)
	}
	return list, err
}

// contains reports whether r is in list. Readers of a type that cannot be compared are
// different.
func contains(list []io.Reader, r io.Reader) bool {
	if !reflect.ValueOf(r).Comparable() {
		return false
	}
	for _, other := range list {
		if reflect.ValueOf(other).Comparable() && other == r {
			return true
		}
	}
	return false
}

// closeAll closes the readers that can be closed. What Close says is of no interest: the
// body was read to its end, or is not wanted.
func closeAll(list []io.Reader) {
	for _, r := range list {
		if c, ok := r.(io.Closer); ok {
			_ = c.Close()
		}
	}
}
