package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/mailfile"
	reports "github.com/sluicemail/sluice/pipeline/report"
	"github.com/sluicemail/sluice/pipeline/report/dmarc"
	"github.com/sluicemail/sluice/pipeline/report/tlsreport"
	"github.com/sluicemail/sluice/storage"
)

type reportRequest struct {
	Account string `json:"account"`
	Mailbox string `json:"mailbox"`
	Limit   int    `json:"limit"` // messages that are looked at, newest first
}

// reportItem is one report of somebody else, or why a message's could not be read.
type reportItem struct {
	Source  string `json:"source"` // the file, or "INBOX, UID 5"
	Problem string `json:"problem,omitempty"`
	reports.Found
}

// maxReportRows bounds the records of one item: it goes over the control socket as one line.
const maxReportRows = 20_000

// maxReportMessages bounds the messages that are looked at in one go.
const maxReportMessages = 100_000

func reportShowOperation() operation {
	return operation{"report/show", typed(showReports)}
}

// showReports looks for reports in a mailbox of an account.
func showReports(ctx context.Context, s *storage.Store, r reportRequest, emit func(any) error) error {
	who, err := s.Accounts().Lookup(ctx, r.Account)
	if err != nil {
		return fmt.Errorf("there is no account %s; sluice user list shows them", r.Account)
	}
	var list []*storage.Message
	limit := min(max(r.Limit, 1), maxReportMessages)
	err = s.View(ctx, who.ID, func(v *storage.View) error {
		box, err := v.Mailbox(r.Mailbox)
		if err != nil {
			return fmt.Errorf("look into %s of %s: %w", r.Mailbox, r.Account, err)
		}
		return v.Messages(box.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
			if list = append(list, m.Clone()); len(list) > 2*limit { // only the newest are wanted
				list = append(list[:0], list[len(list)-limit:]...)
			}
			return ctx.Err() == nil, ctx.Err()
		})
	})
	if err != nil {
		return err
	}
	list = list[max(0, len(list)-limit):]
	for _, m := range list {
		if err := reportsOf(ctx, s, m, r.Mailbox, emit); err != nil {
			return err
		}
	}
	return nil
}

func reportsOf(ctx context.Context, s *storage.Store, m *storage.Message, mailbox string, emit func(any) error) error {
	content, err := s.Open(ctx, m)
	if err != nil {
		return fmt.Errorf("open %s, UID %d: %w", mailbox, m.UID, err)
	}
	defer content.Close()
	found, err := reports.Find(content, content.Size())
	return emitReports(fmt.Sprintf("%s, UID %d", mailbox, m.UID), found, err, emit)
}

// emitReports hands on what was found in one place. A message without a report is no news.
func emitReports(source string, found []reports.Found, err error, emit func(any) error) error {
	for _, f := range found {
		if d := f.DMARC; d != nil && len(d.Records) > maxReportRows {
			d.Left += len(d.Records) - maxReportRows
			d.Records = d.Records[:maxReportRows]
		}
		if err := emit(reportItem{Source: source, Found: f}); err != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, reports.ErrNoReport) {
		return emit(reportItem{Source: source, Problem: err.Error()})
	}
	return nil
}

func (a *app) reportCommand() *cobra.Command {
	r := reportRequest{Mailbox: "INBOX", Limit: 1000}
	showing := &cobra.Command{
		Use:   "show FILE|DIR|- | --account ADDRESS",
		Short: "show DMARC and TLS reports of other servers: in files, or in a mailbox",
		Long: "Shows DMARC aggregate reports and TLS reports that other servers sent: XML and JSON, packed by gzip or zip or not, as files,\n" +
			"in messages, in an mbox or in a folder of messages; or, with --account, in a mailbox here.",
		Args: atMost("a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (r.Account != "") {
				return usagef("%s needs a file, a folder, or --account ADDRESS", cmd.CommandPath())
			}
			p := &reportPrinter{app: a}
			if len(args) == 0 {
				c, err := a.load()
				if err != nil {
					return err
				}
				return p.end(a.perform(cmd.Context(), c, reportShowOperation(), r, p.raw))
			}
			return p.end(p.files(cmd.Context(), args[0]))
		},
	}
	showing.Flags().StringVar(&r.Account, "account", "", "look into a mailbox of this `address`")
	showing.Flags().StringVar(&r.Mailbox, "mailbox", r.Mailbox, "the `mailbox` to look into")
	limitFlag(showing, &r.Limit, maxReportMessages, "look at so many `messages` at most, the newest")
	return group("report", "read what other servers report about mail in our name", showing)
}

