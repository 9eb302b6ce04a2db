package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Options say what to check, and how thoroughly.
type Options struct {
	Plugin *pluginhost.Config // its table: command or builtin, memory, lanes, timeout, read, config
	Dir    string             // what its command is relative to, and its working directory; absolute
	Quick  bool               // smaller messages
	Limit  time.Duration      // for all checks together
	Report func(Result)       // is called after each check

	leaveOut func(check string) bool // tests of this package only
}

// The results of a check.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped" // it does not apply to this plugin
	Untried = "untried" // it could not be made: the plugin does not start, or there was no time left
)

// Result is the outcome of one check.
type Result struct {
	Check        string  `json:"check"`
	Section      string  `json:"section"` // of sdk/PROTOCOL.md
	Status       string  `json:"status"`  // ok, failed, skipped, untried
	Note         string  `json:"note,omitempty"`
	Sent         string  `json:"sent,omitempty"` // the last three of a failure
	Expected     string  `json:"expected,omitempty"`
	Seen         string  `json:"seen,omitempty"`
	Milliseconds float64 `json:"ms"`
}

// Summary counts results.
type Summary struct {
	Plugin  string  `json:"plugin"` // name and version by its own account
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Skipped int     `json:"skipped"`
	Untried int     `json:"untried"`
	Seconds float64 `json:"seconds"`

	Asked  int    `json:"asked"`           // questions that were answered, without those that were cancelled
	Errors int    `json:"errors"`          // of those with an error
	Error  string `json:"error,omitempty"` // the first: about what, and its text
}

// check is one promise of the protocol.
type check struct {
	name     string
	section  string
	sent     string
	expected string
	limit    time.Duration                                 // 30 s if 0
	skip     func(*run) string                             // why it does not apply
	do       func(context.Context, *run) (string, error)   // a note, or what was seen
	process  func(context.Context, *run) (*process, error) // what it needs: configured if nil
	after    bool                                          // it is about what was seen before, and needs no time
}

// seenError is what was seen where a check tried several things: it says which.
type seenError struct{ sent, expected, seen string }

func (e *seenError) Error() string { return e.seen }

// run is what checks share.
type run struct {
	Options
	timeout  time.Duration
	state    string // the plugin's state directory, the same for every process
	dir      string // of this run
	manifest *wire.DescribeResponse
	lanes    int // that may be opened
	p        *process
	seen     observer
	peak     int64 // octets
	all      []*process
	broken   string // why no process can be had
	headless bool   // its lanes have no response headers

	ctx  context.Context // of all checks
	mu   sync.Mutex
	idle []*lane        // open, and without a question
	used map[*lane]bool // all that are open
}

// Run checks a plugin. The error is about ourselves: a directory that cannot be made.
func Run(ctx context.Context, o Options) (Summary, error) {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "sluice-check-")
	if err != nil {
		return Summary{}, fmt.Errorf("check a plugin: %w", err)
	}
	defer os.RemoveAll(dir)
	r := &run{Options: o, dir: dir, state: filepath.Join(dir, "state"), timeout: o.Plugin.Timeout.Std(), manifest: &wire.DescribeResponse{}, used: make(map[*lane]bool)}
	if err := os.Mkdir(r.state, 0o700); err != nil {
		return Summary{}, fmt.Errorf("check a plugin: %w", err)
	}
	defer r.endAll()
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	r.ctx = ctx
	var sum Summary
	for _, c := range checks() {
		if o.leaveOut != nil && o.leaveOut(c.name) {
			continue
		}
		result := r.one(ctx, &c)
		switch result.Status {
		case OK:
			sum.OK++
		case Failed:
			sum.Failed++
		case Untried:
			sum.Untried++
		default:
			sum.Skipped++
		}
		o.Report(result)
	}
	if sum.Plugin = r.manifest.GetName() + " " + printable(r.manifest.GetVersion(), 60); r.manifest.GetName() == "" {
		sum.Plugin = o.Plugin.Name // it never said who it is
	}
	r.seen.mu.Lock()
	sum.Asked, sum.Errors, sum.Error = r.seen.asked, r.seen.errors, r.seen.refusal
	r.seen.mu.Unlock()
	sum.Seconds = time.Since(begin).Round(10 * time.Millisecond).Seconds()
	return sum, nil
}

