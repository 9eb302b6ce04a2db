// Package spamassassin is the shipped plugin that asks SpamAssassin's daemon spamd for its
// opinion of a message, and teaches it what people move into and out of Junk.
//
// It speaks the protocol of spamc, version 1.5 (spamd/PROTOCOL in SpamAssassin's source): REPORT
// for an opinion, TELL to teach, PING for the command of that name; over TCP or a unix
// socket, a connection a question, because spamd closes it after its answer. The score
// and what spamd makes of it come from the field Spam of the answer, the reasons from
// the table in the report.
//
// It promises that a failure is an error and never an opinion: spamd that is down, slow,
// closes early or says something that is no answer leaves the message to the
// administrator's on_failure. A message over max_size is not sent, as spamc would not, and
// the trace says so. It keeps no state, and a message in memory only where it has
// to be asked about for several users.
//
// spamd is trusted as far as its opinion goes. What it says passes bounds: lines of 4 KiB, 50
// fields, 256 KiB of a report, 200 reasons, no control characters.
//
// README.md beside this file is its part of the manual, with every setting.
package spamassassin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Tag is the tag of a verdict that says "yes" or "no", or "skipped".
const Tag = "spamassassin.spam"

type plugin struct {
	settings settings
	pool     *dial.Pool
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "spamassassin", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Events:  []sdk.EventKind{sdk.EventLearnSpam, sdk.EventLearnHam, sdk.EventCommand},
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.RemoveField},
		Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin. It does not wait for spamd: a server must start
// while its filter is down.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	set, at, err := configure(s)
	if err != nil || s.CheckOnly {
		return err
	}
	p.settings = set
	p.pool = dial.NewPool(at, dial.Options{Connect: connectLimit})
	return nil
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if p.settings.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.settings.Timeout)
		defer cancel()
	}
	if m.Phase == sdk.PhaseEvent && m.Event != nil {
		return p.event(ctx, m)
	}
	if limit := int64(p.settings.MaxSize); limit > 0 && m.Size > limit {
		return sdk.Verdict{
			Reasons: []sdk.Reason{{
				Symbol: "SPAMASSASSIN_SKIPPED_SIZE", Text: fmt.Sprintf("not scanned: %d octets are more than max_size, %d", m.Size, limit),
			}},
			Tags: map[string]string{Tag: "skipped"},
		}, nil
	}
	users := p.settings.users(m)
	if len(users) == 1 {
		a, err := p.scan(ctx, users[0].name, m, m.Content)
		if err != nil {
			return sdk.Verdict{}, err
		}
		return p.settings.verdict(a), nil
	}
	return p.scanAll(ctx, m, users)
}

// scanAll asks for each user, all at a time, and answers for each recipient.
func (p *plugin) scanAll(ctx context.Context, m *sdk.Message, users []user) (sdk.Verdict, error) {
	content, err := io.ReadAll(io.LimitReader(m.Content, m.Size))
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("read the message: %w", err)
	}
	answers := make([]*answer, len(users))
	errs := make([]error, len(users))
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() { answers[i], errs[i] = p.scan(ctx, users[i].name, m, bytes.NewReader(content)) })
	}
	all.Wait()
	var v sdk.Verdict
	for i, u := range users {
		if errs[i] != nil {
			return sdk.Verdict{}, fmt.Errorf("for the user %s: %w", plain.Line(u.name, 100), errs[i])
		}
		one := p.settings.verdict(answers[i])
		for _, address := range u.recipients {
			v.Recipients = append(v.Recipients, sdk.RecipientVerdict{
				Recipient: address, Action: one.Action, Score: one.Score, Reasons: one.Reasons, Changes: one.Changes,
			})
		}
	}
	return v, nil
}

// scan asks for one user.
func (p *plugin) scan(ctx context.Context, name string, m *sdk.Message, content io.Reader) (*answer, error) {
	// SpamAssassin looks here for the sender that SPF is about; our Received field below says the rest.
	front := "X-Envelope-From: <" + plain.Value(m.Sender) + ">\r\n"
	r, err := p.ask(ctx, request{
		verb: "REPORT", fields: userField(name), size: int64(len(front)) + m.Size,
		content: io.MultiReader(bytes.NewReader([]byte(front)), content), wantBody: true,
	})
	if err != nil {
		return nil, err
	}
	return r.opinion()
}

// event handles what the plugin is told.
func (p *plugin) event(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	switch m.Event.Kind {
	case sdk.EventLearnSpam:
		return p.teach(ctx, m, "spam")
	case sdk.EventLearnHam:
		return p.teach(ctx, m, "ham")
	case sdk.EventCommand:
		if len(m.Event.Words) == 1 && m.Event.Words[0] == "ping" {
			return p.ping(ctx), nil
		}
		return say("ping: ask whether spamd answers"), nil
	}
	return sdk.Verdict{}, nil
}

// teach tells spamd what a message is. One that it knows already is no error.
func (p *plugin) teach(ctx context.Context, m *sdk.Message, class string) (sdk.Verdict, error) {
	if !p.settings.Learn {
		return say("not learned: learn is off in the settings"), nil
	}
	if limit := int64(p.settings.MaxSize); limit > 0 && m.Size > limit {
		return say(fmt.Sprintf("not learned: %d octets are more than max_size, %d", m.Size, limit)), nil
	}
	name := p.settings.User
	if p.settings.PerRecipient && m.Event.Account != "" {
		name = m.Event.Account
	}
	r, err := p.ask(ctx, request{
		verb: "TELL", fields: userField(name) + "Message-class: " + class + "\r\nSet: local\r\n", size: m.Size, content: m.Content,
	})
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("learn as %s: %w", class, err)
	}
	if r.didSet == "" {
		return say("not learned as " + class + ": spamd knew it, or does not learn"), nil
	}
	return say("learned as " + class), nil
}

func (p *plugin) ping(ctx context.Context) sdk.Verdict {
	begin := time.Now()
	r, err := p.ask(ctx, request{verb: "PING"})
	switch {
	case err != nil:
		return say(err.Error())
	case r.text != "PONG":
		return say(fmt.Sprintf("spamd at %s answers %q", p.pool.Address(), r.text))
	}
	return say(fmt.Sprintf("spamd at %s answers in %v", p.pool.Address(), time.Since(begin).Round(10*time.Microsecond)))
}

// say is an answer to somebody who reads it.
func say(line string) sdk.Verdict {
	return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "SPAMASSASSIN", Text: plain.Line(line, maxText)}}}
}
