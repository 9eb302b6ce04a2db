package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/mailfile"
	"github.com/sluicemail/sluice/pipeline/parse"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

// askFlags are the flags of `sluice plugin ask`: what the envelope of each message says.
type askFlags struct {
	phase, sender, client, helo, origin string
	recipients                          []string
}

func (a *app) pluginAskCommand() *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use:   "ask NAME FILE|DIR|MBOX|-",
		Short: "ask one plugin about a message, or about each of a folder or an mbox",
		Long: `Ask one plugin of the configuration about a message, each message of a folder (and what is below it), or each of an mbox.

The plugin is started for this alone, with its table from the configuration and a copy of its state, so the server need not run, and
what is asked changes nothing. Messages are read one after the other, however many there are; the plugin works on as many at a
time as its lanes allow. There is a line for each: what it is, the action, the score, the time, and why.

Exit status: 0 every message was answered, 1 some were not, 2 wrong usage.`,
		Args: exactArgs("the name of a plugin", "a file, a folder, an mbox, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.pluginAsk(cmd.Context(), f, args[0], args[1]) },
	}
	cmd.Flags().StringVar(&f.phase, "phase", "", "connect, sender, recipient, content or route; default: content if the plugin is asked then")
	cmd.Flags().StringVar(&f.sender, "sender", "", "the `address` of MAIL FROM; default: the message's Return-Path, or the null sender")
	cmd.Flags().StringArrayVar(&f.recipients, "recipient", nil, "an `address` of RCPT TO, again for more; default: the message's Delivered-To, or postmaster")
	cmd.Flags().StringVar(&f.client, "client", "192.0.2.1", "the client's IP `address`")
	cmd.Flags().StringVar(&f.helo, "helo", "client.example", "what the client said in EHLO")
	cmd.Flags().StringVar(&f.origin, "origin", "stranger", "stranger, trusted, login or lmtp")
	return cmd
}

// maxAsked bounds one message, in octets.
const maxAsked = 256 << 20

func (a *app) pluginAsk(ctx context.Context, f askFlags, name, path string) error {
	if err := f.validate(); err != nil {
		return err
	}
	if path != "-" {
		if _, err := os.Stat(path); err != nil {
			return usagef("ask about %s: %v", path, err)
		}
	}
	c, err := a.loadForAsk(name)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "sluice-ask-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	defer os.RemoveAll(temp)
	host, plugin, err := a.startForAsk(ctx, c, name, temp)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = host.Stop(ctx)
	}()
	phase, err := f.phaseOf(plugin)
	if err != nil {
		return err
	}
	asker := &mailAsker{app: a, plugin: plugin, flags: f, phase: phase, hostname: c.Hostname}
	return asker.run(ctx, path)
}

