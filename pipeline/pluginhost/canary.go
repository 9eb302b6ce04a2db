package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Canary is the key canary of a plugin's table: another version of it.
type Canary struct {
	Command []string          `toml:"command"` // its program and arguments
	Builtin string            `toml:"builtin"` // a plugin from this program, in place of command
	SHA256  string            `toml:"sha256"`  // of command[0], checked at each start when set
	Share   float64           `toml:"share"`   // of the mail, above 0 and at most 0.5; 0: no canary
	Config  map[string]any    `toml:"config"`  // in place of the plugin's own config, when set
	Files   map[string]string `toml:"files"`   // further files that it reads, with the SHA-256 of each
}

func (c *Canary) validate(builtins []string, report func(key, format string, args ...any)) {
	set := len(c.Command) > 0 || c.Builtin != "" || c.SHA256 != "" || len(c.Config) > 0 || len(c.Files) > 0
	switch {
	case !set && c.Share == 0:
		return
	case !(c.Share > 0 && c.Share <= 0.5):
		report("canary.share", "%v, expected above 0 and at most 0.5: the share of the mail about which the second version is asked", c.Share)
	case len(c.Command) == 0 && c.Builtin == "" && len(c.Config) == 0:
		report("canary.command", "missing, expected command, builtin or config: what is different about the second version")
	case len(c.Command) > 0 && c.Builtin != "":
		report("canary.builtin", "command is set too, expected one of the two")
	case c.Builtin != "" && !slices.Contains(builtins, c.Builtin):
		report("canary.builtin", "unknown builtin %q, expected one of %q", c.Builtin, builtins)
	case len(c.Command) > 0 && c.Command[0] == "":
		report("canary.command", "the program is empty")
	case c.SHA256 != "" && !isDigest(c.SHA256):
		report("canary.sha256", "%q, expected 64 hexadecimal digits", c.SHA256)
	}
	for name, digest := range c.Files {
		if digest != "" && !isDigest(digest) {
			report("canary.files."+name, "%q, expected 64 hexadecimal digits", digest)
		}
	}
}

// When a canary is given up. The counts are of questions about content since it was started.
const (
	canaryCrashes  = 3    // deaths
	canaryFailures = 5    // failures at least, and
	canaryFailing  = 0.05 // this part of what it was asked
	driftSamples   = 200  // verdicts of the canary before its verdicts are compared, and again after as many
	driftShare     = 0.05 // an action's part of the verdicts has to differ by this much to count,
	driftScore     = 0.5  // or the mean score by this much,
	driftSigmas    = 4.5  // and by so many standard errors
)

// canary is a second version of a plugin, that is asked in its place about a share of the mail: by a hash of the
// message ID, so that all phases of a message are answered by the same one. It has a process, lanes and a state directory
// (NAME.canary) of its own, and is told no events. What it answers is obeyed; when it fails, the plugin itself is asked in what
// is left of the time.
//
// It is given up by itself, until the next reload, when it crashes or fails too often, or when its verdicts drift: for each action, and for
// "has detections", the parts of the verdicts of both versions are compared by the two-proportion z-test, and the mean scores by Welch's; a
// difference counts when it is both certain (4.5 standard errors, which chance alone reaches less than once in 100,000 tests) and large
// enough to matter (5 of 100 verdicts, or half a point).
type canary struct {
	plugin atomic.Pointer[Plugin] // another one only when a reload that had ended it was undone
	main   string
	share  uint32 // of 2^32

	mu      sync.Mutex
	stopped bool
	why     string
	asked   uint64
	failed  uint64
	crashes uint64
	its     tally
	others  tally
}

// version returns the table that the second version would have if it were a plugin.
func (c *Canary) version(of Config) Config {
	own := of
	own.Canary = Canary{}
	if c.OwnProgram() {
		own.Command, own.Builtin, own.SHA256, own.Files = c.Command, c.Builtin, c.SHA256, c.Files
	}
	if c.OwnConfig() {
		own.Config = c.Config
	}
	return own
}

// OwnProgram reports whether the second version is another program, whose command, sha256 and files are its own.
func (c *Canary) OwnProgram() bool { return len(c.Command) > 0 || c.Builtin != "" }

// OwnConfig reports whether the second version has settings of its own.
func (c *Canary) OwnConfig() bool { return len(c.Config) > 0 }

func newCanary(h *Host, c Config) *canary {
	own := &canary{main: c.Name, share: uint32(c.Canary.Share * math.MaxUint32)}
	own.plugin.Store(newRole(h, c.Canary.version(c), ".canary"))
	return own
}

// chosen reports whether a question is the canary's.
func (c *canary) chosen(q *Question) bool {
	if c == nil || q.Envelope.ID == "" {
		return false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(q.Envelope.ID))
	x := h.Sum32() // FNV's high bits are poor for short texts: mix (MurmurHash3's finalizer)
	x ^= x >> 16
	x *= 0x85ebca6b
	x ^= x >> 13
	x *= 0xc2b2ae35
	x ^= x >> 16
	if x > c.share {
		return false
	}
	if m := c.plugin.Load().Manifest(); m.Name != "" && !slices.Contains(m.Phases, q.phase()) { // it has no opinion there
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.stopped
}

// ask asks the canary in half of the time that there is, so that the plugin itself can be asked if it fails. A message
// that it dies of is not suspected: it is asked again at once, of the other version.
func (c *canary) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	plugin := c.plugin.Load()
	patience := plugin.config.Timeout.Std()
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	own := *q
	own.Key = nil
	start := time.Now()
	plugin.stats.asked.Add(1)
	plugin.stats.inFlight.Add(1)
	v, err := plugin.ask(limited, &own)
	plugin.stats.inFlight.Add(-1)
	plugin.stats.done(time.Since(start), kindOf(err))
	if ctx.Err() == nil && !errors.Is(err, errMoved) { // a reload is replacing it
		c.note(q, &v, err)
	}
	if err == nil {
		manifest := plugin.Manifest()
		q.By = &manifest
	}
	return v, err
}