// one makes one check.
func (r *run) one(ctx context.Context, c *check) Result {
	result := Result{Check: c.name, Section: c.section, Status: OK}
	begin := time.Now()
	if status, why := r.reason(ctx, c); why != "" {
		result.Status, result.Note = status, why
		return result
	}
	note, err := r.attempt(ctx, c)
	result.Note, result.Milliseconds = note, float64(time.Since(begin).Microseconds())/1000
	if err == nil {
		return result
	}
	result.Status, result.Note, result.Sent, result.Expected, result.Seen = Failed, "", c.sent, c.expected, printable(err.Error(), 600)
	var seen *seenError
	if errors.As(err, &seen) {
		result.Sent, result.Expected = or(seen.sent, c.sent), or(seen.expected, c.expected)
	}
	return result
}

// reason says why a check is not made.
func (r *run) reason(ctx context.Context, c *check) (status, why string) {
	if r.broken != "" && c.process == nil {
		return Untried, r.broken
	}
	if c.skip != nil {
		if why := c.skip(r); why != "" && why == r.broken {
			return Untried, why
		} else if why != "" {
			return Skipped, why
		}
	}
	switch {
	case c.after || ctx.Err() == nil:
		return "", ""
	case errors.Is(ctx.Err(), context.Canceled):
		return Untried, "interrupted"
	}
	return Untried, fmt.Sprintf("the checks before took all of the %s that there are", r.Limit)
}

func (r *run) attempt(ctx context.Context, c *check) (string, error) {
	limit := c.limit
	if limit == 0 {
		limit = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.process == nil {
		if err := r.ready(ctx); err != nil {
			return "", fmt.Errorf("it could not be started again: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, r.resetAll) // nothing blocks for longer
	note, err := c.do(ctx, r)
	if !stop() {
		r.resetAll()
	}
	if r.p != nil && r.p.alive() {
		r.peak = max(r.peak, r.p.peak())
		r.p.fit = r.p.fit && err == nil // one fault shall not be the next check's
	}
	return note, err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// startRaw starts a process that ends with the run.
func (r *run) startRaw(state string, environ ...string) (*process, error) {
	p, err := start(r.Plugin, r.Dir, state, environ...)
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, p)
	return p, nil
}

// dialed starts a process up to the connection.
func (r *run) dialed(ctx context.Context, state string) (*process, error) {
	p, err := r.startRaw(state, handshake("1")...)
	if err != nil {
		return nil, err
	}
	err = func() error {
		limited, cancel := context.WithTimeout(ctx, startTime)
		defer cancel()
		line, err := p.greeting(limited)
		if err != nil {
			return err
		}
		socket, err := p.socketOf(line)
		if err != nil {
			return err
		}
		return p.connect(socket)
	}()
	if err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// configured starts a process up to the last step before lanes.
func (r *run) configured(ctx context.Context) (*process, error) {
	p, err := r.dialed(ctx, r.state)
	if err != nil {
		return nil, err
	}
	if _, err := p.describe(ctx); err != nil {
		p.end()
		return nil, err
	}
	if err := r.configure(ctx, p); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

func (p *process) describe(ctx context.Context) (*wire.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := p.client.Describe(ctx, &wire.DescribeRequest{HostVersion: "sluice plugin check"})
	if err != nil {
		return nil, rpcError("Describe", err, p)
	}
	return d, nil
}

// configure hands the plugin its own settings.
func (r *run) configure(ctx context.Context, p *process) error {
	complaints, err := r.settings(ctx, p, r.Plugin.Config)
	if err != nil {
		return err
	}
	if len(complaints) > 0 {
		return fmt.Errorf("a complaint about config.%s: %s", complaints[0].GetKey(), printable(complaints[0].GetProblem(), 300))
	}
	return nil
}

// settings configures with a table and returns the complaints.
func (r *run) settings(ctx context.Context, p *process, config map[string]any) ([]*wire.SettingError, error) {
	table, err := wire.ToTable(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	answer, err := p.client.Configure(ctx, &wire.ConfigureRequest{Config: table, StateDir: r.state, Lanes: uint32(r.lanes), Dir: r.Dir})
	if err != nil {
		return nil, rpcError("Configure", err, p)
	}
	return answer.GetErrors(), nil
}

// ready makes sure that r.p is a process that can be asked.
func (r *run) ready(ctx context.Context) error {
	if r.p != nil && r.p.alive() && r.p.fit {
		return nil
	}
	if r.p != nil {
		r.resetAll()
		r.p.end()
	}
	p, err := r.configured(ctx)
	if err != nil {
		return err
	}
	p.fit, r.p = true, p
	return nil
}

func (r *run) endAll() {
	for _, p := range r.all {
		p.end()
	}
}