// loadForAsk reads the whole configuration, or a file that has tables of plugins alone.
func (a *app) loadForAsk(name string) (*config.Config, error) {
	c, err := config.LoadPlugins(a.configPath, config.Options{Builtins: builtinNames()})
	if err != nil || !c.PluginsOnly() {
		if c, err = a.load(); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(pluginNames(c), name) && !slices.Contains(builtinNames(), name) {
		return nil, usagef("there is no plugin %q in %s, expected %s", name, a.configPath, strings.Join(append(pluginNames(c), builtinNames()...), ", "))
	}
	return c, nil
}

// startForAsk starts the plugin by itself, with a copy of its state below temp.
func (a *app) startForAsk(ctx context.Context, c *config.Config, name, temp string) (*pluginhost.Host, *pluginhost.Plugin, error) {
	table := pluginConfig(c, name)
	table.Mode, table.Canary = pluginhost.Enforce, pluginhost.Canary{}
	dir, err := filepath.Abs(filepath.Dir(a.configPath))
	if err != nil {
		return nil, nil, fmt.Errorf("find the directory of %s: %w", a.configPath, err)
	}
	if c.DataDir != "" {
		if err := copyState(filepath.Join(c.DataDir, "plugin", name), filepath.Join(temp, name)); err != nil {
			fmt.Fprintf(a.stderr, "sluice: the plugin begins without its state: %v\n", err)
		}
	}
	host := pluginhost.New(pluginhost.Options{
		Version: version, Dir: dir, StateDir: temp, Builtins: builtinNames(),
		Logger: slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err := host.Start(ctx, []pluginhost.Config{table}); err != nil {
		return nil, nil, c.PluginProblems(err)
	}
	limited, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := host.WaitReady(limited); err != nil {
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return nil, nil, errors.Join(c.PluginProblems(err), host.Stop(stop))
	}
	return host, host.Plugin(name), nil
}

// maxState bounds the copy of a plugin's state, in octets.
const maxState = 1 << 30

// copyState copies a plugin's state, if it has any: two instances of a plugin may not be able to share it.
func copyState(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var sum int64
	err := filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		}
		if sum > maxState {
			return fmt.Errorf("%s is larger than %d MB", from, maxState>>20)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return errors.Join(fmt.Errorf("copy %s: %w", from, err), os.RemoveAll(to))
	}
	return nil
}

func (f *askFlags) validate() error {
	phases := []string{"", string(sdk.PhaseConnect), string(sdk.PhaseSender), string(sdk.PhaseRecipient), string(sdk.PhaseContent), string(sdk.PhaseRoute)}
	if !slices.Contains(phases, f.phase) {
		return usagef("--phase %q, expected %s", f.phase, strings.Join(phases[1:], ", "))
	}
	if _, err := netip.ParseAddr(f.client); err != nil {
		return usagef("--client %q, expected an IP address", f.client)
	}
	origins := []string{string(sdk.Stranger), string(sdk.Trusted), string(sdk.Login), string(sdk.LMTP)}
	if !slices.Contains(origins, f.origin) {
		return usagef("--origin %q, expected %s", f.origin, strings.Join(origins, ", "))
	}
	return nil
}

// phaseOf chooses the phase to ask in.
func (f *askFlags) phaseOf(p *pluginhost.Plugin) (sdk.Phase, error) {
	has := p.Manifest().Phases
	if f.phase != "" {
		if !slices.Contains(has, sdk.Phase(f.phase)) {
			return "", usagef("%s takes no part in the phase %s, only in %v", p.Name(), f.phase, has)
		}
		return sdk.Phase(f.phase), nil
	}
	for _, phase := range []sdk.Phase{sdk.PhaseContent, sdk.PhaseRoute, sdk.PhaseRecipient, sdk.PhaseSender, sdk.PhaseConnect} {
		if slices.Contains(has, phase) {
			return phase, nil
		}
	}
	return "", usagef("%s is told events only; there is nothing to ask it", p.Name())
}

// question puts together what the plugin is asked about a message.
func (m *mailAsker) question(s *mailfile.Spool, id, sender string) (*pluginhost.Question, error) {
	header, err := io.ReadAll(io.LimitReader(s.Reader(), min(s.HeaderSize, 1<<20)))
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	e := sdk.Envelope{
		Session: "ask", Server: or(m.hostname, "localhost"), Pipeline: "inbound", Listener: "ask", Origin: sdk.Origin(m.flags.origin),
		Received: time.Now(), ClientAddr: m.flags.client, ClientPort: 25025,
	}
	q := &pluginhost.Question{Phase: m.phase, Envelope: e}
	if m.phase == sdk.PhaseConnect {
		return q, nil
	}
	q.Envelope.ID, q.Envelope.Helo, q.Envelope.ESMTP = id, m.flags.helo, true
	q.Envelope.Sender = or(m.flags.sender, or(fieldOf(header, "Return-Path"), sender))
	if m.phase == sdk.PhaseSender {
		return q, nil
	}
	to := m.flags.recipients
	if len(to) == 0 {
		to = []string{or(fieldOf(header, "Delivered-To"), "postmaster@"+q.Envelope.Server)}
	}
	for _, address := range to {
		q.Envelope.Recipients = append(q.Envelope.Recipients, sdk.Recipient{Address: address})
	}
	if m.phase == sdk.PhaseRecipient {
		q.Envelope.Recipients = q.Envelope.Recipients[:1]
		return q, nil
	}
	q.Size, q.HeaderSize = s.Size, s.HeaderSize
	q.Open = func() (io.Reader, error) { return s.Reader(), nil }
	q.Parsed = func() (*sdk.Parsed, error) { return parse.Parse(s.ReaderAt(), s.Size), nil }
	q.Body = func() (io.Writer, error) { return &boundedWriter{room: maxAsked}, nil }
	return q, nil
}

// boundedWriter throws away what is written, up to a bound.
type boundedWriter struct{ room int }

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.room -= len(p); b.room < 0 {
		return 0, fmt.Errorf("the new body is larger than %d MB", maxAsked>>20)
	}
	return len(p), nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fieldOf returns the address in the first field of a name, without angle brackets.
func fieldOf(header []byte, name string) string {
	for line := range strings.Lines(string(header)) {
		field, value, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(field, name) {
			return strings.Trim(strings.TrimSpace(value), "<>")
		}
	}
	return ""
}
