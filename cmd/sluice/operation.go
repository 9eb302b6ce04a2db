package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/storage"
)

// operation is what a command asks of the store. The server runs it when there is
// one, otherwise the command opens the store and runs it by itself (RULES D5), so
// both give the same answer.
type operation struct {
	name string
	run  func(ctx context.Context, d *desk, request json.RawMessage, emit func(item any) error) error
}

// desk is what operations work on: the running server's rooms, or those of a
// command that has opened the store, where the queue was not started.
type desk struct {
	store *storage.Store
	queue *queue.Queue
	table func() *route.Table
}

// operations lists them all; startControl offers each on the socket.
func operations() []operation {
	list := append(userOperations(), traceOperation(), quarantineListOperation(), routeOperation(), reportShowOperation())
	list = append(append(list, queueOperations()...), suppressOperations()...)
	for _, verb := range verbs {
		list = append(list, verb.operation())
	}
	return list
}

// typed decodes the request of an operation on the store alone.
func typed[T any](run func(ctx context.Context, s *storage.Store, request T, emit func(item any) error) error) func(context.Context, *desk, json.RawMessage, func(any) error) error {
	return typedDesk(func(ctx context.Context, d *desk, request T, emit func(any) error) error {
		return run(ctx, d.store, request, emit)
	})
}

// typedDesk decodes the request of an operation.
func typedDesk[T any](run func(ctx context.Context, d *desk, request T, emit func(item any) error) error) func(context.Context, *desk, json.RawMessage, func(any) error) error {
	return func(ctx context.Context, d *desk, raw json.RawMessage, emit func(any) error) error {
		return control.Typed(func(ctx context.Context, request T, emit func(any) error) error {
			return run(ctx, d, request, emit)
		})(ctx, raw, emit)
	}
}

// commandLockWait is how long a command waits for another process to leave the
// store (RULES D5).
const commandLockWait = 5 * time.Second

// adds reports whether an operation makes what was not there before, and so a store where there is none. All others look
// at what there is, or change it.
func (o operation) adds() bool { return o.name == "user/add" || o.name == "suppress/add" }

// perform runs an operation where the store is, and hands each item of the answer
// to each. Where there is no store it answers as an empty one would, and makes none.
func (a *app) perform(ctx context.Context, c *config.Config, op operation, request any, each func(json.RawMessage) error) error {
	client := control.NewClient(c.DataDir)
	for {
		err := client.Call(ctx, op.name, request, each)
		if !errors.Is(err, control.ErrNotRunning) && !errors.Is(err, os.ErrPermission) {
			return err
		}
		if errors.Is(err, control.ErrNotRunning) && !op.adds() && a.nothingIn(c.DataDir) {
			return a.performHere(ctx, c, storage.OpenInMemory, op, request, each)
		}
		if err := datadir.Enter(c.DataDir, c.User, os.Args); err != nil {
			return err
		}
		lock, err := datadir.Acquire(ctx, c.DataDir, "sluice "+op.name, commandLockWait, nil)
		if errors.Is(err, datadir.ErrLocked) && client.Running(ctx) {
			continue // a server came up meanwhile
		}
		if err != nil {
			return err
		}
		defer lock.Unlock()
		return a.performHere(ctx, c, storage.Open, op, request, each)
	}
}

// nothingIn reports that a data_dir has no store. It is said at the end of what the command says: data_dir may be the
// wrong one.
func (a *app) nothingIn(dir string) bool {
	for _, path := range []string{dir, filepath.Join(dir, "store")} {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			a.note = fmt.Sprintf("there is no %s yet: no server has run with this configuration, and no account was made", path)
			return true
		}
	}
	return false
}

// opens is storage.Open, or what stands for it.
type opens func(context.Context, storage.Options) (*storage.Store, error)

func (a *app) performHere(ctx context.Context, c *config.Config, open opens, op operation, request any, each func(json.RawMessage) error) (err error) {
	raw, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", op.name, err)
	}
	logger := slog.New(slog.DiscardHandler)
	store, err := open(ctx, storeOptions(c, logger, func(err error) {
		fmt.Fprintln(a.stderr, "sluice: the store has failed: "+err.Error())
		os.Exit(exitFailed)
	}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	table, err := newTable(ctx, c, store)
	if err != nil {
		return err
	}
	d := idleServer(c, store, table, logger).desk()
	return op.run(ctx, d, raw, func(item any) error {
		raw, err := json.Marshal(item)
		if err != nil {
			return err
		}
		return each(raw)
	})
}

// show performs an operation and prints each item: as it is with --json, else by
// text.
func show[T any](ctx context.Context, a *app, op operation, request any, text func(w io.Writer, item T)) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	return a.perform(ctx, c, op, request, func(raw json.RawMessage) error {
		a.shown++
		if a.json {
			_, err := fmt.Fprintf(a.stdout, "%s\n", raw)
			return err
		}
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return fmt.Errorf("read the answer to %s: %w", op.name, err)
		}
		var b strings.Builder
		text(&b, item)
		_, err := io.WriteString(a.stdout, plain(b.String()))
		return err
	})
}

// plain makes what peers and plugins wrote harmless for a terminal: no control characters but line ends, and nothing
// that changes the direction of writing.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029', r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
}

// startControl offers the operations, and what only a running server can do, on
// the socket.
func (s *server) startControl(ctx context.Context) error {
	s.control = control.NewServer(s.config.DataDir, s.logger)
	d := s.desk()
	for _, op := range operations() {
		s.control.Handle(op.name, func(ctx context.Context, request json.RawMessage, emit func(any) error) error {
			return op.run(ctx, d, request, emit)
		})
	}
	s.control.Handle("reload", control.Typed(func(ctx context.Context, request reloadRequest, _ func(any) error) error {
		return s.reload(ctx, request.Path)
	}))
	s.control.Handle("plugin/list", func(_ context.Context, _ json.RawMessage, emit func(any) error) error {
		for _, state := range s.plugins.States() {
			if err := emit(state); err != nil {
				return err
			}
		}
		return nil
	})
	s.control.Handle("plugin/tell", control.Typed(func(ctx context.Context, r tellRequest, emit func(any) error) error {
		return tellPlugin(ctx, s.livePlugins(), s.pluginStates, s.telling.alerter.Raise, r, emit)
	}))
	s.control.Handle("metrics", control.Typed(func(ctx context.Context, r metricsRequest, emit func(any) error) error {
		return showMetrics(ctx, s.telling.metrics, r, emit)
	}))
	return s.control.Start(context.WithoutCancel(ctx))
}
