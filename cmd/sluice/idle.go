package main

import (
	"log/slog"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/storage"
)

// queueOptions are what a queue needs to decide, and to write to senders. What delivers is for one that is started.
func (s *server) queueOptions() queue.Options {
	return queue.Options{
		Store:       s.store,
		Config:      s.queueConfig,
		Owner:       func(alias string) string { return s.currentTable().Owner(alias) },
		Manager:     func() string { return s.currentTable().Postmaster() },
		Destination: s.queueDestination,
		Limits:      s.config.Queue,
		Notify: &notifier{
			author: *s.author(), hostname: s.config.Hostname, postmaster: func() string { return s.currentTable().Postmaster() },
		},
		Local:  func(domain string) bool { return s.currentTable().Hosts("postmaster@" + domain) },
		Logger: s.logger,
	}
}

// idleServer is what a command needs of a server that does not run: a queue that nobody works at. What the command does to
// it is what the server would have done, notices to senders and their signatures included (RULES D5).
func idleServer(c *config.Config, store *storage.Store, table *route.Table, logger *slog.Logger) *server {
	s := &server{config: c, logger: logger, store: store, table: table, settings: queueSettings(c)}
	s.outgoing.keys = keyring.NewRing(keyring.Of(c.DataDir), time.Now)
	s.queue = queue.New(s.queueOptions())
	return s
}

// desk returns what operations work on.
func (s *server) desk() *desk { return &desk{s.store, s.queue, s.currentTable} }