// note counts an answer of the canary and gives it up if that was one too many.
func (c *canary) note(q *Question, v *sdk.Verdict, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	switch kind := kindOf(err); {
	case err == nil:
		if q.phase() == sdk.PhaseContent {
			c.its.add(v)
			if int(c.its.n)%driftSamples == 0 {
				if why := drift(&c.its, &c.others); why != "" {
					c.giveUp("its verdicts drift: " + why)
				}
			}
		}
	case kind == Busy:
	default:
		c.failed++
		if kind == Crash {
			c.crashes++
		}
		switch {
		case c.crashes >= canaryCrashes:
			c.giveUp(fmt.Sprintf("it died %d times", c.crashes))
		case c.failed >= canaryFailures && float64(c.failed) >= canaryFailing*float64(c.asked):
			c.giveUp(fmt.Sprintf("%d of %d questions failed, the last: %v", c.failed, c.asked, err))
		}
	}
}

// compare notes a verdict of the plugin itself.
func (c *canary) compare(q *Question, v *sdk.Verdict) {
	if c == nil || q.phase() != sdk.PhaseContent {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.others.add(v)
}

// giveUp stops asking it. c.mu is held. Its process stays until the next reload, for questions in flight.
func (c *canary) giveUp(why string) {
	if c.stopped {
		return
	}
	c.stopped, c.why = true, why
	plugin := c.plugin.Load()
	plugin.log.Error("canary given up", "action", "all mail to the other version", "why", why)
	plugin.host.options.Alert(c.main, sdk.Alert{
		Key: "plugin " + c.main + " canary", Text: fmt.Sprintf("The canary of plugin %s was given up: %s", c.main, why),
	})
}

// tally counts verdicts: what they want, and their scores.
type tally struct {
	n       float64
	parts   map[string]float64 // by action, and "detections"
	sum     float64
	squares float64
}

func (t *tally) add(v *sdk.Verdict) {
	if t.parts == nil {
		t.parts = make(map[string]float64)
	}
	action, score, found := v.Action, v.Score, len(v.Detections) > 0
	for i := range v.Recipients {
		r := &v.Recipients[i]
		action, found = max(action, r.Action), found || len(r.Detections) > 0
	}
	t.n++
	t.parts[action.String()]++
	if found {
		t.parts["detections"]++
	}
	t.sum += score
	t.squares += score * score
	if t.n >= 100*driftSamples { // what was long ago counts less
		t.n, t.sum, t.squares = t.n/2, t.sum/2, t.squares/2
		for part := range t.parts {
			t.parts[part] /= 2
		}
	}
}

// drift says how two distributions of verdicts differ, or "".
func drift(its, others *tally) string {
	if its.n < driftSamples || others.n < driftSamples {
		return ""
	}
	names := slices.Sorted(maps.Keys(its.parts))
	for _, name := range slices.Sorted(maps.Keys(others.parts)) {
		if _, both := its.parts[name]; !both {
			names = append(names, name)
		}
	}
	for _, name := range names {
		a, b := its.parts[name]/its.n, others.parts[name]/others.n
		pooled := (its.parts[name] + others.parts[name]) / (its.n + others.n)
		deviation := math.Sqrt(pooled * (1 - pooled) * (1/its.n + 1/others.n))
		if d := math.Abs(a - b); d >= driftShare && d > driftSigmas*deviation {
			return fmt.Sprintf("%s is %.1f%% of them, %.1f%% of the other version's", name, 100*a, 100*b)
		}
	}
	a, va := its.mean()
	b, vb := others.mean()
	if d := math.Abs(a - b); d >= driftScore && d > driftSigmas*math.Sqrt(va+vb) {
		return fmt.Sprintf("their mean score is %.2f, the other version's %.2f", a, b)
	}
	return ""
}

// mean returns the mean score and the square of its standard error.
func (t *tally) mean() (mean, variance float64) {
	mean = t.sum / t.n
	return mean, max(0, t.squares/t.n-mean*mean) / t.n
}

// CanaryState is what `sluice plugin list` shows of a canary.
type CanaryState struct {
	State   string        `json:"state"` // that of its process, or "given up"
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Share   float64       `json:"share"`
	Asked   uint64        `json:"asked"`
	Failed  uint64        `json:"failed"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	Why     string        `json:"why,omitempty"`
}

func (c *canary) describe(share float64) *CanaryState {
	if c == nil {
		return nil
	}
	its := c.plugin.Load().describe()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &CanaryState{
		State: its.State, Version: its.Version, PID: its.PID, Share: share,
		Asked: c.asked, Failed: c.failed, P50: its.P50, P99: its.P99, Why: its.Why,
	}
	if c.stopped {
		s.State, s.Why = "given up", c.why
	}
	return s
}
