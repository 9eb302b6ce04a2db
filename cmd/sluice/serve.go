package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/antispam"
	"github.com/sluicemail/sluice/pipeline/antivirus"
	"github.com/sluicemail/sluice/pipeline/authenticate"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/parse"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/route/callout"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Waits of the whole program. Each has an end.
const (
	lockWait   = 15 * time.Second // for another process to leave the store
	pluginWait = 10 * time.Second // for the plugins' first start
	stopWait   = 30 * time.Second // for messages on their way when the server stops
)

func (a *app) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "run the server until SIGINT or SIGTERM; SIGHUP reads the configuration again",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			if err := becomeUser(cmd.Context(), c); err != nil { // root opens the ports, and is given up
				return err
			}
			logger, flush := newLogger(a.stderr, c.Log)
			defer flush()
			s := &server{config: c, logger: logger}
			if err := s.start(cmd.Context()); err != nil {
				return err
			}
			s.run(cmd.Context(), a.configPath)
			return s.stop()
		},
	}
}

// server is one running Sluice. Two of them can live in one process.
type server struct {
	config *config.Config
	logger *slog.Logger

	lock      *datadir.Lock
	store     *storage.Store
	dns       *resolver.Resolver
	plugins   *pluginhost.Host
	outgoing  outgoing
	queue     *queue.Queue
	control   *control.Server
	listeners []*running
	telling   telling
	reporting reporting
	observer  pipeline.Observer // of what goes through the pipelines; nil: nobody counts
	alerter   pipeline.Alerter  // of what plugins want the administrator to know; nil: the log alone
	gone      sync.Map          // pipelines of queued messages that are no more, and were warned of

	reloading sync.Mutex   // one reload at a time
	mu        sync.RWMutex // guards what a reload replaces
	table     *route.Table
	pipelines map[string]*pipeline.Switch
	settings  map[string]queue.Config
	tls       *tls.Config
}

// start brings up the rooms in the order in which they need each other. If one
// fails, those before it are stopped again.
func (s *server) start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			_ = s.stop()
		}
	}()
	tuneMemory()
	steps := []func(context.Context) error{
		s.openStore,      // data_dir, lock, storage
		s.makeTelling,    // events, lessons, alerts, metrics
		s.startResolver,  // DNS
		s.startPlugins,   // processes
		s.buildRoutes,    // domains, aliases, accounts
		s.startOutgoing,  // keys, and who takes mail to other servers
		s.startQueue,     // what a former process left behind goes on
		s.startReporting, // to other servers, about their mail
		s.startTelling,   // what happens from now on, and lessons that a former process left
		s.buildPipelines,
		s.openListeners,
		s.startControl, // the socket of the command line
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.noteListeners()
	s.serveListeners()
	s.telling.open.Store(true)
	s.sayReady()
	return nil
}

// run waits for the end and reads the configuration again at SIGHUP.
func (s *server) run(ctx context.Context, path string) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			s.logger.Info("stopping", "why", "asked to")
			return
		case <-hup:
			if err := s.reload(ctx, path); err != nil {
				s.logger.Error("configuration not reloaded; the old one stays in force", "why", err)
			}
		}
	}
}

// stop ends the rooms in the opposite order: no new connections, transactions
// finished, deliveries finished, plugins ended, store closed.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	s.telling.open.Store(false)
	errs := []error{s.stopListeners(ctx)}
	if s.control != nil {
		errs = append(errs, s.control.Stop(ctx))
	}
	s.reporting.stop(ctx) // nothing is observed any more; what is sent goes through the queue
	if s.queue != nil {
		errs = append(errs, s.queue.Stop(ctx))
	}
	errs = append(errs, s.outgoing.stop())
	s.telling.stop(ctx)
	if s.plugins != nil {
		errs = append(errs, s.plugins.Stop(ctx))
	}
	if s.store != nil {
		errs = append(errs, s.store.Close(ctx))
	}
	if s.lock != nil {
		s.lock.Unlock()
	}
	return errors.Join(errs...)
}

func (s *server) openStore(ctx context.Context) error {
	if err := datadir.Make(s.config.DataDir); err != nil {
		return err
	}
	if err := datadir.BecomeOwner(s.config.DataDir, os.Args); err != nil { // root's files in it would lock the owner out
		return err
	}
	lock, err := datadir.Acquire(ctx, s.config.DataDir, "sluice serve", lockWait, func(holder string) {
		s.logger.Info("waiting for the store", "held_by", holder, "for_up_to", lockWait)
	})
	if err != nil {
		return err
	}
	s.lock = lock
	s.store, err = openStore(ctx, s.config, s.logger, s.fail)
	return err
}

// fail is called when the engine can't go on: what is not durable by now never
// gets its 250, because this process ends (RULES B5).
func (s *server) fail(err error) {
	s.logger.Error("the store has failed", "action", "exit", "why", err)
	os.Exit(exitFailed)
}

func (s *server) startResolver(context.Context) (err error) {
	s.dns, err = resolver.New(s.config.DNS, resolver.Options{})
	return err
}