// reportPrinter prints reports and adds them up.
type reportPrinter struct {
	app      *app
	reports  int
	problems int
	messages map[string]*dmarcSum
	sessions map[string]*tlsSum
}

type dmarcSum struct{ messages, passed, dkim, spf, quarantined, rejected uint64 }

type tlsSum struct{ success, failure int64 }

// files reads every file below a path.
func (p *reportPrinter) files(ctx context.Context, path string) error {
	return mailfile.Walk(ctx, path, &input{ctx, p.app.stdin}, func(m mailfile.Message) error {
		var found []reports.Found
		err := m.Err
		if err == nil {
			var text []byte
			text, err = io.ReadAll(io.LimitReader(m.R, reports.MaxMessage+1))
			if err == nil {
				found, err = reports.Find(bytes.NewReader(text), int64(len(text)))
			}
		}
		return emitReports(m.Name, found, err, func(item any) error { return p.item(item.(reportItem)) })
	})
}

func (p *reportPrinter) raw(text json.RawMessage) error {
	var item reportItem
	if err := json.Unmarshal(text, &item); err != nil {
		return fmt.Errorf("read the answer to report/show: %w", err)
	}
	return p.item(item)
}

func (p *reportPrinter) item(item reportItem) error {
	if item.Problem != "" {
		p.problems++
	}
	if p.app.json {
		return json.NewEncoder(p.app.stdout).Encode(item)
	}
	var b strings.Builder
	switch {
	case item.DMARC != nil:
		p.dmarc(&b, item.Source, item.DMARC)
	case item.TLS != nil:
		p.tls(&b, item.Source, item.TLS)
	default:
		fmt.Fprintf(&b, "%s: %s\n\n", item.Source, item.Problem)
	}
	_, err := io.WriteString(p.app.stdout, plain(b.String()))
	return err
}

func (p *reportPrinter) dmarc(w io.Writer, source string, f *dmarc.Feedback) {
	p.reports++
	fmt.Fprintf(w, "DMARC  %s  by %s  %s to %s  p=%s  (%s)\n", f.Policy.Domain, orDash(f.Metadata.OrgName),
		f.Metadata.Range.Begin.Time().Format(time.DateTime), f.Metadata.Range.End.Time().Format(time.DateTime), orDash(f.Policy.P), source)
	if p.messages == nil {
		p.messages = make(map[string]*dmarcSum)
	}
	sum := p.messages[f.Policy.Domain]
	if sum == nil {
		sum = &dmarcSum{}
		p.messages[f.Policy.Domain] = sum
	}
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  SOURCE\tCOUNT\tDISPOSITION\tDKIM\tSPF\tFROM\tSIGNED BY\tENVELOPE FROM")
	for i := range f.Records {
		r := &f.Records[i]
		e := &r.Row.Evaluated
		sum.add(uint64(r.Row.Count), e)
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Row.SourceIP, r.Row.Count, disposition(e), orDash(e.DKIM), orDash(e.SPF),
			orDash(r.Identifiers.HeaderFrom), orDash(signers(r.Results.DKIM)), orDash(r.Identifiers.EnvelopeFrom))
	}
	t.Flush()
	if f.Left > 0 {
		fmt.Fprintf(w, "  %d records are left out\n", f.Left)
	}
	for _, text := range f.Metadata.Errors {
		fmt.Fprintf(w, "  the reporter says: %s\n", text)
	}
	fmt.Fprintln(w)
}

