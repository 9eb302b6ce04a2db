// Package rspamd is the shipped plugin that asks rspamd (https://rspamd.com) for its opinion
// of a message, and teaches it what people move into and out of Junk.
//
// It sends the message to a normal or proxy worker by HTTP POST /checkv2, as it arrives
// and never held as a whole, with the envelope in header fields (rspamd's protocol,
// https://rspamd.com/doc/developers/protocol.html). The answer becomes a verdict: the score,
// a reason for each symbol, an action where rspamd wants one, and the header fields that
// rspamd's milter_headers module asks for. Learn events go to a controller worker.
//
// It promises that a failure is an error and never an opinion: rspamd that is down,
// slow, says something that is no answer, or too much, leaves the message to the
// administrator's on_failure. It keeps no state and, of a message, at most 64 KiB, so that
// a question on a kept connection that rspamd has closed can be asked once more.
//
// rspamd is trusted as far as its opinion goes. What it says all the same passes bounds:
// 4 MiB for an answer, 200 reasons, 50 fields, no control characters; and fields that say who
// signed, carried or authenticated a message are not taken from it.
//
// README.md beside this file is its part of the manual, with every setting.
package rspamd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

type plugin struct {
	settings settings
	scan     *client // a normal or proxy worker
	learn    *client // a controller worker, or nil
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "rspamd", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Events:  []sdk.EventKind{sdk.EventLearnSpam, sdk.EventLearnHam, sdk.EventCommand},
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.RemoveField},
		Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin. It does not wait for rspamd: a server must start
// while its filter is down.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	set, scan, learn, err := configure(s)
	if err != nil || s.CheckOnly {
		return err
	}
	p.settings = set
	p.scan = newClient(scan, set.Password, s.Lanes)
	if learn != nil {
		p.learn = newClient(*learn, set.ControllerPassword, 1)
	}
	return nil
}

// Close implements io.Closer.
func (p *plugin) Close() error {
	for _, c := range []*client{p.scan, p.learn} {
		if c != nil {
			c.close()
		}
	}
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
				Symbol: "RSPAMD_SKIPPED_SIZE", Text: fmt.Sprintf("not scanned: %d octets are more than max_size, %d", m.Size, limit),
			}},
			Tags: map[string]string{"rspamd.skipped": "size"},
		}, nil
	}
	status, body, err := p.scan.post(ctx, "/checkv2", scanHeader(m, &p.settings), m)
	if err != nil {
		return sdk.Verdict{}, err
	}
	if status.code != 200 {
		return sdk.Verdict{}, fmt.Errorf("rspamd answered %s", status.explain(body))
	}
	a, err := parseAnswer(body)
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("rspamd's answer: %w", err)
	}
	return p.settings.verdict(a), nil
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
		return say("ping: ask whether rspamd answers"), nil
	}
	return sdk.Verdict{}, nil
}

// teach posts a message to the controller. What rspamd will not learn, now or ever, is
// no error: the event would come again for a week.
func (p *plugin) teach(ctx context.Context, m *sdk.Message, class string) (sdk.Verdict, error) {
	if p.learn == nil {
		return say("not learned: there is no controller in the settings"), nil
	}
	status, body, err := p.learn.post(ctx, "/learn"+class, learnHeader(m), m)
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("learn as %s: %w", class, err)
	}
	text := status.explain(body)
	switch {
	case status.code == 200 && learned(body):
		return say("learned as " + class), nil
	case status.code == 204 || status.code == 208, // too few words, no need; already known
		status.code == 404 && strings.Contains(text, "already learned"): // so said by rspamd before 3.8
		return say("not learned as " + class + ": " + text), nil
	}
	return sdk.Verdict{}, fmt.Errorf("learn as %s: rspamd answered %s", class, text)
}

// ping asks both workers whether they are there.
func (p *plugin) ping(ctx context.Context) sdk.Verdict {
	var lines []string
	for _, w := range []struct {
		name   string
		client *client
	}{{"worker", p.scan}, {"controller", p.learn}} {
		if w.client == nil {
			continue
		}
		begin := time.Now()
		status, body, err := w.client.get(ctx, "/ping")
		if err == nil && (status.code != 200 || strings.TrimSpace(string(body)) != "pong") {
			err = errors.New("answered " + status.explain(body))
		}
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s %s: %v", w.name, w.client.at, err))
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s answers in %v", w.name, w.client.at, time.Since(begin).Round(10*time.Microsecond)))
	}
	return say(lines...)
}

// say is an answer to somebody who reads it.
func say(lines ...string) sdk.Verdict {
	var v sdk.Verdict
	for _, line := range lines {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "RSPAMD", Text: plain.Line(line, maxText)})
	}
	return v
}
