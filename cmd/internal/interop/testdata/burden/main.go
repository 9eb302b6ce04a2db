// Command burden is a plugin that is slow, dies, says too much and makes messages grow, as its table, the field X-Burden of
// a message and the sender's address say, for the tests of package interop. It is built by them alone.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

func main() { serve.Main(&burden{}) }

type burden struct {
	config struct {
		Connect string `config:"connect"` // how long a connection is thought about
		Content string `config:"content"` // and a message
		Events  string `config:"events"`  // "hang", "crash", or nothing
		Mark    string `config:"mark"`    // what X-Burden-Mark says
	}
	connect, content time.Duration
}

func (*burden) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "burden", Version: "1", Want: sdk.WantAll, Parsed: true, Overlap: true,
		Phases:  []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseContent},
		Events:  []sdk.EventKind{sdk.EventDelivered, sdk.EventLearnSpam},
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveField},
	}
}

func (b *burden) Configure(_ context.Context, s sdk.Settings) error {
	if err := s.Decode(&b.config); err != nil {
		return err
	}
	var errs [2]error
	b.connect, errs[0] = duration(b.config.Connect)
	b.content, errs[1] = duration(b.config.Content)
	return errors.Join(errs[:]...)
}

func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return time.ParseDuration(s)
}

func (b *burden) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	switch m.Phase {
	case sdk.PhaseConnect:
		time.Sleep(b.connect)
		return sdk.Verdict{}, nil
	case sdk.PhaseSender:
		if strings.HasPrefix(m.Sender, "deadly") {
			os.Exit(4)
		}
		return sdk.Verdict{}, nil
	case sdk.PhaseEvent:
		switch b.config.Events {
		case "hang":
			select {}
		case "crash":
			os.Exit(5)
		}
		return sdk.Verdict{}, nil
	}
	time.Sleep(b.content)
	r := bufio.NewReader(m.Content)
	header, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return sdk.Verdict{}, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return sdk.Verdict{}, err
	}
	v := sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-Burden-Seen", Value: "yes " + b.config.Mark}}}
	for word := range strings.FieldsSeq(header.Get("X-Burden")) {
		what, argument, _ := strings.Cut(word, "=")
		switch what {
		case "body": // as many lines that name the message
			lines, err := strconv.Atoi(argument)
			if err != nil {
				return sdk.Verdict{}, err
			}
			line := header.Get("Message-ID") + " has a new body\r\n"
			v.Changes = append(v.Changes, sdk.Change{Kind: sdk.ReplaceBody, Body: &repeat{line: line, left: lines}})
		case "add":
			v.Changes = append(v.Changes, sdk.Change{Kind: sdk.AddRecipient, Address: argument})
		case "circle":
			v.Changes = append(v.Changes, sdk.Change{Kind: sdk.RemoveField, Name: "Received"})
		case "quarantine":
			for i, r := range m.Recipients {
				if fmt.Sprint(i+1) == argument {
					v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: r.Address, Action: sdk.Quarantine})
				}
			}
		case "reject":
			v.Action = sdk.Reject
		case "loud":
			loud(&v, m)
		default:
			return sdk.Verdict{}, fmt.Errorf("unknown burden %q", word)
		}
	}
	return v, nil
}

// loud says about as much as fits into one answer, of each kind.
func loud(v *sdk.Verdict, m *sdk.Message) {
	v.Action, v.Tags = sdk.Quarantine, make(map[string]string)
	for i := range 100 {
		v.Detections = append(v.Detections, fmt.Sprintf("%d%s", i, strings.Repeat("d", 190)))
		v.Tags[fmt.Sprint("tag", i)] = strings.Repeat("t", 500)
	}
	for i := range 20 {
		v.Alerts = append(v.Alerts, sdk.Alert{Key: fmt.Sprint("alert ", i), Text: strings.Repeat("a", 2000)})
	}
	for i := range 100 {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: fmt.Sprintf("%d%s", i, strings.Repeat("R", 190)), Text: strings.Repeat("\u202e", 600)})
	}
	for _, r := range m.Recipients {
		one := sdk.RecipientVerdict{Recipient: r.Address, Action: sdk.Quarantine}
		for i := range 10 {
			one.Reasons = append(one.Reasons, sdk.Reason{Symbol: fmt.Sprintf("%d%s", i, strings.Repeat("R", 190)), Text: strings.Repeat("r", 100)})
		}
		v.Recipients = append(v.Recipients, one)
	}
}

// repeat is a line, again and again.
type repeat struct {
	line string
	left int
	rest string
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.rest == "" {
		if r.left == 0 {
			return 0, io.EOF
		}
		r.left--
		r.rest = r.line
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
