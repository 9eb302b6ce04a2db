// Command banner is a Sluice plugin that marks mail from outside: a line in front of the text, and a field in the header.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

// most is how much of a message is kept in memory to be rewritten; a larger one gets the field alone.
const most = 8 << 20

type banner struct {
	Text     string   `config:"text"`
	HTML     string   `config:"html"`
	Internal []string `config:"internal"` // domains whose mail is not from outside
	Field    string   `config:"field"`
}

func (*banner) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "banner", Version: "1.0", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll, MaxContent: most, Parsed: true,
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.RemoveField, sdk.ReplaceBody}, Overlap: true, CheckOnly: true,
	}
}

func (b *banner) Configure(_ context.Context, settings sdk.Settings) error {
	b.Text, b.Field = "[External] This message comes from outside. Think before you click.", "X-External-Sender"
	b.HTML = `<p style="border:1px solid #c00;padding:4px"><b>External:</b> this message comes from outside. Think before you click.</p>`
	problems := []error{settings.Decode(b)}
	for key, text := range map[string]string{"text": b.Text, "html": b.HTML} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			problems = append(problems, &sdk.SettingError{ // so that it is the same in nearly every charset
				Key: key, Problem: "expected one line of ASCII; HTML has entities for the rest (&auml;)",
			})
		}
	}
	if b.Field == "" || strings.ContainsAny(b.Field, " :") {
		problems = append(problems, &sdk.SettingError{Key: "field", Problem: fmt.Sprintf("%q, expected the name of a header field", b.Field)})
	}
	return errors.Join(problems...)
}

func (b *banner) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	octets, err := io.ReadAll(m.Content)
	if err != nil {
		return sdk.Verdict{}, err
	}
	// What a stranger wrote into our field shall not deceive anybody, whoever the stranger is.
	v := sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.RemoveField, Name: b.Field}}}
	if m.Origin != sdk.Stranger || b.internal(m, octets) {
		return v, nil
	}
	v.Changes = append(v.Changes, sdk.Change{Kind: sdk.AddField, Name: b.Field, Value: "yes"})
	v.Tags = map[string]string{"external": "yes"}
	parsed, err := m.Parsed()
	if err != nil {
		return sdk.Verdict{}, err
	}
	if m.Size > int64(len(octets)) || parsed.Truncated || sealed(parsed) {
		return v, nil // the field has to do
	}
	if body := b.rewrite(octets, parsed); body != nil {
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.ReplaceBody, Body: bytes.NewReader(body)})
	}
	return v, nil
}

// internal reports whether a message is from one of our own domains. Anybody can write that into From, so it has to have passed DMARC.
func (b *banner) internal(m *sdk.Message, octets []byte) bool {
	if m.Auth["dmarc"] != "pass" {
		return false
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(octets))
	if err != nil {
		return false
	}
	from, err := mail.ParseAddress(parsed.Header.Get("From"))
	if err != nil {
		return false
	}
	for _, domain := range b.Internal {
		if strings.HasSuffix(strings.ToLower(from.Address), "@"+strings.ToLower(domain)) {
			return true
		}
	}
	return false
}

// sealed reports whether the body is signed or encrypted: a banner would break that, and look like an attack.
func sealed(parsed *sdk.Parsed) bool {
	for _, part := range parsed.Parts {
		switch part.Type {
		case "multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime":
			return true
		}
	}
	return false
}

func main() { serve.Main(&banner{}) }
