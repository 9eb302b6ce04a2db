package deliver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// Options are what a Remote is made of. The functions are called for each attempt, from any goroutine, and have to be quick.
type Options struct {
	Config      func(pipeline string) Config              // nil: the defaults
	Destination func(pipeline, domain string) Destination // nil: nothing is overridden
	Transport   func(domain string) pipeline.Transport    // nil: MX for every domain
	Hostname    string                                    // for EHLO
	Finder      *mx.Finder
	Policies    *tlspolicy.Policies
	Own         func(netip.AddrPort) bool // whether one of our listeners is there; nil: none is
	MaxIdle     int                       // connections that are kept, in all; 0 is 500
	Logger      *slog.Logger              // nil: none
	Now         func() time.Time          // nil: time.Now
	Times       *wire.Times               // nil: those of RFC 5321
}

// Remote delivers to other servers. It is a pipeline.Courier. Its methods may be called from any goroutine.
type Remote struct {
	Options
	pool *pool
	hops hopCache
	dead deadList
}

var _ pipeline.Courier = (*Remote)(nil)

// New returns a Remote. Close has to be called at the end.
func New(o Options) *Remote {
	if o.Config == nil {
		o.Config = func(string) Config { return DefaultConfig() }
	}
	if o.Destination == nil {
		o.Destination = func(string, string) Destination { return Destination{} }
	}
	if o.Transport == nil {
		o.Transport = func(string) pipeline.Transport { return pipeline.Transport{} }
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = 500
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Remote{Options: o, pool: newPool(o.MaxIdle)}
}

// Close ends the connections that wait for another message. Attempts that are under way end by their context; their
// connections are not kept.
func (r *Remote) Close() error {
	r.pool.close()
	return nil
}

// config returns what holds for a parcel.
func (r *Remote) config(name, domain string) Config {
	c := r.Config(name)
	d := r.Destination(name, domain)
	d.over(&c)
	return c
}

// Send makes one attempt; see pipeline.Courier.
func (r *Remote) Send(ctx context.Context, _ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	a := &attempt{ctx: ctx, r: r, p: p, config: r.config(p.Pipeline, p.Domain), start: r.Now()}
	attemptCtx, cancel := context.WithTimeout(ctx, a.config.Timeout.Std()+time.Duration(p.Size/slowest)*time.Second)
	defer cancel()
	content, err := a.read(attemptCtx)
	if err != nil {
		return pipeline.Sent{}, nothing, fmt.Errorf("deliver %s: %w", p.ID, err)
	}
	defer content.Close()
	a.prepare()
	if a.left() > 0 {
		a.travel(attemptCtx)
	}
	if a.ours == nil && ctx.Err() != nil {
		a.ours = context.Cause(ctx)
	}
	if a.ours != nil && !a.answered {
		a.giveBack()
		return pipeline.Sent{}, nothing, fmt.Errorf("deliver %s: %w", p.ID, a.ours)
	}
	sent := a.result()
	if a.session == nil {
		return sent, nothing, nil
	}
	return sent, a.giveBack, nil
}

func nothing() {}

// slowest is how many octets a second a connection has to take of a large message, on top of Config.Timeout: otherwise one of 50 MB
// could never leave by a slow line.
const slowest = 64 << 10

// read opens the content and goes through it once.
func (a *attempt) read(ctx context.Context) (io.Closer, error) {
	octets, err := a.p.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the content: %w", err)
	}
	if a.content, err = wire.Scan(octets, octets.Size()); err != nil {
		octets.Close()
		return nil, err
	}
	return octets, nil
}
