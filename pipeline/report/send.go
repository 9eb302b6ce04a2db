package report

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/report/dmarc"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/storage/kv"
)

// SenderOptions are what a Sender is made of.
type SenderOptions struct {
	Config   func() Config // of the moment
	Hostname string        // ours: "Submitter" and part of each report's ID
	Engine   kv.Engine
	DNS      resolver.Lookup
	Logger   *slog.Logger

	// From says which address stands in From now, "" for none: then nothing is sent.
	From func() string

	// Submit queues a letter with a null sender and has it signed (RULES A6, A8). It is called by one goroutine; an error
	// means that the letter is not queued and may be submitted again.
	Submit func(ctx context.Context, l *Letter) error

	// TLS is asked once a day what was counted on the day before; nil: no TLS reports. *tlsrpt.Collector is one.
	TLS TLSSource

	// Rules say to which addresses reports may be posted by https; the zero Rules are the Internet's.
	Rules mx.Rules

	Now func() time.Time
}

// TLSSource counts how TLS went. It is called by one goroutine.
type TLSSource interface {
	// Take returns what there is to report about a UTC day. With an error some may be missing.
	Take(ctx context.Context, day time.Time) ([]tlsrpt.Summary, error)

	// Forget drops the day: the sender has kept it.
	Forget(ctx context.Context, day time.Time) error
}

var _ TLSSource = (*tlsrpt.Collector)(nil)

// Timing.
const (
	lookEvery  = time.Minute      // for periods that are over
	settle     = 2 * time.Minute  // after a period's end: the collector has written its last rows
	spread     = time.Hour        // the servers of the world do not all write at midnight (RFC 8460 section 4.1)
	retryAfter = time.Hour        // what could not be sent now
	giveUp     = 24 * time.Hour   // after the period's end (RFC 8460 section 5.5)
	oneReport  = 2 * time.Minute  // for one report with its look-ups
	maxLook    = 500              // reports in one look; the next look goes on
	maxHeads   = maxDomains + 100 // of one look, in memory
)

// Sender sends the reports about periods that are over.
type Sender struct {
	o      SenderOptions
	post   *poster
	cancel context.CancelFunc
	done   chan struct{}

	// Of the goroutine alone.
	tried  map[string]time.Time // by key: when it could not be sent
	taken  time.Time            // the last day that TLS was asked about
	failed int                  // times that it could not be
}

// NewSender returns a sender; Start must be called before it sends.
func NewSender(o SenderOptions) *Sender {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{o: o, post: newPoster(o.DNS, o.Rules), done: make(chan struct{}), tried: make(map[string]time.Time)}
}

// Start begins to look for periods that are over.
func (s *Sender) Start(ctx context.Context) {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(s.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.Look(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Stop ends it; a report that is being sent is sent anew after the next start, with the same ID.
func (s *Sender) Stop() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	<-s.done
}

// due is when reports about a period that ended then are sent: each server has its own time within the hour.
func (s *Sender) due(end time.Time) time.Time {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s.o.Hostname)) // never fails
	return end.Add(settle + time.Duration(h.Sum32()%uint32(spread/time.Second))*time.Second)
}

// Look sends what is due now. Start calls it every minute.
func (s *Sender) Look(ctx context.Context) {
	config := s.o.Config()
	for key, at := range s.tried {
		if s.o.Now().Sub(at) > 2*giveUp {
			delete(s.tried, key)
		}
	}
	if err := s.lookDMARC(ctx, config); err != nil && ctx.Err() == nil {
		s.o.Logger.Warn("DMARC reports not sent yet", "action", "retry", "why", err)
	}
	if err := s.lookTLS(ctx, config); err != nil && ctx.Err() == nil {
		s.o.Logger.Warn("TLS reports not sent yet", "action", "retry", "why", err)
	}
}

// job is a report that is due.
type job struct {
	key    string // of the head, with the final "/"
	period string
	domain string
	value  []byte // a head of DMARC, the document of TLS
	end    time.Time
}

