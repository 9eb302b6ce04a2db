package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
)

// output is standard output. Whatever a command does about it, what could not be written makes the command fail and ends
// what goes on: a zone file that lacks its end shall not look like success, and `sluice demo | head` shall clear up.
type output struct {
	w    io.Writer
	stop context.CancelFunc

	mu  sync.Mutex
	err error // the first failure
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.mu.Lock()
		if o.err == nil {
			o.err = err
		}
		o.mu.Unlock()
		o.stop()
	}
	return n, err
}

// failure returns the error that takes the place of what the command says, nil if all was written. Whoever closed the pipe
// wanted no more, and needs no words.
func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if errors.Is(o.err, syscall.EPIPE) {
		return errSilent
	}
	return o.err
}

// input reads until the context ends: nobody waits for the rest of a line after Ctrl-C. What is read at that moment is lost.
type input struct {
	ctx context.Context
	r   io.Reader
}

func (i *input) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		n   int
		err error
	}
	own := make([]byte, min(len(p), 64<<10)) // the reader keeps it where we don't wait
	done := make(chan result, 1)
	go func() {
		n, err := i.r.Read(own)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return copy(p, own[:r.n]), r.err
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	}
}
