// Package icap is the shipped plugin that asks a content gateway over ICAP (RFC 3507): the way in
// which commercial virus scanners and data-loss filters are asked.
//
// A message is sent as the body of an HTTP response (RESPMOD) or request (REQMOD) of type
// message/rfc822. What comes back means:
//
//	204                                      nothing to say against it
//	200 with X-Infection-Found, X-Virus-ID
//	    or X-Violations-Found                what these fields name was found
//	200 with an HTTP status of 300 and more  it was blocked, without a name
//	200 with the same octets                 nothing to say (a server that knows no 204)
//	200 with other octets                    it was changed, which is a finding: mail is not cleaned
//	everything else                          a failure
//
// It promises that a failure is an error and never an opinion; that an answer is bounded, and read
// while the message is still being sent, so that neither side waits for the other. It keeps no
// state, and of a message its digest and 64 KiB.
package icap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Settings is [plugin.icap.config].
type Settings struct {
	URL         string     `config:"url"`         // "icap://host:port/service"
	Method      string     `config:"method"`      // respmod or reqmod
	Connections int        `config:"connections"` // at a time
	MaxSize     sdk.Octets `config:"max_size"`    // larger messages are `larger`; 0: none is
	Larger      string     `config:"larger"`      // skip or fail
	Changed     sdk.Action `config:"changed"`     // what happens to what the server wants to change or blocks without a name
	ClientIP    bool       `config:"client_ip"`   // send X-Client-IP
}

func defaults() Settings {
	return Settings{
		URL: "icap://127.0.0.1:1344/avscan", Method: "respmod", Connections: 10, Larger: "fail", Changed: sdk.Reject,
	}
}

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if _, err := s.place(); err != nil {
		bad("url", "%q: %v, expected icap://host:port/service", s.URL, err)
	}
	if s.Method != "respmod" && s.Method != "reqmod" {
		bad("method", "%q, expected respmod or reqmod", s.Method)
	}
	if s.Connections < 1 || s.Connections > 1000 {
		bad("connections", "%d, expected 1 to 1000", s.Connections)
	}
	if s.Larger != "skip" && s.Larger != "fail" {
		bad("larger", "%q, expected skip or fail", s.Larger)
	}
	return errors.Join(problems...)
}

// place returns where the server is; the port is 1344 if the URL has none (RFC 3507 section
// 4.2).
func (s *Settings) place() (dial.Address, error) {
	u, err := url.Parse(s.URL)
	switch {
	case err != nil:
		return dial.Address{}, errors.New("not a URL")
	case u.Scheme != "icap":
		return dial.Address{}, fmt.Errorf("the scheme is %q", u.Scheme)
	case u.Hostname() == "" || strings.Trim(u.Path, "/") == "" || u.User != nil:
		return dial.Address{}, errors.New("no host, no service, or a user")
	case u.Fragment != "" || strings.ContainsFunc(s.URL, func(r rune) bool { return r <= ' ' || r > '~' }):
		return dial.Address{}, errors.New("a space, a fragment, or a character that is not ASCII") // it goes into the request as it is
	}
	port := u.Port()
	if port == "" {
		port = "1344"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return dial.Address{}, fmt.Errorf("the port is %q", port)
	}
	return dial.Address{Network: "tcp", Place: net.JoinHostPort(u.Hostname(), port)}, nil
}

type plugin struct {
	settings Settings
	pool     *dial.Pool
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "icap", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Events: []sdk.EventKind{sdk.EventCommand}, Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin. It does not wait for the server.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	if err := errors.Join(s.Decode(&p.settings), p.settings.check()); err != nil {
		return err
	}
	at, err := p.settings.place()
	if err != nil || s.CheckOnly {
		return err
	}
	p.pool = dial.NewPool(at, dial.Options{
		Connect: 5 * time.Second, Open: p.settings.Connections, Idle: p.settings.Connections, IdleTime: 10 * time.Second,
	})
	return nil
}

// Close implements io.Closer.
func (p *plugin) Close() error {
	if p.pool == nil {
		return nil
	}
	return p.pool.Close()
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Phase == sdk.PhaseEvent {
		return p.command(ctx, m.Event)
	}
	if limit := int64(p.settings.MaxSize); limit > 0 && m.Size > limit {
		text := fmt.Sprintf("%d octets are more than max_size, %d", m.Size, limit)
		if p.settings.Larger == "fail" {
			return sdk.Verdict{}, errors.New(text)
		}
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "ICAP_SKIPPED_SIZE", Text: "not scanned: " + text}}}, nil
	}
	f, err := p.scan(ctx, m)
	if err != nil {
		return sdk.Verdict{}, err
	}
	return p.settings.verdict(f), nil
}

// finding is what an answer means. The zero finding is "nothing to say".
type finding struct {
	names   []string // of what was found
	changed string   // why it counts as changed or blocked, if nothing has a name
}

func (s *Settings) verdict(f finding) sdk.Verdict {
	switch {
	case len(f.names) > 0:
		list := strings.Join(f.names, ", ")
		return sdk.Verdict{
			Action: sdk.Reject, Detections: f.names,
			Reasons: []sdk.Reason{{Symbol: "ICAP", Text: plain.Line("the server found "+list, 2000)}},
			Reply:   &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: plain.ASCII(plain.Line("The message is not accepted: "+list, 300))},
		}
	case f.changed != "":
		v := sdk.Verdict{Action: s.Changed, Reasons: []sdk.Reason{{Symbol: "ICAP_BLOCKED", Text: f.changed}}}
		if v.Action == sdk.Reject {
			v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "The message is not accepted"}
		}
		return v
	}
	return sdk.Verdict{}
}

// command answers `sluice plugin tell icap options`.
func (p *plugin) command(ctx context.Context, e *sdk.Event) (sdk.Verdict, error) {
	var v sdk.Verdict
	say := func(text string) {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "ICAP", Text: plain.Line(text, 500)})
	}
	if e == nil || len(e.Words) != 1 || e.Words[0] != "options" {
		say("expected: options")
		return v, nil
	}
	status, fields, err := p.options(ctx)
	if err != nil {
		return v, err
	}
	say(status)
	for _, name := range []string{"Service", "Methods", "Istag", "Allow", "Preview", "Max-Connections"} {
		if value := fields.Get(name); value != "" {
			say(name + ": " + value)
		}
	}
	return v, nil
}