func (s *server) startPlugins(ctx context.Context) error {
	host, err := newHost(s.config, s.logger, s.telling.alerter.Alert)
	if err != nil {
		return err
	}
	s.plugins = host
	if err := host.Start(ctx, pluginConfigs(s.config)); err != nil {
		return fmt.Errorf("start the plugins: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, pluginWait)
	defer cancel()
	if err := host.WaitReady(wait); err != nil {
		s.logger.Error("not every plugin is ready; on_failure decides about its mail", "why", s.config.PluginProblems(err))
	}
	return nil
}

func (s *server) buildRoutes(ctx context.Context) (err error) {
	s.table, err = newTable(ctx, s.config, s.store)
	return err
}

func (s *server) startQueue(ctx context.Context) error {
	s.settings = queueSettings(s.config)
	o := s.queueOptions()
	o.Deliver = &deliver.Mailbox{Store: s.store, Now: time.Now}
	o.Courier = s.outgoing.courier
	o.Events, o.Observe = s.telling.sink, s.telling.metrics.Recipient
	s.queue = queue.New(o)
	return s.queue.Start(ctx)
}

// author writes what the server has to say by mail.
func (s *server) author() *author {
	return &author{
		store: s.store, table: s.currentTable,
		sealer: func(string) pipeline.Sealer { return s.sealer(s.currentConfig()) },
	}
}

// currentTable returns where addresses go at the moment.
func (s *server) currentTable() *route.Table {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.table
}

// queueConfig returns the settings of the moment; a pipeline that is gone has the
// defaults (RULES B8).
func (s *server) queueConfig(name string) queue.Config {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c, ok := s.settings[name]; ok {
		return c
	}
	if _, told := s.gone.LoadOrStore(name, true); !told {
		s.logger.Warn("the queue has mail of a pipeline that is gone", "pipeline", name, "stage", pipeline.StageQueue,
			"action", "defaults", "why", "no table [pipeline."+name+".queue]; retry and give_up_after have their defaults")
	}
	return queue.DefaultConfig()
}

// newVerifier returns one that has asked nobody yet. A reload makes a new one: the next hops may be others.
func (s *server) newVerifier() *callout.Verifier {
	return callout.New(callout.Options{Asker: s.outgoing.courier, Logger: s.logger})
}

func (s *server) buildPipelines(context.Context) error {
	verifier := s.newVerifier()
	s.pipelines = make(map[string]*pipeline.Switch)
	for name := range s.config.Pipeline {
		s.pipelines[name] = pipeline.NewSwitch(s.newPipeline(s.config, name, s.table, verifier))
	}
	return nil
}

// newPipeline puts the stages of one pipeline together. Their order is the
// product, not a setting.
func (s *server) newPipeline(c *config.Config, name string, table *route.Table, verifier route.Verifier) *pipeline.Pipeline {
	p := c.Pipeline[name]
	routing := route.New(table, s.store, s.askers(c, pipeline.StageRoute, p.Route.Plugins))
	routing.Verifier = verifier
	scoring := s.askers(c, pipeline.StageAntiSpam, p.AntiSpam.Plugins)
	return pipeline.New(pipeline.Options{
		Name:     name,
		Hostname: c.Hostname,
		Early:    scoring, // in connect, sender and recipient (RULES C6)
		Stages: []pipeline.Stage{
			authenticate.New(authenticate.Options{
				Config: p.Authenticate, Hostname: c.Hostname, DNS: s.dns, Reports: s.reporting.observer(c),
			}),
			antispam.New(p.AntiSpam, scoring),
			antivirus.New(p.AntiVirus, s.askers(c, pipeline.StageAntiVirus, p.AntiVirus.Plugins)),
			routing,
		},
		Router:   &listRouter{routing, s.queue.Suppressed},
		Queue:    s.queue,
		Sealer:   s.sealer(c),
		Mixed:    p.Mixed,
		Deadline: p.Deadline.Std(),
		MaxSize:  p.Receive.MaxSize.Int64(),
		MaxTo:    p.Receive.MaxRecipients,
		Logger:   s.logger,
		Blobs:    s.store.Blobs(),
		Parse:    parse.Parse,
		Observer: s.observer,
		Alerter:  s.alerter,
	})
}

// askers returns the plugins of a stage in the order of its list.
func (s *server) askers(c *config.Config, stage string, names []string) []pipeline.Asker {
	var list []pipeline.Asker
	for _, name := range names {
		pc := pluginConfig(c, name)
		if p := s.plugins.Plugin(name); p != nil && pc.Mode != pluginhost.Off {
			list = append(list, &asker{plugin: p, config: pc, stage: stage, record: s.recordShadow})
		}
	}
	return list
}

// recordShadow adds what a shadow plugin said to a message's trace. Nothing waits
// for it to be durable.
func (s *server) recordShadow(id storage.ID, e trace.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	var b kv.Batch
	trace.Append(&b, id, e.At, e)
	if _, err := s.store.KV().Apply(ctx, &b); err != nil {
		s.logger.Warn("shadow verdict not kept", "id", id, "stage", e.Stage, "plugin", e.Plugin, "action", "none", "why", err)
	}
}

// readyMessage is the line for which scripts wait.
const readyMessage = "ready"

// sayReady writes the one line that scripts wait for: every listener is open.
func (s *server) sayReady() {
	attrs := []any{"msg_version", 1, "data_dir", s.config.DataDir}
	for _, l := range s.listeners {
		attrs = append(attrs, "listener."+l.name, l.addr.String())
	}
	s.logger.Info(readyMessage, attrs...)
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}
