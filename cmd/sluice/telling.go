package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/metrics"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/events"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// telling is those who hear what happens: plugins that want events, plugins that learn, the administrator, and who reads
// the metrics.
type telling struct {
	metrics *metrics.Metrics
	sink    *events.Sink
	teacher *events.Teacher
	alerter *events.Alerter
	names   atomic.Pointer[namesOf]
	unwatch context.CancelFunc
	open    atomic.Bool // every listener is open, and none is closing
}

// namesOf are the plugins of one configuration.
type namesOf struct {
	config *config.Config
	names  []string
}

// makeTelling makes those who hear, before there is anything to hear.
func (s *server) makeTelling(context.Context) error {
	t := &s.telling
	engine := s.store.KV()
	t.sink = events.NewSink(events.SinkOptions{Plugins: s.livePlugins, Engine: engine, Logger: s.logger})
	t.teacher = events.NewTeacher(events.TeacherOptions{
		Store: s.store, Plugins: s.livePlugins, Logger: s.logger,
		Alert: func(plugin string, a sdk.Alert) { t.alerter.Raise(plugin, a) },
		Account: func(ctx context.Context, id storage.AccountID) (string, error) {
			a, err := s.store.Accounts().ByID(ctx, id)
			return a.Address, err
		},
	})
	o := events.AlerterOptions{Engine: engine, Logger: s.logger}
	if s.config.Alerts.Mail {
		o.Send = s.writeLetter
	}
	t.alerter = events.NewAlerter(o)
	t.metrics = metrics.New(version, metrics.Sources{
		Plugins: s.pluginStates, Queue: func() (int, bool) { return s.queue.Depth() }, Listeners: s.listenerStats, Sites: s.siteStates,
		Store: engine.Metrics, Logins: s.store.Accounts().Logins, Told: t.sink.Told, Lessons: t.teacher.Counts, Alerts: t.alerter.Raised,
	})
	s.observer, s.alerter = t.metrics, t.alerter
	return nil
}

// startTelling begins to tell: the queue and the plugins are there.
func (s *server) startTelling(ctx context.Context) error {
	t := &s.telling
	t.sink.Start(ctx)
	t.teacher.Start(ctx)
	t.alerter.Start(ctx)
	watch := events.NewWatch(events.WatchOptions{
		States: s.pluginStates, Raise: t.alerter.Raise, After: s.config.Alerts.After.Std(), Admit: s.store.Admit,
		Free: func() int64 { return int64(s.store.KV().Metrics()["free_bytes"]) },
		Low:  2 * max(s.config.MinFree.Int64(), 1<<30),
	})
	ctx, t.unwatch = context.WithCancel(context.WithoutCancel(ctx))
	go watch.Run(ctx)
	return nil
}

// stop tells what was heard so far, and hears no more.
func (t *telling) stop(ctx context.Context) {
	if t.unwatch == nil {
		return
	}
	t.unwatch()
	t.teacher.Stop()
	t.sink.Stop(ctx)
	t.alerter.Stop()
}

// livePlugins returns the plugins of the configuration in force. It is asked for each event.
func (s *server) livePlugins() []events.Plugin {
	if s.plugins == nil {
		return nil
	}
	s.mu.RLock()
	c := s.config
	s.mu.RUnlock()
	names := s.telling.names.Load()
	if names == nil || names.config != c {
		names = &namesOf{c, pluginNames(c)}
		s.telling.names.Store(names)
	}
	if len(names.names) == 0 {
		return nil
	}
	list := make([]events.Plugin, 0, len(names.names))
	for _, name := range names.names {
		if p := s.plugins.Plugin(name); p != nil {
			list = append(list, p)
		}
	}
	return list
}

func (s *server) pluginStates() []pluginhost.State {
	if s.plugins == nil {
		return nil
	}
	return s.plugins.States()
}

// siteStates counts the next hops of mail that leaves, by their state.
func (s *server) siteStates() map[string]int {
	states := make(map[string]int)
	for _, site := range s.queue.Sites() {
		states[site.State]++
	}
	return states
}

func (s *server) listenerStats() map[string]listen.Stats {
	stats := make(map[string]listen.Stats, len(s.listeners))
	for _, l := range s.listeners {
		if counted, ok := l.listener.(*listen.Listener); ok {
			stats[l.name] = counted.Stats()
		}
	}
	return stats
}

// admitting says why mail should not be sent here now, for /readyz.
func (s *server) admitting() error {
	if !s.telling.open.Load() {
		return errors.New("the server is starting or stopping")
	}
	switch err := s.store.Admit(); {
	case err == nil:
		return nil
	case errors.Is(err, kv.ErrFull):
		return errors.New("the disk is full")
	}
	return errors.New("the store is catching up")
}

// writeLetter queues a message to postmaster (RULES A8).
func (s *server) writeLetter(ctx context.Context, l events.Letter) error {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	to := s.currentTable().Postmaster()
	if to == "" {
		return events.ErrNobody
	}
	m := s.author().message("outbound", to, l.At)
	text, eight := l.Write(to, s.config.Hostname, m.ID.String())
	if eight {
		m.Params.Body = "8BITMIME"
	}
	why, err := s.author().finish(ctx, m, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("write the alert %s: %w", l.Alert.Key, err)
	case why != "":
		return fmt.Errorf("write the alert %s to postmaster: %s", l.Alert.Key, why)
	}
	if err := s.queue.Commit(ctx, m); err != nil {
		return err
	}
	s.logger.Info("alert written", "id", m.ID, "stage", pipeline.StageQueue, "action", "queued", "to", to, "plugin", l.Plugin, "why", l.Alert.Key)
	return nil
}
