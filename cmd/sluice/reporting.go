package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	reports "github.com/sluicemail/sluice/pipeline/report"
)

// reporting is what we tell other servers about their mail and their TLS. Both parts run also while [reports] has them
// switched off: what was collected before has to go, and a reload may switch them on.
type reporting struct {
	collector *reports.Collector
	sender    *reports.Sender
}

// startReporting begins to collect and to send. Mail that is observed comes later: there are no pipelines yet.
func (s *server) startReporting(ctx context.Context) error {
	r := &s.reporting
	r.collector = reports.NewCollector(reports.CollectorOptions{
		Engine: s.store.KV(), Logger: s.logger,
		Interval: func() time.Duration { return s.currentConfig().Reports.Interval.Std() },
		Own: func(domain string) bool {
			c := s.currentConfig()
			_, ours := c.Domain[domain]
			return ours && !c.Reports.OwnDomains
		},
	})
	r.sender = reports.NewSender(reports.SenderOptions{
		Config:   func() reports.Config { return s.currentConfig().Reports },
		From:     func() string { return s.currentConfig().ReportsFrom() },
		Hostname: s.config.Hostname, Engine: s.store.KV(), DNS: s.dns, Logger: s.logger,
		Submit: s.submitReport,
		TLS:    s.outgoing.reports,
		Rules:  mx.Rules{Allow: allowed(s.config), Own: s.outgoing.isOwn},
	})
	r.collector.Start(ctx)
	r.sender.Start(ctx)
	return nil
}

// stop ends sending, which needs the queue, and keeps what was observed.
func (r *reporting) stop(ctx context.Context) {
	if r.collector == nil {
		return
	}
	r.sender.Stop()
	r.collector.Stop(ctx)
}

// observer is who hears what DMARC found, under a configuration.
func (r *reporting) observer(c *config.Config) pipeline.DMARCObserver {
	if r.collector == nil || !c.Reports.DMARC {
		return nil
	}
	return r.collector
}

// submitReport queues a report to another server (RULES A8).
func (s *server) submitReport(ctx context.Context, l *reports.Letter) error {
	author := s.author()
	m := author.message("outbound", l.To, time.Now())
	why, err := author.finish(ctx, m, func(w io.Writer) error {
		_, err := w.Write(l.Text)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the report about %s: %w", l.About, err)
	}
	if why != "" { // trying again would not help
		s.logger.Warn("report dropped", "kind", l.Kind, "domain", l.About, "stage", pipeline.StageRoute, "action", "dropped", "why", why)
		return nil
	}
	if err := s.queue.Commit(ctx, m); err != nil {
		return err
	}
	s.logger.Info("report written", "id", m.ID, "stage", pipeline.StageQueue, "action", "queued", "kind", l.Kind, "domain", l.About, "to", l.To)
	return nil
}
