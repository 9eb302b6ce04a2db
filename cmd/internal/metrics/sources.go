package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicemail/sluice/pipeline/events"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// Sources are asked when somebody wants the numbers. They are called from any goroutine, return at once, and may be
// nil.
type Sources struct {
	Plugins   func() []pluginhost.State
	Queue     func() (inMemory int, more bool)
	Sites     func() map[string]int // next hops by their state
	Listeners func() map[string]listen.Stats
	Store     func() map[string]float64 // kv.Engine.Metrics
	Logins    func() account.Logins
	Told      func() (told map[sdk.EventKind]uint64, dropped uint64)
	Lessons   func() events.Counts
	Alerts    func() (byPlugin map[string]uint64, dropped uint64)
}

// collector shows the sources.
type collector struct{ s Sources }

// Describe implements prometheus.Collector: what there is depends on the configuration.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	e := emitter{out}
	if c.s.Plugins != nil {
		for _, p := range c.s.Plugins() {
			e.plugin(&p)
		}
	}
	if c.s.Queue != nil {
		n, more := c.s.Queue()
		e.gauge("queue_entries", "Messages of the queue in memory.", float64(n))
		e.gauge("queue_more", "1: more messages wait on disk for their turn.", truth(more))
	}
	if c.s.Sites != nil {
		for state, n := range c.s.Sites() {
			e.gauge("next_hops", "Next hops that mail waits for or goes to, by their state.", float64(n), "state", state)
		}
	}
	if c.s.Listeners != nil {
		for name, l := range c.s.Listeners() {
			e.gauge("connections", "Open connections.", float64(l.Open), "listener", name)
			e.counter("connections_refused_total", "Connections turned away for a limit.", float64(l.Refused), "listener", name)
			e.counter("accept_failures_total", "Failures to take a connection.", float64(l.Failed), "listener", name)
		}
	}
	if c.s.Store != nil {
		for name, value := range c.s.Store() {
			e.store(name, value)
		}
	}
	if c.s.Logins != nil {
		e.logins(c.s.Logins())
	}
	if c.s.Told != nil {
		told, dropped := c.s.Told()
		for kind, n := range told {
			e.counter("events_total", "Events handed to plugins.", float64(n), "kind", kind.String())
		}
		e.counter("events_dropped_total", "Events dropped because too many were waiting.", float64(dropped))
	}
	if c.s.Lessons != nil {
		e.lessons(c.s.Lessons())
	}
	if c.s.Alerts != nil {
		raised, dropped := c.s.Alerts()
		for plugin, n := range raised {
			e.counter("alerts_total", "Alerts for the administrator; without a plugin: the server's own.", float64(n), "plugin", plugin)
		}
		e.counter("alerts_dropped_total", "Alerts that nobody looked at because there were too many.", float64(dropped))
	}
}

func (e emitter) logins(l account.Logins) {
	for _, r := range []struct {
		outcome string
		n       uint64
	}{
		{"accepted", l.Accepted}, {"rejected", l.Rejected}, {"repeated", l.Repeated}, {"refused", l.Refused}, {"failed", l.Undecided},
	} {
		e.counter("logins_total", "Logins: accepted; rejected (wrong password); repeated (the same wrong one again); refused (not looked at, for what failed before); failed (a trouble of ours).",
			float64(r.n), "outcome", r.outcome)
	}
	e.counter("logins_delayed_total", "Logins held back for what failed before; how they ended is in logins_total.", float64(l.Delayed))
	e.counter("logins_vouched_total", "Logins let in at once while others are held back, because this password worked there before.", float64(l.Vouched))
	const help = "How often logins began to be refused: of an account from one address, or of an address."
	e.counter("login_refusals_total", help, float64(l.Accounts), "of", "account")
	e.counter("login_refusals_total", help, float64(l.Addresses), "of", "address")
}

func (e emitter) lessons(c events.Counts) {
	const total = "lessons_total"
	const help = "What users taught plugins: learnt, failed (and tried again), dropped (too old or too many)."
	e.counter(total, help, float64(c.Learnt), "result", "learnt")
	e.counter(total, help, float64(c.Failed), "result", "failed")
	e.counter(total, help, float64(c.Dropped), "result", "dropped")
	for plugin, n := range c.Waiting {
		e.gauge("lessons_waiting", "Lessons that wait for a plugin.", float64(n), "plugin", plugin)
	}
}

func (e emitter) plugin(p *pluginhost.State) {
	gauge := func(name, help string, value float64) { e.gauge("plugin_"+name, help, value, "plugin", p.Name) }
	counter := func(name, help string, value float64) { e.counter("plugin_"+name, help, value, "plugin", p.Name) }
	gauge("up", "1: the plugin's process runs.", truth(p.State == "ready"))
	gauge("breaker_open", "1: the plugin failed so often that it is asked now and then only.", truth(p.Breaker == "open"))
	gauge("lanes", "Questions that the plugin can be asked at a time.", float64(p.Lanes))
	gauge("lanes_busy", "Questions that it is being asked.", float64(p.InFlight))
	gauge("lanes_lost", "Lanes that never came back from a question.", float64(p.Lost))
	gauge("suspects", "Messages under suspicion of killing it.", float64(p.Suspects))
	gauge("events_waiting", "Events that it is going to be told.", float64(p.Waiting))
	counter("asked_total", "Questions, those of shadow mode and of events included.", float64(p.Asked))
	counter("skipped_total", "Questions that it was not asked because its breaker was open.", float64(p.Skipped))
	counter("restarts_total", "How often its process ended by itself.", float64(p.Restarts))
	for _, r := range []struct {
		result string
		n      uint64
	}{{"told", p.Told}, {"failed", p.Failed}, {"dropped", p.Dropped}} {
		e.counter("plugin_events_total", "Events for a plugin, at its own queue.", float64(r.n), "plugin", p.Name, "result", r.result)
	}
	for kind, n := range p.Failures {
		e.counter("plugin_failed_total", "Questions that it was asked and did not answer, those of shadow mode and of events included.",
			float64(n), "plugin", p.Name, "kind", string(kind))
	}
}

func (e emitter) store(name string, value float64) {
	help := "Of the store's engine: " + strings.ReplaceAll(name, "_", " ") + "."
	if strings.HasSuffix(name, "_total") {
		e.counter("store_"+name, help, value)
		return
	}
	e.gauge("store_"+name, help, value)
}

// emitter sends single numbers; labels are names and values in turn.
type emitter struct{ out chan<- prometheus.Metric }

func (e emitter) gauge(name, help string, value float64, labels ...string) {
	e.send(prometheus.GaugeValue, name, help, value, labels)
}

func (e emitter) counter(name, help string, value float64, labels ...string) {
	e.send(prometheus.CounterValue, name, help, value, labels)
}

func (e emitter) send(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	e.out <- prometheus.MustNewConstMetric(prometheus.NewDesc("sluice_"+name, help, names, nil), kind, value, values...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
