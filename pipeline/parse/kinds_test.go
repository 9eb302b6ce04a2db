package parse

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const head = "From: a@example.org\nTo: b@example.test\nSubject: s\nMessage-ID: <1@example.org>\nMIME-Version: 1.0\n"

// odd has a message for each kind of ambiguity, and all the kinds that it has.
var odd = []struct{ kinds, message string }{
	{"duplicate-field", "Subject: one\n" + head + "\nx\n"},
	{"duplicate-field", head + "Content-Type: text/plain\nContent-Type: text/html\n\nx\n"},
	{"duplicate-field several-from", "From: c@example.org\n" + head + "\nx\n"},
	{"several-from", "From: c@example.org, d@example.org\nSubject: s\n\nx\n"},
	{"bad-header-line", head + "no field\n\nx\n"},
	{"bad-header-line", "Cc : c@example.test\n" + head + "\nx\n"},
	{"nul", head + "X: \x00\n\nx\n"},
	{"nul", head + "\nx\x00y\n"},
	{"8bit-header", head + "X: \xe4\n\nx\n"},
	{"control-in-from", "From: =?utf-8?b?YkB3aGl0ZWhvdXNlLmdvdg==?==?utf-8?Q?=00?=@evil.example\nSubject: s\n\nx\n"},
	{"control-in-from", "From: =?utf-8?q?a=40b.example=0A?= <a@evil.example>\nSubject: s\n\nx\n"},
	{"bad-type", head + "Content-Type: textplain\n\nx\n"},
	{"comment-in-type", head + "Content-Type: text/plain (really); charset=utf-8\n\nx\n"},
	{"comment-in-type", head + "Content-Type: multipart/mixed; boundary=(\"x\")y\n\n--y\n\nx\n--y--\n"},
	{"odd-folding", head + "Content-Type: text/plain; charset=\n utf-8\n\nx\n"},
	{"odd-folding", head + "Content-Disposition: attachment; filename=\"a\n b.txt\"\n\nx\n"},
	{"duplicate-parameter", head + "Content-Type: multipart/mixed; boundary=a; boundary=b\n\n--a\n\nx\n--a--\n"},
	{"duplicate-parameter", head + "Content-Disposition: attachment; filename=a.txt; FileName=b.exe\n\nx\n"},
	{"split-parameter", head + "Content-Disposition: attachment; filename*0*=utf-8''a.e; filename*1*=xe\n\nx\n"},
	{"encoded-word-parameter", head + "Content-Disposition: attachment; filename=\"=?utf-8?q?a=2Eexe?=\"\n\nx\n"},
	{"conflicting-name", head + "Content-Type: text/plain; name=a.txt\nContent-Disposition: attachment; filename=a.exe\n\nx\n"},
	{"conflicting-name", head + "Content-Disposition: attachment; filename=a.txt; filename*=utf-8''a.exe\n\nx\n"},
	{"odd-name", head + "Content-Disposition: attachment; filename*=utf-8''a%E2%80%AEtxt.exe\n\nx\n"},
	{"odd-name", head + "Content-Disposition: attachment; filename*=utf-8''a.exe%00.txt\n\nx\n"},
	{"no-boundary", head + "Content-Type: multipart/mixed\n\n--a\n\nx\n--a--\n"},
	{"no-boundary", head + "Content-Type: multipart/mixed; boundary=b\n\n--a\n\nx\n--a--\n"},
	{"same-boundary", head + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=a\n\n--a\n\nx\n--a--\n--a--\n"},
	{"boundary-prefix", head + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=ab\n\n--ab\n\nx\n--ab--\n--a--\n"},
	{"odd-boundary", head + "Content-Type: multipart/mixed; boundary=\"a@b\"\n\n--a@b\n\nx\n--a@b--\n"},
	{"odd-boundary split-parameter", head + "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\n\n--ab\n\nx\n--ab--\n"},
	{"odd-boundary", head + "Content-Type: multipart/mixed; boundary=" + strings.Repeat("a", 71) + "\n\n--" + strings.Repeat("a", 71) + "\n\nx\n--" + strings.Repeat("a", 71) + "--\n"},
	{"missing-close", head + "Content-Type: multipart/mixed; boundary=a\n\n--a\n\nx\n"},
	{"missing-close", head + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--a--\n"},
	{"after-close", head + "Content-Type: multipart/mixed; boundary=a\n\n--a\n\nx\n--a--\n\n--a\nContent-Type: text/html\n\ny\n--a--\n"},
	{"encoded-container", head + "Content-Type: multipart/mixed; boundary=a\nContent-Transfer-Encoding: base64\n\n--a\n\nx\n--a--\n"},
	{"encoded-container", head + "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogcw0KDQp4\n"},
	{"alternative-attachment", head + "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nx\n--a\nContent-Type: application/pdf\n\ny\n--a--\n"},
	{"alternative-attachment", head + "Content-Type: multipart/alternative; boundary=a\n\n--a\n\nx\n--a\nContent-Disposition: attachment; filename=a.txt\n\ny\n--a--\n"},
	{"unknown-encoding", head + "Content-Transfer-Encoding: x-uue\n\nx\n"},
	{"unknown-encoding", head + "Content-Transfer-Encoding: base64 or so\n\neA==\n"},
	{"encoding-case", head + "Content-Transfer-Encoding: BASE64\n\neA==\n"},
	{"bad-base64", head + "Content-Transfer-Encoding: base64\n\nZUA*=\n"},
	{"bad-base64", head + "Content-Transfer-Encoding: base64\n\neA==eHh4\n"},
	{"bad-base64", head + "Content-Transfer-Encoding: base64\n\neHh\n"},
	{"bad-base64", head + "Content-Transfer-Encoding: base64\n\n=eHh4\n"},
	{"bad-base64", head + "Content-Transfer-Encoding: base64\n\neHh4\n-- \nlist footer\n"},
	{"unknown-charset", head + "Content-Type: text/plain; charset=utf-7\n\n+ADw-script+AD4-\n"},
	{"uuencode", head + "\nlook:\nbegin 644 a.exe\n#86)C\n`\nend\n"},
	{"yenc", head + "\n=ybegin line=128 size=3 name=a.exe\nabc\n=yend size=3\n"},
	{"partial-message", head + "Content-Type: message/partial; number=1; total=2; id=\"a@b\"\n\nx\n"},
	{"external-body", head + "Content-Type: message/external-body; access-type=URL; URL=\"http://a.example/\"\n\nContent-Type: text/plain\n\n"},
	{"tnef", head + "Content-Type: application/ms-tnef; name=\"winmail.dat\"\n\nx\n"},
	{"tnef", head + "Content-Type: application/octet-stream; name=\"WINMAIL.DAT\"\n\nx\n"},
}

func parseText(text string) (kinds []string) {
	message := strings.ReplaceAll(text, "\n", "\r\n")
	for _, a := range Parse(strings.NewReader(message), int64(len(message))).Ambiguities {
		kinds = append(kinds, a.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

func TestAmbiguities(t *testing.T) {
	shown := map[string]bool{notParsed: true} // TestPanic
	for _, c := range odd {
		if got := strings.Join(parseText(c.message), " "); got != c.kinds {
			t.Errorf("%s\n has %q, expected %q", c.message, got, c.kinds)
		}
		for _, kind := range strings.Fields(c.kinds) {
			shown[kind] = true
		}
	}
	names := make(map[string]bool)
	for _, k := range Kinds() {
		if !shown[k.Name] || names[k.Name] || !strings.HasSuffix(k.Text, ".") {
			t.Errorf("%s: no message shows it, or it is there twice, or is no sentence", k.Name)
		}
		names[k.Name] = true
	}
}

// TestClean: what usual programs send has nothing odd.
func TestClean(t *testing.T) {
	for _, message := range []string{
		"",
		"\nx\n",
		head,
		head + "\nhello\nbegin with the end\nbegin 7 days\n",
		"From: J\u00f6rg <j@example.org>\n\nSMTPUTF8\n",
		"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\nSender: x@example.org\nSubject: =?utf-8?b?w7Y=?=\n =?utf-8?q?a?=\n\nx\n",
		"Received: by a (really) with SMTP\nReceived: by b\n" + head + "DKIM-Signature: a=b;\n\tc=d\n\nx\n",
		"Content-Type:\n text/plain;\n charset=\"utf-8\";\n format=flowed\nContent-Transfer-Encoding: 8BIT\n\n\xc3\xa4\n",
		"Content-Type: text/plain; charset=iso-8859-1\n\n\xe4\n",
		"Content-Type: text/plain\n ; charset=us-ascii\n\nx\n",
		head + "Content-Type: multipart/mixed; boundary=\"----=_Part_1_23.45\"\n\npreamble\n------=_Part_1_23.45\n" +
			"Content-Type: multipart/alternative; boundary=\"----=_Part_2_23.45\"\n\n------=_Part_2_23.45\nContent-Type: text/plain; charset=utf-8\n" +
			"Content-Transfer-Encoding: quoted-printable\n\na=\n=C3=BC\n------=_Part_2_23.45\nContent-Type: multipart/related; boundary=r; type=\"text/html\"\n\n" +
			"--r\nContent-Type: text/html; charset=utf-8\n\n<p>\n--r\nContent-Type: image/png; name=a.png\nContent-ID: <x>\nContent-Disposition: inline; filename=a.png\n" +
			"Content-Transfer-Encoding: base64\n\n" + strings.Repeat("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA\n", 20) + "eA==\n\n--r--\n\n" +
			"------=_Part_2_23.45--\n\n------=_Part_1_23.45\nContent-Type: text/calendar; method=REQUEST; name=\"a (1).ics\"\nContent-Disposition: attachment;\n filename=\"a (1).ics\"\n\nBEGIN\n" +
			"------=_Part_1_23.45\nContent-Type: message/rfc822\n\nFrom: x@example.org\nSubject: inner\n\nx\n------=_Part_1_23.45--\n\nepilogue -- of a list\n",
		"Content-Type: application/pdf; name*=UTF-8''%C3%BC.pdf\nContent-Disposition: attachment; filename=\"_.pdf\"; filename*=UTF-8''%C3%BC.pdf\nContent-Transfer-Encoding: base64\n\neHh4\n",
		"Content-Type: multipart/report; report-type=delivery-status; boundary=\"x/y.z\"\n\n--x/y.z\n\nno\n--x/y.z\nContent-Type: message/delivery-status\n\nAction: failed\n\n" +
			"--x/y.z\nContent-Type: text/rfc822-headers\n\nFrom: a\n\n--x/y.z--\n",
	} {
		if got := parseText(message); len(got) > 0 {
			t.Errorf("%s\n has %q, expected nothing", message, got)
		}
	}
}

// TestProtocol: PROTOCOL.md lists the kinds, each with its sentence.
func TestProtocol(t *testing.T) {
	octets, err := os.ReadFile("../../sdk/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		if row := "\n| `" + k.Name + "` | " + strings.TrimSuffix(k.Text, ".") + " |\n"; !strings.Contains(string(octets), row) {
			t.Errorf("PROTOCOL.md does not have%s", row)
		}
	}
}
