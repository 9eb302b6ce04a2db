// Package clamav is the shipped plugin that asks ClamAV's daemon clamd whether a message
// holds a virus.
//
// It speaks clamd's protocol (clamd(8)): INSTREAM with the message in pieces, VERSION for the age of
// the database; over TCP or a unix socket, a connection a question, at most
// Settings.Connections at a time. What clamd finds goes into the verdict's detections,
// so that on_infected decides; names that Settings.Actions lists have an action of their own, because
// heuristics and unwanted programs are no viruses.
//
// Messages come in three sizes: up to Settings.MaxSize they are sent whole; of larger ones
// Settings.Larger says what happens; clamd has a limit of its own (StreamMaxLength) that must not
// be lower, and an answer about it is an error that says so.
//
// It promises that a failure is an error and never an opinion: a clamd that is down, slow, loads its
// database, closes early or says something that is no answer leaves the message to
// on_failure, in anti-virus by default defer. It keeps no state, and 64 KiB of a message.
//
// When the database is older than Settings.DatabaseAge the administrator gets an alert:
// a scanner that knows last month's viruses says "clean" with a clear conscience.
package clamav

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

type plugin struct {
	settings Settings
	pool     *dial.Pool
	now      func() time.Time

	mu    sync.Mutex
	asked time.Time // for the database's age
	alert *sdk.Alert
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{now: time.Now} }

// Describe implements sdk.Plugin.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "clamav", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Events: []sdk.EventKind{sdk.EventCommand}, Overlap: true, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin. It does not wait for clamd: a server must start while its
// scanner loads a database.
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
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Phase == sdk.PhaseEvent {
		return p.command(ctx, m.Event)
	}
	send := m.Size
	var v sdk.Verdict
	if limit := int64(p.settings.MaxSize); send > limit {
		switch p.settings.Larger {
		case largerFail:
			return v, fmt.Errorf("the message has %d octets, more than max_size, %d", send, limit)
		case largerSkip:
			v.Reasons = []sdk.Reason{{Symbol: "CLAMAV_SKIPPED_SIZE", Text: fmt.Sprintf("not scanned: %d octets are more than max_size, %d", send, limit)}}
			return v, nil
		}
		v.Reasons = []sdk.Reason{{Symbol: "CLAMAV_PARTIAL", Text: fmt.Sprintf("the first %d of %d octets were scanned", limit, send)}}
		send = limit
	}
	answer, err := p.scan(ctx, io.LimitReader(m.Content, send))
	if err != nil {
		return sdk.Verdict{}, err
	}
	if answer.virus != "" {
		p.settings.judge(&v, answer.virus)
	}
	if a := p.databaseAlert(ctx); a != nil {
		v.Alerts = append(v.Alerts, *a)
	}
	return v, nil
}

// judge puts what was found into a verdict.
func (s *Settings) judge(v *sdk.Verdict, virus string) {
	v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "CLAMAV", Text: "clamd found " + virus})
	if action, ok := s.actionFor(virus); ok {
		v.Action = action
		if action == sdk.Reject {
			v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "The message is not accepted: " + plain.ASCII(virus)}
		}
		return
	}
	v.Action, v.Detections = sdk.Reject, []string{virus}
	v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "The message holds a virus: " + plain.ASCII(virus)}
}

// answer is what clamd said about a stream.
type answer struct{ virus string } // "" is clean

// pieceSize is how much of a message is sent at a time, in octets.
const pieceSize = 64 << 10

// maxAnswer is the longest answer that is read, in octets.
const maxAnswer = 4 << 10

// scan sends the content and reads the answer.
func (p *plugin) scan(ctx context.Context, content io.Reader) (a answer, err error) {
	err = p.pool.Do(ctx, nil, func(c *dial.Conn) error {
		sending := stream(c, content)
		var broken *contentError
		if errors.As(sending, &broken) { // not clamd's fault, and what it says is about half a message
			return sending
		}
		line, err := readAnswer(c)
		if err != nil { // clamd may have said why it stopped reading before it closed
			return errors.Join(sending, err)
		}
		a, err = parseAnswer(line)
		return err
	})
	return a, err
}

// contentError is a failure to read the message.
type contentError struct{ error }

func (e *contentError) Unwrap() error { return e.error }

// stream sends content as INSTREAM wants it: pieces with their length in front, in network
// order, and one of length zero at the end.
func stream(w io.Writer, content io.Reader) error {
	if _, err := io.WriteString(w, "zINSTREAM\x00"); err != nil {
		return fmt.Errorf("send to clamd: %w", err)
	}
	piece := make([]byte, 4+pieceSize)
	for {
		n, err := io.ReadFull(content, piece[4:])
		if n > 0 {
			binary.BigEndian.PutUint32(piece, uint32(n))
			if _, err := w.Write(piece[:4+n]); err != nil {
				return fmt.Errorf("send to clamd: %w", err)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return &contentError{fmt.Errorf("read the message: %w", err)}
		}
	}
	if _, err := w.Write(make([]byte, 4)); err != nil {
		return fmt.Errorf("send to clamd: %w", err)
	}
	return nil
}

// readAnswer reads up to the NUL that ends an answer to a command that began with z.
func readAnswer(r io.Reader) (string, error) {
	buf := make([]byte, 0, 256)
	for len(buf) < maxAnswer {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if line, _, ended := strings.Cut(string(buf), "\x00"); ended {
			return line, nil
		}
		if err != nil {
			return "", fmt.Errorf("read clamd's answer: %w", err)
		}
	}
	return "", fmt.Errorf("read clamd's answer: longer than %d octets", maxAnswer)
}

// parseAnswer reads "stream: OK", "stream: NAME FOUND", "... ERROR".
func parseAnswer(line string) (answer, error) {
	line = strings.TrimSpace(line)
	if rest, ok := strings.CutPrefix(line, "stream: "); ok {
		if rest == "OK" {
			return answer{}, nil
		}
		if name, ok := strings.CutSuffix(rest, " FOUND"); ok {
			if name = plain.Line(name, 200); name != "" {
				return answer{virus: name}, nil
			}
		}
	}
	if strings.HasSuffix(line, "ERROR") {
		if strings.Contains(line, "size limit exceeded") {
			return answer{}, errors.New("clamd's StreamMaxLength is lower than max_size: raise the one or lower the other")
		}
		return answer{}, fmt.Errorf("clamd says: %s", plain.Line(line, 300))
	}
	return answer{}, fmt.Errorf("clamd's answer is none: %q", plain.Line(line, 100))
}
