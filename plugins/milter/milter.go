// Package milter is the shipped plugin that asks a milter: any filter that was written for
// Sendmail's and Postfix's protocol of that name, such as opendkim, clamav-milter or milter-greylist.
//
// A milter follows an SMTP session; a plugin is asked one question at a time. So for each question
// the plugin replays the session to the milter over a connection of its own: connection, HELO,
// sender, recipients, DATA, header, body, end, with the macros of each step, leaving out the steps that
// the milter does not want and waiting for no reply that it does not send. It is asked about content only: a
// milter that counts or remembers shall see each message once. What the milter says of a recipient
// holds for that recipient, what it says of a step before for all, and what it wants changed at the end
// becomes our changes (see edit).
//
// It promises that a failure is an error and never an opinion: a milter that is down, slow, goes away
// in the middle, asks for what it has not announced or we have not offered, or sends something that is no
// frame leaves the message to on_failure. Nothing that a milter says can begin a second header field
// or line: values are unfolded first. It holds of a message its header (at most 2 MiB) and 64 KiB of its body;
// a new body is in memory up to 256 KiB, then in a file without a name. Frames are bounded, and so are
// their number and Settings.MaxBody.
//
// The types and numbers of the protocol are those of github.com/emersion/go-milter. Its client is not used,
// for five reasons: it refuses milters of the versions 2 to 5 as soon as it offers to change the sender; it
// keeps everything that the milter sends in memory without a bound, new bodies too; it has no DATA; it
// takes strings without an end; and it makes a system call for each frame, also for header fields to which
// no reply comes. Its server is a peer in the tests.
//
// Sources: milter-protocol.txt and milter-protocol-extras.txt in that module, Sendmail's libmilter
// documentation (xxfi_*, smfi_*), and what Postfix does where they are silent.
package milter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

type plugin struct {
	settings Settings
	pool     *dial.Pool
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "milter", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Events: []sdk.EventKind{sdk.EventCommand}, Overlap: true, CheckOnly: true,
		Changes: []sdk.ChangeKind{
			sdk.AddField, sdk.ReplaceField, sdk.RemoveField, sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveRecipient, sdk.ChangeSender,
		},
	}
}

// Configure implements sdk.Plugin. It does not wait for the milter.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	decoding := s.Decode(&p.settings)
	at, err := dial.Parse("address", p.settings.Address, s.Dir)
	if err = errors.Join(decoding, err, p.settings.check()); err != nil || s.CheckOnly {
		return err
	}
	p.pool = dial.NewPool(at, dial.Options{Connect: 5 * time.Second, Open: p.settings.Connections})
	return nil
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (v sdk.Verdict, err error) {
	if m.Phase == sdk.PhaseEvent {
		return p.command(ctx, m.Event)
	}
	if limit := int64(p.settings.MaxSize); limit > 0 && m.Size > limit {
		text := fmt.Sprintf("%d octets are more than max_size, %d", m.Size, limit)
		if p.settings.Larger == largerFail {
			return v, errors.New(text)
		}
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "MILTER_SKIPPED_SIZE", Text: "not asked: " + text}}}, nil
	}
	err = p.pool.Do(ctx, nil, func(c *dial.Conn) error {
		s := newSession(c, &p.settings)
		if err := s.negotiate(); err != nil {
			return err
		}
		v, err = s.replay(m)
		if err == nil {
			s.quit()
		}
		return err
	})
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("ask the milter at %s: %w", p.pool.Address(), err)
	}
	return v, nil
}

// command answers `sluice plugin tell NAME options`.
func (p *plugin) command(ctx context.Context, e *sdk.Event) (sdk.Verdict, error) {
	var v sdk.Verdict
	say := func(format string, args ...any) {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "MILTER", Text: plain.Line(fmt.Sprintf(format, args...), 1000)})
	}
	if e == nil || len(e.Words) != 1 || e.Words[0] != "options" {
		say("expected: options")
		return v, nil
	}
	err := p.pool.Do(ctx, nil, func(c *dial.Conn) error {
		s := newSession(c, &p.settings)
		if err := s.negotiate(); err != nil {
			return err
		}
		say("%s speaks version %d", p.pool.Address(), s.version)
		say("it may %s", words(uint32(s.actions), actionWords))
		say("it does not want %s", words(uint32(s.without), stepWords))
		s.quit()
		return nil
	})
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("ask the milter at %s: %w", p.pool.Address(), err)
	}
	return v, nil
}
