package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/metrics"
	"github.com/sluicemail/sluice/cmd/internal/tlsfile"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/receive"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/imap"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/pop3"
)

// protocolServer is what every protocol's server can do.
type protocolServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// running is one open listener with its server.
type running struct {
	name     string
	addr     net.Addr
	listener net.Listener
	server   protocolServer
}

// openListeners opens every port, so that a port that is taken fails the start
// before any peer was greeted.
func (s *server) openListeners(ctx context.Context) (err error) {
	if s.tls, err = s.tlsConfig(); err != nil {
		return err
	}
	locks := pop3.NewLocks()
	names := make([]string, 0, len(s.config.Listener))
	for name := range s.config.Listener {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l := s.config.Listener[name]
		inner, err := listenFor(ctx, name, l.Address)
		if err != nil {
			return fmt.Errorf("listener.%s: %w", name, err)
		}
		wrapped := listen.Wrap(inner, listen.Options{
			Name: name, Protocol: l.Protocol, Hostname: s.config.Hostname,
			Implicit: l.TLS == "implicit", Config: l.Config, Logger: s.logger,
		})
		server, err := s.protocolServer(name, l, locks)
		if err != nil {
			wrapped.Close()
			return fmt.Errorf("listener.%s: %w", name, err)
		}
		s.listeners = append(s.listeners, &running{name, inner.Addr(), wrapped, server})
	}
	return nil
}

func (s *server) protocolServer(name string, l *config.Listener, locks *pop3.Locks) (protocolServer, error) {
	var tlsConfig *tls.Config
	if l.TLS != "none" {
		tlsConfig = s.tls
	}
	implicit := l.TLS == "implicit"
	switch l.Protocol {
	case "smtp", "submission", "lmtp":
		return receive.New(receive.Options{
			Hostname: s.config.Hostname, Protocol: l.Protocol, Listener: name,
			TLS: tlsConfig, ImplicitTLS: implicit, AllowPlaintextLogin: l.AllowPlain,
			Config: s.config.Pipeline[l.Pipeline].Receive, Limits: l.Config,
			Pipeline: s.pipelines[l.Pipeline], Accounts: &logins{s}, Resolver: s.dns,
			Blobs: s.store.Blobs(), NewID: s.store.NewID, Ready: s.ready, Logger: s.logger,
		})
	case "imap":
		return imap.New(imap.Options{
			Store: s.store, TLS: tlsConfig, ImplicitTLS: implicit, AllowPlaintextLogin: l.AllowPlain,
			Hostname: s.config.Hostname, Logger: s.logger, IdleTimeout: l.Config.Idle("imap"), MaxCommands: l.MaxCommands,
		})
	case "pop3":
		return pop3.New(pop3.Options{
			Store: s.store, TLS: tlsConfig, ImplicitTLS: implicit, AllowPlaintextLogin: l.AllowPlain,
			Hostname: s.config.Hostname, Logger: s.logger, Locks: locks, IdleTimeout: l.Config.Idle("pop3"), MaxCommands: l.MaxCommands,
		}), nil
	}
	if l.Protocol == "admin" {
		return metrics.NewServer(s.telling.metrics, s.admitting, s.logger), nil
	}
	return nil, fmt.Errorf("this version has no protocol %q yet", l.Protocol)
}

// tlsConfig reads the certificate, or makes one.
func (s *server) tlsConfig() (*tls.Config, error) {
	if s.config.TLS.Certificate == "" {
		return tlsfile.SelfSigned(s.config.DataDir, s.config.Hostname, s.logger)
	}
	return tlsfile.Load(s.config.TLS.Certificate, s.config.TLS.Key, s.logger)
}

func (s *server) serveListeners() {
	for _, l := range s.listeners {
		go func() {
			err := l.server.Serve(l.listener)
			s.logger.Debug("listener closed", "listener", l.name, "why", err)
		}()
	}
}

// stopListeners refuses new connections, lets transactions finish until ctx
// ends, and tells the idle ones to go.
func (s *server) stopListeners(ctx context.Context) error {
	results := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		l.listener.Close()
		go func() { results <- l.server.Shutdown(ctx) }()
	}
	var errs []error
	for range s.listeners {
		if err := <-results; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ready answers MAIL while there is no room for mail (RULES B5).
func (s *server) ready() pipeline.Reply {
	switch err := s.store.Admit(); {
	case err == nil:
		return pipeline.Reply{}
	case errors.Is(err, kv.ErrFull):
		return pipeline.ReplyDiskFull
	}
	return pipeline.ReplyBusy
}

// logins shows the accounts to receive.
type logins struct{ *server }

// Login implements receive.Accounts.
func (l *logins) Login(ctx context.Context, user, password string, client netip.Addr) (string, error) {
	a, err := l.store.Accounts().Verify(ctx, user, password, client)
	switch {
	case errors.Is(err, account.ErrCredentials):
		return "", receive.ErrBadLogin
	case errors.Is(err, account.ErrBlocked):
		return "", receive.ErrSlowDown
	}
	return a.Address, err
}

// MaySendAs implements receive.Accounts.
func (l *logins) MaySendAs(ctx context.Context, login, address string) (bool, error) {
	a, err := l.store.Accounts().Lookup(ctx, login)
	if err != nil {
		return false, err
	}
	return l.currentTable().Owns(ctx, a, address)
}
