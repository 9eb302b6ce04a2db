package main

import (
	"errors"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

func ask(t *testing.T, p *sdktest.Plugin, origin sdk.Origin, parsed sdk.Parsed) sdk.Verdict {
	t.Helper()
	m := sdktest.Mail("From: a@example.org\n\nsee the attachment\n")
	m.Origin, m.Parsed = origin, sdktest.Parsed(&parsed)
	v, err := p.Ask(m)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPolicy(t *testing.T) {
	p := sdktest.Start(t, &policy{}, map[string]any{"types": []any{"application/x-ms*"}, "exempt": []any{"login"}, "ambiguous": "quarantine"})
	for name, c := range map[string]struct {
		part   sdk.Part
		action sdk.Action
	}{
		"text":            {sdk.Part{Type: "text/plain"}, sdk.Accept},
		"picture":         {sdk.Part{Type: "image/png", Name: "cat.png"}, sdk.Accept},
		"program":         {sdk.Part{Type: "image/png", Name: "cat.png.EXE"}, sdk.Reject},
		"trailing dots":   {sdk.Part{Type: "image/png", Name: "cat.scr . ."}, sdk.Reject},
		"type":            {sdk.Part{Type: "application/x-msdownload", Name: "cat"}, sdk.Reject},
		"ends almost so":  {sdk.Part{Type: "text/plain", Name: "exe"}, sdk.Accept},
		"document, harm.": {sdk.Part{Type: "application/pdf", Name: "a.exe.pdf"}, sdk.Accept},
	} {
		parsed := sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "multipart/mixed"}, c.part}}
		if v := ask(t, p, sdk.Stranger, parsed); v.Action != c.action {
			t.Errorf("%s: %+v, expected %s", name, v, c.action)
		}
		if v := ask(t, p, sdk.Login, parsed); v.Action != sdk.Accept {
			t.Errorf("%s from one of us: %+v", name, v)
		}
	}
	doubtful := sdk.Parsed{Parts: []sdk.Part{{Parent: -1}}, Ambiguities: []sdk.Ambiguity{{Kind: "no-boundary", Part: -1, Text: "there is no boundary"}}}
	if v := ask(t, p, sdk.Stranger, doubtful); v.Action != sdk.Quarantine || v.Reasons[0].Symbol != "AMBIGUOUS_NO_BOUNDARY" {
		t.Errorf("%+v", v)
	}
	if v := ask(t, p, sdk.Stranger, sdk.Parsed{Parts: []sdk.Part{{Parent: -1}}, Truncated: true}); v.Action != sdk.Quarantine {
		t.Errorf("%+v", v)
	}
}

func TestSettings(t *testing.T) {
	for key, value := range map[string]any{"endings": []any{"exe"}, "types": []any{"exe"}, "ambiguous": "perhaps"} {
		err := sdktest.Configure(t, &policy{}, map[string]any{key: value})
		var complaint *sdk.SettingError
		if !errors.As(err, &complaint) || complaint.Key != key {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}
