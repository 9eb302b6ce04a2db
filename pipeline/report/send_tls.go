package report

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/report/tlsreport"
	"github.com/sluicemail/sluice/storage/kv"
)

// takeTries is how often, once a minute, a day is asked for before what there is of it is all there will be.
const takeTries = 30

// maxDocument bounds a TLS report in the store (RULES B2: a value is at most 1 MiB).
const maxDocument = 900 << 10

// lookTLS takes over the days that have ended, and sends the TLS reports that are due.
func (s *Sender) lookTLS(ctx context.Context, config Config) error {
	if err := s.takeTLS(ctx, config); err != nil {
		return fmt.Errorf("keep what was counted about TLS: %w", err)
	}
	list, broken, err := s.jobs(ctx, tlsPrefix, func(_ []byte, period string) (time.Time, bool) {
		begin, err := time.Parse(periodForm, period)
		return begin.Add(24 * time.Hour), err == nil
	})
	if err != nil {
		return fmt.Errorf("read what was counted about TLS: %w", err)
	}
	for _, key := range broken {
		if err := s.forget(ctx, key); err != nil {
			return err
		}
	}
	for _, j := range list[:min(len(list), maxLook)] {
		if !config.TLS {
			if err := s.forget(ctx, j.key); err != nil {
				return err
			}
			continue
		}
		s.settle(ctx, kindTLS, j, s.sendTLS)
	}
	return ctx.Err()
}

// takeTLS moves what was counted on yesterday, and on the day before if the server did not run at its end, into the store.
func (s *Sender) takeTLS(ctx context.Context, config Config) error {
	today := s.o.Now().UTC().Truncate(24 * time.Hour)
	yesterday := today.Add(-24 * time.Hour)
	if s.o.TLS == nil || s.taken.Equal(yesterday) || s.o.Now().Sub(today) < settle {
		return nil
	}
	for _, day := range []time.Time{yesterday.Add(-24 * time.Hour), yesterday} {
		summaries, err := s.o.TLS.Take(ctx, day)
		if err != nil {
			if s.failed++; s.failed < takeTries {
				return err
			}
			s.o.Logger.Error("a part of what was counted about TLS is lost", "day", day.Format(time.DateOnly), "why", err)
		}
		for i := range summaries {
			if !config.TLS {
				break
			}
			if err := s.keepTLS(ctx, &summaries[i]); err != nil {
				return err
			}
		}
		if err := s.o.TLS.Forget(ctx, day); err != nil {
			return err
		}
	}
	s.taken, s.failed = yesterday, 0
	return nil
}

// keepTLS writes one summary into the store.
func (s *Sender) keepTLS(ctx context.Context, sum *tlsrpt.Summary) error {
	domain, ok := asciiDomain(sum.Domain)
	if !ok || len(sum.Policies) == 0 {
		return nil
	}
	text, err := json.Marshal(tlsreport.From(sum))
	if err != nil {
		return err
	}
	if len(text) > maxDocument {
		s.o.Logger.Warn("TLS report is too large", "domain", domain, "size", len(text), "action", "dropped")
		return nil
	}
	var b kv.Batch
	b.Set([]byte(periodKey(tlsPrefix, sum.Day)+domain+"/"), text)
	_, err = s.o.Engine.Apply(ctx, &b)
	return err
}

// sendTLS sends one TLS report to everybody who wants it: by mail and by https alike (RFC 8460 section 3).
func (s *Sender) sendTLS(ctx context.Context, j job) error {
	targets, left, err := tlsTargets(ctx, s.o.DNS, j.domain)
	for _, why := range left {
		s.o.Logger.Info("TLS report not sent to one place", "domain", j.domain, "why", why)
	}
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return fmt.Errorf("%w: the domain wants no TLS reports", errNothing)
	}
	r, err := tlsreport.Read(j.value)
	if err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	r.ID = s.reportID(kindTLS, j)
	s.introduce(&r.Organization, &r.Contact, new(string))
	text, err := tlsreport.Write(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	p := paper{kind: kindTLS, about: j.domain, id: r.ID, begin: r.Range.Start.Unix(), end: r.Range.End.Unix(), packed: pack(text)}
	var byMail []target
	var failed error
	posted := 0
	for _, t := range targets {
		if t.address != "" {
			byMail = append(byMail, t)
			continue
		}
		if err := s.post.send(ctx, t.url, p.packed); err != nil {
			s.o.Logger.Info("TLS report not posted", "domain", j.domain, "to", t.url, "why", err)
			failed = err
			continue
		}
		posted++
		s.o.Logger.Info("TLS report posted", "kind", kindTLS, "domain", j.domain, "to", t.url, "action", "sent", "report_id", p.id)
	}
	if len(byMail) == 0 && posted == 0 {
		return failed // nobody has it: try again later
	}
	return s.mail(ctx, p, byMail)
}
