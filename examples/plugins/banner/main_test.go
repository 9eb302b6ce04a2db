package main

import (
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

const (
	text   = "[External] This message comes from outside. Think before you click.\r\n\r\n"
	header = "From: Ann <ann@example.org>\nMIME-Version: 1.0\n"
)

// part describes the part of a message that is this body, as the core's parse would.
func part(m, body string, p sdk.Part) sdk.Part {
	m, body = strings.ReplaceAll(m, "\n", "\r\n"), strings.ReplaceAll(body, "\n", "\r\n")
	p.Offset, p.Length = int64(strings.Index(m, body)), int64(len(body))
	return p
}

// ask returns the new body, or "" if there is none, and the value of the field.
func ask(t *testing.T, p *sdktest.Plugin, m *sdk.Message) (body, field string) {
	t.Helper()
	v, err := p.Ask(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Changes {
		switch c.Kind {
		case sdk.AddField:
			field = c.Value
		case sdk.ReplaceBody:
			octets, err := io.ReadAll(c.Body)
			if err != nil {
				t.Fatal(err)
			}
			body = string(octets)
		}
	}
	return body, field
}

func message(m string, parts ...sdk.Part) *sdk.Message {
	q := sdktest.Mail(m)
	q.Parsed = sdktest.Parsed(&sdk.Parsed{Parts: parts})
	return q
}

func TestPlain(t *testing.T) {
	p := sdktest.Start(t, &banner{}, nil)
	for encoding, c := range map[string]struct{ body, want string }{
		"":                 {"Hello\nüber\n", text + "Hello\r\nüber\r\n"},
		"quoted-printable": {"a=3Db=\nc\n", text + "a=3Dbc\r\n"},
		"base64":           {"SGVsbG8=\n", base64.StdEncoding.EncodeToString([]byte(text + "Hello"))},
		"x-uuencode":       {"begin 644 x\n", ""},
	} {
		m := header + "Content-Transfer-Encoding: " + encoding + "\n\n" + c.body
		body, field := ask(t, p, message(m, part(m, c.body, sdk.Part{Parent: -1, Type: "text/plain", Encoding: encoding})))
		if encoding == "base64" {
			for line := range strings.Lines(body) {
				if len(line) > 78 || !strings.HasSuffix(line, "\r\n") {
					t.Errorf("the line %q", line)
				}
			}
			body = strings.ReplaceAll(body, "\r\n", "")
		}
		if body != c.want || field != "yes" {
			t.Errorf("%q: %q, field %q, expected %q", encoding, body, field, c.want)
		}
	}
}

func TestMultipart(t *testing.T) {
	p := sdktest.Start(t, &banner{}, map[string]any{"text": "EXTERNAL", "html": "<b>EXTERNAL</b>"})
	m := header + "Content-Type: multipart/mixed; boundary=x\n\npreamble\n--x\nContent-Type: multipart/alternative; boundary=y\n\n" +
		"--y\n\nplain one\n--y\nContent-Type: text/html\n\n<html><BODY class=a>markup</BODY></html>\n--y--\n" +
		"--x\nContent-Disposition: attachment\n\nattached\n--x\n\nplain two\n--x--\nepilogue\n"
	body, _ := ask(
		t, p, message(
			m,
			part(m, "preamble", sdk.Part{Parent: -1, Type: "multipart/mixed"}),
			part(m, "--y\n\nplain", sdk.Part{Parent: 0, Type: "multipart/alternative"}),
			part(m, "plain one", sdk.Part{Parent: 1, Type: "text/plain"}),
			part(m, "<html><BODY class=a>markup</BODY></html>", sdk.Part{Parent: 1, Type: "text/html"}),
			part(m, "attached", sdk.Part{Parent: 0, Type: "text/plain", Disposition: "attachment"}),
			part(m, "plain two", sdk.Part{Parent: 0, Type: "text/plain"}),
		),
	)
	_, want, _ := strings.Cut(strings.ReplaceAll(m, "\n", "\r\n"), "\r\n\r\n")
	want = strings.Replace(want, "plain one", "EXTERNAL\r\n\r\nplain one", 1)
	want = strings.Replace(want, "markup", "\r\n<b>EXTERNAL</b>\r\nmarkup", 1)
	if body != want {
		t.Errorf("%q,\nexpected %q", body, want)
	}
}

// TestUntouched: where a banner would do harm, or cannot be, there is the field alone, or nothing.
func TestUntouched(t *testing.T) {
	p := sdktest.Start(t, &banner{}, map[string]any{"internal": []any{"example.org"}})
	m := header + "\nHello\n"
	leaf := part(m, "Hello\n", sdk.Part{Parent: -1, Type: "text/plain"})
	for name, c := range map[string]struct {
		field  string
		change func(q *sdk.Message, parsed *sdk.Parsed)
	}{
		"signed":    {"yes", func(_ *sdk.Message, p *sdk.Parsed) { p.Parts = append(p.Parts, sdk.Part{Type: "multipart/signed"}) }},
		"truncated": {"yes", func(_ *sdk.Message, p *sdk.Parsed) { p.Truncated = true }},
		"utf-16":    {"yes", func(_ *sdk.Message, p *sdk.Parsed) { p.Parts[0].Charset = "utf-16le" }},
		"attached":  {"yes", func(_ *sdk.Message, p *sdk.Parsed) { p.Parts[0].Name = "letter.txt" }},
		"forwarded": {"yes", func(_ *sdk.Message, p *sdk.Parsed) {
			p.Parts = append([]sdk.Part{{Parent: -1, Type: "message/rfc822"}}, p.Parts...)
			p.Parts[1].Parent = 0
		}},
		"bare CR": {"yes", func(q *sdk.Message, p *sdk.Parsed) {
			q.Content = strings.NewReader(strings.ReplaceAll(header, "\n", "\r\n") + "\r\nHel\rlo\r\n")
			p.Parts[0].Length++
		}},
		"beyond the end": {"yes", func(_ *sdk.Message, p *sdk.Parsed) { p.Parts[0].Length += 100 }},
		"ours":           {"", func(q *sdk.Message, _ *sdk.Parsed) { q.Origin = sdk.Login }},
		"proven":         {"", func(q *sdk.Message, _ *sdk.Parsed) { q.Auth = map[string]string{"dmarc": "pass"} }},
	} {
		parsed := &sdk.Parsed{Parts: []sdk.Part{leaf}}
		q := sdktest.Mail(m)
		q.Parsed = sdktest.Parsed(parsed)
		c.change(q, parsed)
		if body, field := ask(t, p, q); body != "" || field != c.field {
			t.Errorf("%s: body %q, field %q", name, body, field)
		}
	}
}

func TestSettings(t *testing.T) {
	for key, value := range map[string]any{"text": "Vorsicht, von außen", "html": "a\nb", "field": "X External", "filed": "X"} {
		err := sdktest.Configure(t, &banner{}, map[string]any{key: value})
		var complaint *sdk.SettingError
		if !errors.As(err, &complaint) || complaint.Key != key {
			t.Errorf("%s = %q: %v", key, value, err)
		}
	}
}
