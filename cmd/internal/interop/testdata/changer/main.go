// Command changer is a plugin that changes what the field X-Change of a message
// says, for the tests of package interop. It is built by them alone.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

func main() { serve.Main(changer{}) }

type changer struct{}

func (changer) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "changer", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent, sdk.PhaseRoute}, Want: sdk.WantHeader, Overlap: true,
		Changes: []sdk.ChangeKind{
			sdk.AddField, sdk.RemoveField, sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveRecipient, sdk.ChangeSender,
		},
	}
}

func (changer) Configure(context.Context, sdk.Settings) error { return nil }

func (changer) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	header, err := textproto.NewReader(bufio.NewReader(m.Content)).ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return sdk.Verdict{}, err
	}
	if m.Phase == sdk.PhaseRoute {
		return route(m, header.Get("X-Route")), nil
	}
	var v sdk.Verdict
	change := func(kind sdk.ChangeKind, addresses ...string) {
		for _, a := range addresses {
			v.Changes = append(v.Changes, sdk.Change{Kind: kind, Address: a})
		}
	}
	for word := range strings.FieldsSeq(header.Get("X-Change")) {
		what, argument, _ := strings.Cut(word, "=")
		switch what {
		case "body": // for one recipient, as many lines
			var lines int
			if _, err := fmt.Sscan(header.Get("X-Lines"), &lines); err != nil {
				return sdk.Verdict{}, err
			}
			v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: argument, Changes: []sdk.Change{
				{Kind: sdk.ReplaceBody, Body: &lineReader{left: lines}}, {Kind: sdk.AddField, Name: "X-Body", Value: "replaced"},
			}})
		case "cr":
			v.Changes = append(v.Changes, sdk.Change{Kind: sdk.ReplaceBody, Body: strings.NewReader("a bare\rCR\n")})
		case "add":
			change(sdk.AddRecipient, argument)
		case "add-many":
			many, err := strconv.Atoi(argument)
			if err != nil {
				return sdk.Verdict{}, err
			}
			for i := range many {
				change(sdk.AddRecipient, fmt.Sprintf("carol+%d@example.test", i))
			}
		case "remove":
			change(sdk.RemoveRecipient, argument)
		case "sender":
			change(sdk.ChangeSender, argument)
		default:
			return sdk.Verdict{}, fmt.Errorf("unknown change %q", word)
		}
	}
	return v, nil
}

// route sends the mail for one recipient elsewhere: "address=target".
func route(m *sdk.Message, what string) (v sdk.Verdict) {
	from, to, ok := strings.Cut(what, "=")
	if !ok {
		return v
	}
	for _, r := range m.Recipients {
		if r.Address == from {
			v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: from, Route: &sdk.Route{To: []string{to}}})
		}
	}
	return v
}

// lineReader is lines that end with LF or CRLF in turn and begin with a dot.
type lineReader struct {
	left, done int
	rest       []byte
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.done == r.left {
			return 0, io.EOF
		}
		end := "\n"
		if r.done%2 == 1 {
			end = "\r\n"
		}
		r.rest = fmt.Appendf(nil, ".line %d of a new body, \xff with an octet that is no text%s", r.done, end)
		r.done++
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
