package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Observe asks the plugin without making anybody wait (mode = "shadow"). The content is copied, so
// the message may go; record is called with the outcome, once, from another goroutine. Questions beyond the
// plugin's lanes, or whose content is more than what is left of Options.ShadowMemory, are dropped and recorded as busy at once.
func (p *Plugin) Observe(q *Question, record func(sdk.Verdict, time.Duration, error)) {
	p = p.latest()
	select {
	case p.shadows <- struct{}{}:
	default:
		record(sdk.Verdict{}, 0, failf(Busy, "too many questions in shadow mode"))
		return
	}
	m := p.Manifest()
	length := q.length(&m)
	if left := p.host.options.ShadowMemory - p.host.shadow.Add(length); left < 0 {
		p.host.shadow.Add(-length)
		<-p.shadows
		record(sdk.Verdict{}, 0, failf(Busy, "%d octets are more than shadow mode has left", length))
		return
	}
	octets, err := copyContent(q, length, p.host.options.ShadowMemory)
	if err != nil {
		p.host.shadow.Add(-length)
		<-p.shadows
		record(sdk.Verdict{}, 0, &Failure{Busy, err})
		return
	}
	own := *q
	own.Key = nil // never suspected: nothing waits for its verdict
	own.Open = func() (io.Reader, error) { return bytes.NewReader(octets), nil }
	if own.Parsed != nil { // which refers to the message
		parsed, err := own.Parsed()
		own.Parsed = func() (*sdk.Parsed, error) { return parsed, err }
	}
	own.Body = nil
	if q.Body != nil { // what it says is checked, and thrown away
		own.Body = func() (io.Writer, error) { return io.Discard, nil }
	}
	p.host.running.Go(func() {
		defer func() {
			p.host.shadow.Add(-length)
			<-p.shadows
		}()
		ctx, cancel := context.WithTimeout(p.host.ctx, p.config.Timeout.Std())
		defer cancel()
		v, took, err := p.Ask(ctx, &own)
		q.By = own.By
		record(v, took, err)
	})
}

func copyContent(q *Question, length, most int64) ([]byte, error) {
	if length <= 0 {
		return nil, nil
	}
	if length > most {
		return nil, fmt.Errorf("%d octets are too many to keep", length)
	}
	c, err := q.open(length)
	if err != nil {
		return nil, err
	}
	defer c.close()
	octets := make([]byte, length)
	_, err = io.ReadFull(c, octets)
	return octets, err
}