// jobs reads the heads of one kind, oldest period first.
func (s *Sender) jobs(ctx context.Context, prefix string, end func(value []byte, period string) (time.Time, bool)) (list []job, broken []string, err error) {
	now := s.o.Now()
	from := []byte(prefix)
	for len(list)+len(broken) < maxHeads {
		var next []byte
		err := s.o.Engine.Scan(ctx, from, after(prefix), false, func(key, value []byte) (bool, error) {
			period, domain, rest, ok := parseKey(prefix, key)
			if !ok || rest != "" { // a row without a head, or a stranger
				broken = append(broken, string(key))
				next = append(append([]byte(nil), key...), 0)
				return false, nil
			}
			at, ok := end(value, period)
			switch {
			case !ok:
				broken = append(broken, string(key))
			case s.due(at).After(now):
				next = nil // a later period begins behind it; nothing is due any more unless the clock went back
				return false, nil
			case now.Sub(s.tried[string(key)]) >= retryAfter:
				list = append(list, job{string(key), period, domain, append([]byte(nil), value...), at})
			}
			next = after(string(key)) // its rows are read when it is sent
			return false, nil
		})
		if err != nil {
			return nil, nil, err
		}
		if next == nil {
			break
		}
		from = next
	}
	return list, broken, nil
}

// lookDMARC sends the DMARC reports that are due.
func (s *Sender) lookDMARC(ctx context.Context, config Config) error {
	list, broken, err := s.jobs(ctx, dmarcPrefix, func(value []byte, _ string) (time.Time, bool) {
		h, err := decodeHead(value, "")
		if err != nil {
			return time.Time{}, false
		}
		return h.end, true
	})
	if err != nil {
		return fmt.Errorf("read what was observed: %w", err)
	}
	for _, key := range broken {
		if err := s.forget(ctx, key); err != nil {
			return err
		}
	}
	for _, j := range list[:min(len(list), maxLook)] {
		if !config.DMARC { // switched off meanwhile
			if err := s.forget(ctx, j.key); err != nil {
				return err
			}
			continue
		}
		s.settle(ctx, kindDMARC, j, s.sendDMARC)
	}
	return ctx.Err()
}

// errNothing: there is nobody to send it to, or nothing to send. It is forgotten.
var errNothing = errors.New("nothing to send")

// settle sends one report, and forgets it, or tries again later.
func (s *Sender) settle(ctx context.Context, kind string, j job, send func(context.Context, job) error) {
	limited, cancel := context.WithTimeout(ctx, oneReport)
	err := send(limited, j)
	cancel()
	log := s.o.Logger.With("kind", kind, "domain", j.domain, "period", j.period)
	switch late := s.o.Now().Sub(j.end) > giveUp; {
	case err == nil:
	case errors.Is(err, errNothing):
		log.Debug("no report is sent", "why", err)
	case ctx.Err() != nil:
		return
	case late:
		log.Warn("report given up", "action", "dropped", "why", err)
	default:
		if s.tried[j.key].IsZero() {
			log.Info("report not sent yet", "action", "retry", "why", err)
		}
		s.tried[j.key] = s.o.Now()
		return
	}
	delete(s.tried, j.key)
	if err := s.forget(ctx, j.key); err != nil {
		log.Warn("report not forgotten; it will be sent again, with the same ID", "why", err)
	}
}

// forget removes a head and its rows, or one key that is none.
func (s *Sender) forget(ctx context.Context, key string) error {
	var b kv.Batch
	if key[len(key)-1] == '/' {
		b.DeleteRange([]byte(key), after(key))
	} else {
		b.Delete([]byte(key))
	}
	_, err := s.o.Engine.Apply(ctx, &b)
	return err
}

