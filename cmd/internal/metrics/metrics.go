package metrics

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// Metrics are the numbers of one server. Its methods may be called from any goroutine and do not wait.
type Metrics struct {
	registry *prometheus.Registry

	messages   *prometheus.CounterVec   // pipeline, stage, action
	stageTime  *prometheus.HistogramVec // pipeline, stage
	answers    *prometheus.CounterVec   // plugin, stage, phase, action
	answerTime *prometheus.HistogramVec // plugin, phase
	failures   *prometheus.CounterVec   // plugin, stage, kind
	unscanned  *prometheus.CounterVec   // plugin, stage
	refused    *prometheus.CounterVec   // plugin
	recipients *prometheus.CounterVec   // outcome
	attempts   *prometheus.HistogramVec // outcome
	paces      *prometheus.CounterVec   // pace
}

// buckets reach from what an empty stage takes to the longest that a message may take.
func buckets() []float64 {
	return []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
}

// New returns the metrics of a server of that version.
func New(version string, s Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_" + name, Help: help, Buckets: buckets()}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.messages = counter("stage_messages_total", "Messages after a stage, by the strongest action among their recipients.", "pipeline", "stage", "action")
	m.stageTime = histogram("stage_seconds", "How long a stage takes for a message.", "pipeline", "stage")
	m.answers = counter("plugin_answers_total", "Answers of plugins, by the action that they stand for; failures by what on_failure says.", "plugin", "stage", "phase", "action")
	m.answerTime = histogram("plugin_seconds", "How long a plugin takes for an answer, or to fail.", "plugin", "phase")
	m.failures = counter("plugin_failures_total", "Questions that a plugin did not answer.", "plugin", "stage", "kind")
	m.unscanned = counter("unscanned_total", "Messages that went on although this plugin had not looked at them.", "plugin", "stage")
	m.refused = counter("plugin_refused_changes_total", "Changes that a plugin asked for and may not make.", "plugin")
	m.recipients = counter("recipients_total", "What became of recipients: delivered, deferred, bounced, quarantined, released, discarded; and messages refused.", "outcome")
	m.attempts = histogram("remote_seconds", "How long an attempt for a recipient at another server took, by how it ended.", "outcome")
	m.paces = counter("remote_paces_total", "What attempts said about the next hop: nothing new, fine, slow (it wants less), wait (nobody answers), never (it takes no mail).", "pace")
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, &collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

var _ pipeline.Observer = (*Metrics)(nil)

// Stage implements pipeline.Observer.
func (m *Metrics) Stage(r *pipeline.StageReport) {
	m.messages.WithLabelValues(r.Pipeline, r.Stage, r.Action.String()).Inc()
	m.stageTime.WithLabelValues(r.Pipeline, r.Stage).Observe(r.Took.Seconds())
}

// Plugin implements pipeline.Observer.
func (m *Metrics) Plugin(r *pipeline.PluginReport) {
	m.answers.WithLabelValues(r.Plugin, r.Stage, string(r.Phase), r.Action.String()).Inc()
	m.answerTime.WithLabelValues(r.Plugin, string(r.Phase)).Observe(r.Took.Seconds())
	if r.Failure != "" {
		m.failures.WithLabelValues(r.Plugin, r.Stage, string(r.Failure)).Inc()
	}
	if r.Unscanned {
		m.unscanned.WithLabelValues(r.Plugin, r.Stage).Inc()
	}
	if r.Refused > 0 {
		m.refused.WithLabelValues(r.Plugin).Add(float64(r.Refused))
	}
}

// Recipient counts what became of a recipient: queue.Options.Observe.
func (m *Metrics) Recipient(kind sdk.EventKind) { m.recipients.WithLabelValues(kind.String()).Inc() }

// Remote counts an attempt with another server: queue.Options.ObserveRemote.
func (m *Metrics) Remote(kind pipeline.OutcomeKind, pace pipeline.Pace, took time.Duration) {
	m.attempts.WithLabelValues(kind.String()).Observe(took.Seconds())
	m.paces.WithLabelValues(pace.String()).Inc()
}

// WriteText writes everything in the text format of Prometheus, version 0.0.4.
func (m *Metrics) WriteText(w io.Writer) error {
	families, err := m.registry.Gather()
	if err != nil {
		return fmt.Errorf("gather the metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return fmt.Errorf("write the metrics: %w", err)
		}
	}
	return nil
}

// Sample is one number. Of a histogram there are two, NAME_count and NAME_sum.
type Sample struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
	At     time.Time         `json:"at"`
}

// Samples returns everything, by name.
func (m *Metrics) Samples() ([]Sample, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather the metrics: %w", err)
	}
	now := time.Now().UTC()
	var list []Sample
	for _, f := range families {
		for _, one := range f.GetMetric() {
			labels := make(map[string]string, len(one.GetLabel()))
			for _, l := range one.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			add := func(suffix string, value float64) {
				list = append(list, Sample{f.GetName() + suffix, labels, value, now})
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				add("", one.GetCounter().GetValue())
			case dto.MetricType_GAUGE:
				add("", one.GetGauge().GetValue())
			case dto.MetricType_UNTYPED:
				add("", one.GetUntyped().GetValue())
			case dto.MetricType_HISTOGRAM:
				add("_count", float64(one.GetHistogram().GetSampleCount()))
				add("_sum", one.GetHistogram().GetSampleSum())
			case dto.MetricType_SUMMARY:
				add("_count", float64(one.GetSummary().GetSampleCount()))
				add("_sum", one.GetSummary().GetSampleSum())
			}
		}
	}
	return list, nil
}