func (s *dmarcSum) add(n uint64, e *dmarc.Evaluated) {
	s.messages += n
	if e.DKIM == "pass" {
		s.dkim += n
	}
	if e.SPF == "pass" {
		s.spf += n
	}
	if e.DKIM == "pass" || e.SPF == "pass" {
		s.passed += n
	}
	switch e.Disposition {
	case "quarantine":
		s.quarantined += n
	case "reject":
		s.rejected += n
	}
}

func disposition(e *dmarc.Evaluated) string {
	text := orDash(e.Disposition)
	for _, r := range e.Reasons {
		text += " (" + r.Type + ")"
	}
	return text
}

// signers are the domains whose signatures a row tells of, those that passed first.
func signers(list []dmarc.DKIM) string {
	var words []string
	for _, k := range list[:min(len(list), 5)] {
		word := k.Domain
		if k.Result != "pass" {
			word += " (" + orDash(k.Result) + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func (p *reportPrinter) tls(w io.Writer, source string, r *tlsreport.Report) {
	p.reports++
	if p.sessions == nil {
		p.sessions = make(map[string]*tlsSum)
	}
	fmt.Fprintf(w, "TLS  by %s  %s to %s  (%s)\n", orDash(r.Organization), r.Range.Start.Format(time.DateTime), r.Range.End.Format(time.DateTime), source)
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  DOMAIN\tPOLICY\tGOOD\tFAILED\tWHY\tSERVER\tFROM\tMORE")
	for _, one := range r.Policies {
		sum := p.sessions[one.Policy.Domain]
		if sum == nil {
			sum = &tlsSum{}
			p.sessions[one.Policy.Domain] = sum
		}
		sum.success += int64(one.Summary.Success)
		sum.failure += int64(one.Summary.Failure)
		fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t\t\t\t\n", orDash(one.Policy.Domain), orDash(one.Policy.Type), one.Summary.Success, one.Summary.Failure)
		for _, d := range one.Details {
			fmt.Fprintf(t, "  \t\t\t%d\t%s\t%s\t%s\t%s\n", d.Count, orDash(d.Type), orDash(d.MXHostname), orDash(d.SendingIP), strings.TrimSpace(d.Code+" "+d.Info))
		}
	}
	t.Flush()
	if r.Left > 0 {
		fmt.Fprintf(w, "  %d lines are left out\n", r.Left)
	}
	fmt.Fprintln(w)
}

// end prints the sums. A file that could not be read is a failure.
// end prints the sums. What was looked for and not found, because of err, is no place without reports.
func (p *reportPrinter) end(err error) error {
	if !p.app.json {
		var b strings.Builder
		for _, domain := range sortedKeys(p.messages) {
			s := p.messages[domain]
			fmt.Fprintf(&b, "%s: %d messages, %d passed (%d by DKIM, %d by SPF), %d quarantined, %d rejected\n", orDash(domain), s.messages, s.passed, s.dkim, s.spf, s.quarantined, s.rejected)
		}
		for _, domain := range sortedKeys(p.sessions) {
			s := p.sessions[domain]
			fmt.Fprintf(&b, "%s: %d sessions with TLS as it should be, %d without\n", orDash(domain), s.success, s.failure)
		}
		if p.reports == 0 && p.problems == 0 && err == nil {
			b.WriteString("there are no reports\n")
		}
		if _, failed := io.WriteString(p.app.stdout, plain(b.String())); failed != nil {
			return failed
		}
	}
	if p.problems > 0 && err == nil {
		return fmt.Errorf("%d reports could not be read", p.problems)
	}
	return err
}

func sortedKeys[T any](m map[string]T) []string {
	list := make([]string, 0, len(m))
	for key := range m {
		list = append(list, key)
	}
	sort.Strings(list)
	return list
}