// sendDMARC sends one DMARC report to everybody who wants it.
func (s *Sender) sendDMARC(ctx context.Context, j job) error {
	h, err := decodeHead(j.value, j.domain)
	if err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	targets, left, err := dmarcTargets(ctx, s.o.DNS, j.domain, h.policy.RUA)
	for _, why := range left {
		s.o.Logger.Info("DMARC report not sent to one place", "domain", j.domain, "why", why)
	}
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return fmt.Errorf("%w: nobody may be sent it", errNothing)
	}
	f, err := s.feedback(ctx, j, h)
	if err != nil {
		return err
	}
	text, err := dmarc.Write(f)
	if err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	return s.mail(ctx, paper{
		kind: kindDMARC, about: j.domain, id: f.Metadata.ReportID, begin: int64(f.Metadata.Range.Begin), end: int64(f.Metadata.Range.End), packed: pack(text),
	}, targets)
}

// mail submits a letter for each target.
func (s *Sender) mail(ctx context.Context, p paper, targets []target) error {
	p.hostname, p.at, p.from = s.o.Hostname, s.o.Now(), s.o.From()
	if p.from == "" {
		return fmt.Errorf("%w: there is no address to send reports from; set [reports] from, or postmaster", errNothing)
	}
	for _, t := range targets {
		p.to = t.address
		l := p.write()
		if t.limit > 0 && int64(len(l.Text)) > t.limit { // RFC 9990 section 4: such a URI must not be used
			s.o.Logger.Info("report is larger than its addressee takes", "kind", p.kind, "domain", p.about, "to", t.address,
				"size", len(l.Text), "limit", t.limit, "action", "dropped")
			continue
		}
		if err := s.o.Submit(ctx, l); err != nil {
			return fmt.Errorf("queue the report to %s: %w", t.address, err)
		}
		s.o.Logger.Info("report queued", "kind", p.kind, "domain", p.about, "to", t.address, "action", "queued", "report_id", p.id)
	}
	return nil
}

// feedback reads the rows of a domain into a report.
func (s *Sender) feedback(ctx context.Context, j job, h *head) (*dmarc.Feedback, error) {
	p := &h.policy
	end := h.end.Unix() - 1 // the last second that belongs to it
	f := &dmarc.Feedback{
		Metadata: dmarc.Metadata{ReportID: s.reportID(kindDMARC, j), Range: dmarc.DateRange{Begin: dmarc.Seconds(h.begin.Unix()), End: dmarc.Seconds(end)}},
		Policy:   dmarc.Policy{Domain: j.domain, ADKIM: p.ADKIM, ASPF: p.ASPF, P: p.P, SP: p.SP, Percent: strconv.Itoa(p.Percent), FO: p.FO},
	}
	s.introduce(&f.Metadata.OrgName, &f.Metadata.Email, &f.Metadata.Contact)
	if h.left > 0 {
		f.Metadata.Errors = append(f.Metadata.Errors, fmt.Sprintf("%d messages are in no record, because there are more than %d", h.left, maxRows))
	}
	err := s.o.Engine.Scan(ctx, []byte(j.key), after(j.key), false, func(key, value []byte) (bool, error) {
		if len(key) == len(j.key) {
			return true, nil
		}
		r, err := decodeRow(value)
		if err != nil {
			f.Metadata.Errors = []string{"some records are damaged"}
			return true, nil
		}
		f.Records = append(f.Records, r)
		return len(f.Records) < 2*maxRows, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the rows of the report: %w", err)
	}
	return f, nil
}

// introduce says who we are.
func (s *Sender) introduce(org, email, contact *string) {
	c := s.o.Config()
	*org, *email, *contact = c.OrgName, c.Email, c.Contact
	if *org == "" {
		*org = s.o.Hostname
	}
	if *email == "" {
		*email = s.o.From()
	}
}

// reportID is the same whenever the report is sent, so that one that is sent twice is known for it.
func (s *Sender) reportID(kind string, j job) string {
	sum := sha256.Sum256([]byte(kind + " " + j.period + " " + j.domain + " " + s.o.Hostname))
	return j.period + "." + hex.EncodeToString(sum[:6]) + "@" + s.o.Hostname
}
