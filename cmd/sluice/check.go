package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

func (a *app) checkCommand() *cobra.Command {
	noPlugins := false
	cmd := &cobra.Command{
		Use:   "check",
		Short: "report every problem of the configuration, or say what it amounts to",
		Long: `Reports every problem of the configuration with its file, line and key, and then exits with status 1. Without one it says
what the configuration amounts to: the listeners, the pipelines, which plugin is asked when, what its failure means, and
which privileges this system lacks.

Each plugin is started as the server would start it, says what it thinks of its settings, and is ended. It is asked about no mail, its
state is not touched, and it connects to nothing: a check may run beside the server. Where the programs of the plugins are not
installed, --no-plugins leaves them out.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context(), !noPlugins) },
	}
	cmd.Flags().BoolVar(&noPlugins, "no-plugins", false, "start no plugins, and do not look for their programs")
	return cmd
}

func (a *app) check(ctx context.Context, withPlugins bool) error {
	c, err := config.Load(a.configPath, config.Options{Builtins: builtinNames()})
	if err != nil {
		return a.reportProblems(err)
	}
	problems := c.CheckSystem(time.Now(), withPlugins)
	var found checkedPlugins
	if withPlugins {
		var more config.Problems
		if found, more, err = a.checkPlugins(ctx, c, problems); err != nil {
			return err
		}
		problems = append(problems, more...).Sorted()
	}
	if slices.ContainsFunc(problems, func(p config.Problem) bool { return !p.Warning }) {
		return a.reportProblems(append(c.Warnings, problems...))
	}
	dead, asked, err := checkAccounts(ctx, c)
	if err != nil {
		return err
	}
	r := newReport(c, slices.Concat(c.Warnings, problems, dead), found)
	r.Accounts = asked
	if a.json {
		return json.NewEncoder(a.stdout).Encode(r)
	}
	return r.print(a.stdout)
}

// reportProblems prints problems, as JSON an object a line.
func (a *app) reportProblems(err error) error {
	problems, ok := err.(config.Problems)
	if !ok || !a.json {
		return err
	}
	for _, p := range problems {
		if err := json.NewEncoder(a.stdout).Encode(p); err != nil {
			return err
		}
	}
	return errSilent
}

// report is what a configuration amounts to.
type report struct {
	File      string           `json:"file"`
	Hostname  string           `json:"hostname"`
	DataDir   string           `json:"data_dir"`
	TLS       string           `json:"tls"`
	Listeners []listenerReport `json:"listeners"`
	Domains   []domainReport   `json:"domains"`
	Relays    []relayReport    `json:"relays"`
	Pipelines []pipelineReport `json:"pipelines"`
	Plugins   []pluginReport   `json:"plugins"`
	RunsAs    string           `json:"runs_as"`
	Missing   []string         `json:"missing"` // privileges and protections that this system lacks
	Accounts  bool             `json:"accounts_compared"`
	Warnings  []config.Problem `json:"warnings"`
}

type listenerReport struct {
	Name     string   `json:"name"`
	Protocol string   `json:"protocol"`
	Address  string   `json:"address"`
	TLS      string   `json:"tls"`
	Login    string   `json:"login"`
	Pipeline string   `json:"pipeline,omitempty"`
	Trusted  []string `json:"trusted,omitempty"`
	Proxies  []string `json:"proxy_from,omitempty"`
}

type domainReport struct {
	Name       string   `json:"name"`
	Accept     string   `json:"accept"`
	DKIM       string   `json:"dkim"`
	Aliases    int      `json:"aliases"`
	CatchAll   []string `json:"catch_all,omitempty"`
	Subaddress string   `json:"subaddress"`
}

type pipelineReport struct {
	Name   string        `json:"name"`
	Mixed  string        `json:"mixed"`
	Stages []stageReport `json:"stages"`
}

type stageReport struct {
	Stage string        `json:"stage"`
	Does  string        `json:"does"`
	Asks  []askedReport `json:"asks,omitempty"`
}

// askedReport says when a plugin is asked in a stage, and what its failures mean there.
type askedReport struct {
	Plugin    string `json:"plugin"`
	When      string `json:"when"`
	Mode      string `json:"mode"`
	Timeout   string `json:"timeout"`
	OnFailure string `json:"on_failure"`
	OnTimeout string `json:"on_timeout"`
	OnCrash   string `json:"on_crash"`
}

func newReport(c *config.Config, warnings []config.Problem, found checkedPlugins) *report {
	r := &report{
		File: c.Path, Hostname: c.Hostname, DataDir: c.DataDir, TLS: "made by ourselves, in data_dir",
		Warnings: warnings, Missing: pluginhost.Missing(c.PluginUser != ""), RunsAs: runsAs(c),
	}
	if c.TLS.Certificate != "" {
		r.TLS = c.TLS.Certificate
	}
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		r.Listeners = append(r.Listeners, newListenerReport(name, c.Listener[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		d := c.Domain[name]
		r.Domains = append(r.Domains, domainReport{name, d.Accept, signed(c, name, d.DKIM), len(d.Aliases), d.CatchAll, d.Subaddress})
	}
	r.Relays = relayReports(c)
	for _, name := range slices.Sorted(maps.Keys(c.Pipeline)) {
		r.Pipelines = append(r.Pipelines, newPipelineReport(c, name, found))
	}
	r.Plugins = pluginReports(c, found)
	return r
}

func newListenerReport(name string, l *config.Listener) listenerReport {
	r := listenerReport{
		Name: name, Protocol: l.Protocol, Address: l.Address, TLS: l.TLS, Pipeline: l.Pipeline, Login: "under TLS only",
	}
	switch {
	case l.Protocol == "smtp" || l.Protocol == "lmtp" || l.Protocol == "admin":
		r.Login = "none"
	case l.AllowPlain:
		r.Login = "also without TLS"
	}
	for _, network := range l.Trusted {
		r.Trusted = append(r.Trusted, network.String())
	}
	for _, network := range l.ProxyFrom {
		r.Proxies = append(r.Proxies, network.String())
	}
	return r
}

func newPipelineReport(c *config.Config, name string, found checkedPlugins) pipelineReport {
	p := c.Pipeline[name]
	mixed := string(p.Mixed)
	if mixed == "" {
		mixed = "quarantine for strangers, bounce for login and trusted"
	}
	return pipelineReport{name, mixed, []stageReport{
		{Stage: pipeline.StageReceive, Does: fmt.Sprintf("up to %s and %d recipients", p.Receive.MaxSize, p.Receive.MaxRecipients)},
		{Stage: pipeline.StageAuthenticate, Does: authenticateDoes(p)},
		{Stage: pipeline.StageAntiSpam, Does: strings.Join([]string{threshold("junk", p.AntiSpam.JunkAt),
			threshold("quarantine", p.AntiSpam.QuarantineAt), threshold("reject", p.AntiSpam.RejectAt)}, ", "),
			Asks: asks(c, found, pipeline.StageAntiSpam, p.AntiSpam.Plugins, sdk.Accept)},
		{Stage: pipeline.StageAntiVirus, Does: "an infected message: " + p.AntiVirus.OnInfected.String(),
			Asks: asks(c, found, pipeline.StageAntiVirus, p.AntiVirus.Plugins, sdk.Defer)},
		{Stage: pipeline.StageRoute, Does: "accounts, then aliases, then catch-all", Asks: asks(c, found, pipeline.StageRoute, p.Route.Plugins, sdk.Defer)},
		{Stage: pipeline.StageQueue, Does: fmt.Sprintf("tried again after %s, at most every %s; late after %s, given up after %s",
			p.Queue.Retry, p.Queue.RetryMax, p.Queue.WarnAfter, p.Queue.GiveUpAfter)},
		{Stage: pipeline.StageDeliver, Does: deliverDoes(c, p)},
	}}
}

func authenticateDoes(p *config.Pipeline) string {
	var checks []string
	if p.Authenticate.SPF {
		checks = append(checks, "SPF")
	}
	if p.Authenticate.DKIM {
		checks = append(checks, "DKIM")
	}
	return strings.Join(append(checks, "DMARC "+string(p.Authenticate.DMARC)), ", ")
}

func threshold(what string, at float64) string {
	if at == 0 {
		return what + " off"
	}
	return what + " at " + strconv.FormatFloat(at, 'f', -1, 64)
}

// asks says what the failures of a stage's plugins mean, where the stage's default is otherwise.
func asks(c *config.Config, found checkedPlugins, stage string, names []string, otherwise sdk.Action) []askedReport {
	var out []askedReport
	for _, name := range names {
		p := c.Plugin[name]
		if p == nil {
			continue
		}
		policy := func(kind pluginhost.Kind) string {
			if action, ok := p.Policy(kind); ok {
				return action.String()
			}
			return otherwise.String() + " (the stage's default)"
		}
		out = append(out, askedReport{
			Plugin: name, When: whenAsked(stage, p, found[name].Manifest), Mode: p.Mode, Timeout: p.Timeout.String(),
			OnFailure: policy(pluginhost.Error), OnTimeout: policy(pluginhost.Timeout), OnCrash: policy(pluginhost.Crash),
		})
	}
	return out
}

// print writes the report for a person.
func (r *report) print(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s: no problems", r.File)
	p.line("")
	p.line("%s, data in %s, certificate %s", r.Hostname, r.DataDir, r.TLS)
	p.section("listeners", len(r.Listeners))
	p.table(func(t io.Writer) {
		for _, l := range r.Listeners {
			fmt.Fprintf(t, "  %s\t%s\t%s\ttls %s\tlogin %s\t%s\n", l.Name, l.Protocol, l.Address, l.TLS, l.Login, arrow(l.Pipeline))
		}
	})
	for _, l := range r.Listeners {
		if len(l.Trusted) > 0 {
			p.line("  %s lets %s relay without a login", l.Name, strings.Join(l.Trusted, ", "))
		}
		if len(l.Proxies) > 0 {
			p.line("  %s expects a PROXY header from %s", l.Name, strings.Join(l.Proxies, ", "))
		}
	}
	p.section("domains", len(r.Domains))
	p.table(func(t io.Writer) {
		for _, d := range r.Domains {
			fmt.Fprintf(t, "  %s\t%s\taliases %d\tcatch-all %s\tsubaddress %s\tDKIM %s\n", d.Name, d.Accept, d.Aliases,
				none(strings.Join(d.CatchAll, ", ")), none(d.Subaddress), d.DKIM)
		}
	})
	r.printLeaving(p)
	for _, pl := range r.Pipelines {
		r.printPipeline(p, pl)
	}
	p.section("plugins", len(r.Plugins))
	p.table(func(t io.Writer) {
		for _, pl := range r.Plugins {
			fmt.Fprintf(t, "  %s\t%s\t%d lanes\tmemory %s\t%s\tasked by %s\n", pl.Name, pl.Program, pl.Lanes, pl.Memory, pl.Checked,
				none(strings.Join(pl.AskedBy, ", ")))
		}
	})
	r.printNotes(p)
	p.line("")
	p.line("runs %s", r.RunsAs)
	for _, m := range r.Missing {
		p.line("  missing: %s", m)
	}
	if !r.Accounts {
		p.line("accounts: not compared, since no server runs; an alias or a catch-all that leads to nobody is not seen now")
	}
	if len(r.Warnings) > 0 {
		p.line("")
	}
	for _, warning := range r.Warnings {
		p.line("%s", warning)
	}
	return p.err
}

func (r *report) printPipeline(p *printer, pl pipelineReport) {
	p.section("pipeline "+pl.Name, 1)
	p.table(func(t io.Writer) {
		for _, s := range pl.Stages {
			fmt.Fprintf(t, "  %s\t%s\n", s.Stage, s.Does)
			for _, asked := range s.Asks {
				fmt.Fprintf(t, "\tasks %s about %s, %s, within %s; %s\n", asked.Plugin, asked.When, asked.Mode, asked.Timeout, asked.failures())
			}
		}
		fmt.Fprintf(t, "  mixed\t%s\n", pl.Mixed)
	})
}

// failures says in one line what the failures of a plugin mean.
func (a askedReport) failures() string {
	if a.OnFailure == a.OnTimeout && a.OnFailure == a.OnCrash {
		return "if it fails: " + a.OnFailure
	}
	return fmt.Sprintf("if it fails: %s, too late: %s, dies: %s", a.OnFailure, a.OnTimeout, a.OnCrash)
}

func arrow(pipeline string) string {
	if pipeline == "" {
		return ""
	}
	return "-> " + pipeline
}

func none(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// printer writes lines and remembers the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil && p.err == nil {
		p.err = err
	}
}

func (p *printer) section(name string, items int) {
	p.line("")
	if items == 0 {
		p.line("%s: none", name)
		return
	}
	p.line("%s", name)
}

func (p *printer) table(fill func(io.Writer)) {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fill(t)
	if err := t.Flush(); err != nil && p.err == nil {
		p.err = err
	}
	for line := range strings.Lines(text.String()) {
		p.line("%s", strings.TrimRight(line, " \n"))
	}
}
