package gtube

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

const head = "From: a@example.org\nSubject: test\n"

func wrapped(s string) string {
	s = base64.StdEncoding.EncodeToString([]byte(s))
	return s[:min(60, len(s))] + "\n" + s[min(60, len(s)):] + "\n"
}

func TestAsk(t *testing.T) {
	p := sdktest.Start(t, New(), nil)
	for name, c := range map[string]struct {
		text  string
		found bool
	}{
		"clean":  {head + "\nhello\n", false},
		"almost": {head + "\n" + strings.ToLower(Signature()) + "\n", false},
		"plain":  {head + "\n" + Signature() + "\n", true},
		"base64": {head + "Content-Transfer-Encoding: base64\n\n" + wrapped(Signature()), true},
		"part": {head + "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nsee below\n--b\n" +
			"Content-Transfer-Encoding: base64\n\n" + wrapped("xy"+Signature()) + "--b--\n", true},
		"quoted": {head + "Content-Transfer-Encoding: quoted-printable\n\n" +
			strings.NewReplacer("*", "=2A", "!", "=21", "4", "4=\n").Replace(Signature()) + "\n", true},
		"far": {head + "\n" + strings.Repeat("a line of text\n", 100000) + Signature() + "\n", true},
	} {
		v, err := p.Ask(sdktest.Mail(c.text))
		if err != nil || found(v) != c.found {
			t.Errorf("%s: %+v %v, expected found %v", name, v, err, c.found)
		}
	}
}

func TestConfigure(t *testing.T) {
	if err := sdktest.Configure(t, New(), map[string]any{"colour": "red"}); err == nil {
		t.Error("an unknown setting was taken")
	}
}

func found(v sdk.Verdict) bool {
	return v.Action == sdk.Accept && v.Score == Score && len(v.Reasons) == 1 && v.Reasons[0].Symbol == Symbol
}
