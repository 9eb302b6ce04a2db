package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	storagemime "github.com/sluicemail/sluice/storage/mime"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	zone    = time.FixedZone("", 3600)
	arrival = time.Date(2026, 11, 21, 20, 0, 0, 0, zone)
	now     = arrival.Add(4 * time.Hour)
)

const original = "Received: from client (client [192.0.2.1]) by mx.sluice.test; Sat, 21 Nov 2026 20:00:00 +0100\r\n" +
	"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nBcc: secret@example.net\r\n" +
	"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Sat, 21 Nov 2026 19:59:59 +0100\r\nMessage-ID: <1@example.org>\r\n" +
	"\r\nHello.\r\n-- \r\nAlice\r\n"

func report(recipients ...Recipient) *Report {
	return &Report{
		ID: "01JDRPTAAAAAAAAA", ReportingMTA: "mx.sluice.test", Date: now,
		Sender: "alice@example.org", QueueID: "01JDMSGAAAAAAAAA", Arrival: arrival, EnvelopeID: "QQ314159",
		Recipients: recipients,
		Original:   strings.NewReader(original), OriginalSize: int64(len(original)),
	}
}

func golden() map[string]*Report {
	failed := Recipient{
		Address: "bob@example.net", ORcpt: "rfc822;robert+2Bx@sluice.test", Action: Failed, Status: "5.1.1",
		RemoteMTA: "mx.example.net", Diagnostic: "550-5.1.1 The account that you tried to reach\r\n550 5.1.1 does not exist", LastAttempt: now,
	}
	late := Recipient{
		Address: "carol@example.net", Action: Delayed, Status: "4.4.1", RemoteMTA: "mx.example.net",
		Diagnostic: "421 4.3.2 try again", LastAttempt: now, WillRetryUntil: arrival.Add(5 * 24 * time.Hour),
	}
	list := map[string]*Report{
		"failed":    report(failed),
		"expired":   report(Recipient{Address: "dave@example.net", Action: Failed, Status: "4.4.7"}),
		"delayed":   report(late),
		"delivered": report(Recipient{Address: "bob@sluice.test", Notify: []string{"SUCCESS"}, Action: Delivered, Status: "2.1.5"}),
		"several": report(failed, Recipient{Address: "erin@example.net", Action: Failed, Status: "5.6.3", Why: "No server of this domain takes 8-bit content."},
			late, Recipient{Address: "frank@example.net", Notify: []string{"NEVER"}, Action: Failed},
			Recipient{Address: "grace@example.net", Notify: []string{"success", "failure"}, Action: Relayed}),
		"full":          report(failed),
		"full-delayed":  report(late),
		"international": report(Recipient{Address: "jürgen@bücher.example", ORcpt: `utf-8;j\x{FC}rgen@b\x{FC}cher.example`, Action: Failed, Status: "5.6.7", Diagnostic: "550 5.6.7 kein SMTPUTF8 für dich"}),
		"utf8-for-7bit": report(Recipient{Address: "jürgen@bücher.example", Action: Failed, Status: "5.1.1", Diagnostic: "550 5.1.1 für dich\x1b[31m"}),
		"nothing-back":  report(failed),
	}
	list["full"].Ret = "FULL"
	list["full-delayed"].Ret = "FULL"
	list["international"].SMTPUTF8 = true
	list["international"].Sender = "älice@example.org"
	list["nothing-back"].Original = nil
	list["nothing-back"].EnvelopeID, list["nothing-back"].Postmaster = "", "postmaster@sluice.test"
	return list
}

func TestGolden(t *testing.T) {
	for name, r := range golden() {
		var out bytes.Buffer
		params, err := Write(&out, r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := name == "international"; params.SMTPUTF8 != want || params.EightBit != want {
			t.Errorf("%s: %+v", name, params)
		}
		parsed := parse(t, out.Bytes())
		if parsed == nil {
			continue
		}
		// Our own parser sees the same parts, so that IMAP shows them.
		sum := storagemime.Parse(bytes.NewReader(out.Bytes()), int64(out.Len()), storagemime.DefaultLimits())
		if parts := len(sum.Root.Children); sum.Opaque || sum.Root.Subtype != "report" || parts != 3 && !(parts == 2 && r.Original == nil) {
			t.Errorf("%s: storage/mime sees %s/%s with %d parts", name, sum.Root.Type, sum.Root.Subtype, parts)
		}
		file := "testdata/" + name + ".eml"
		if *update {
			if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s is not %s:\n%s", name, file, out.String())
		}
	}
}

// parsed is a report taken apart by the standard library.
type parsed struct {
	header mail.Header
	text   string
	status []textproto.MIMEHeader
	kind   string // of the third part
	back   string
}

func parse(t *testing.T, octets []byte) *parsed {
	t.Helper()
	for _, line := range strings.SplitAfter(string(octets), "\n") {
		if line != "" && !strings.HasSuffix(line, "\r\n") || len(line) > 1000 || strings.Count(line, "\r") > 1 || strings.ContainsRune(line, 0) {
			t.Errorf("line of %d octets: %.80q", len(line), line)
			return nil
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(octets))
	if err != nil {
		t.Errorf("no message: %v", err)
		return nil
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Errorf("Content-Type %q: %v", m.Header.Get("Content-Type"), err)
		return nil
	}
	p := &parsed{header: m.Header}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for i := 0; ; i++ {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("part %d: %v", i, err)
			return nil
		}
		content, err := io.ReadAll(part)
		if err != nil {
			t.Errorf("part %d: %v", i, err)
			return nil
		}
		switch i {
		case 0:
			p.text = string(content)
		case 1:
			r := textproto.NewReader(bufio.NewReader(bytes.NewReader(content)))
			for {
				h, err := r.ReadMIMEHeader()
				if len(h) > 0 {
					p.status = append(p.status, h)
				}
				if err != nil {
					break
				}
			}
		case 2:
			p.kind, p.back = part.Header.Get("Content-Type"), string(content)
		default:
			t.Errorf("part %d", i)
		}
	}
	return p
}

// TestFieldsForPrograms: DRILLS E2.8.
func TestFieldsForPrograms(t *testing.T) {
	p := write(t, golden()["several"])
	for name, want := range map[string]string{
		"To": "<alice@example.org>", "Auto-Submitted": "auto-replied", "Message-Id": "<01JDRPTAAAAAAAAA@mx.sluice.test>",
		"In-Reply-To": "<1@example.org>", "From": "Mail Delivery System <MAILER-DAEMON@mx.sluice.test>",
	} {
		if got := p.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := []map[string]string{
		{"Reporting-Mta": "dns; mx.sluice.test", "Original-Envelope-Id": "QQ314159", "Arrival-Date": "Sat, 21 Nov 2026 20:00:00 +0100"},
		{"Final-Recipient": "rfc822; bob@example.net", "Original-Recipient": "rfc822; robert+x@sluice.test", "Action": "failed", "Status": "5.1.1",
			"Remote-Mta":      "dns; mx.example.net",
			"Diagnostic-Code": "smtp; 550-5.1.1 The account that you tried to reach 550 5.1.1 does not exist"},
		{"Final-Recipient": "rfc822; erin@example.net", "Action": "failed", "Status": "5.6.3", "Remote-Mta": ""},
		{"Final-Recipient": "rfc822; carol@example.net", "Action": "delayed", "Status": "4.4.1", "Will-Retry-Until": "Thu, 26 Nov 2026 20:00:00 +0100"},
		{"Final-Recipient": "rfc822; grace@example.net", "Action": "relayed", "Status": "2.0.0"},
	}
	if len(p.status) != len(want) {
		t.Fatalf("%d blocks, want %d", len(p.status), len(want))
	}
	for i, fields := range want {
		for name, value := range fields {
			if got := p.status[i].Get(name); got != value {
				t.Errorf("block %d, %s: %q, want %q", i, name, got, value)
			}
		}
	}
	if strings.Contains(p.text, "frank@") {
		t.Error("a recipient with NOTIFY=NEVER is told about")
	}
}

func write(t *testing.T, r *Report) *parsed {
	t.Helper()
	var out bytes.Buffer
	if _, err := Write(&out, r); err != nil {
		t.Fatal(err)
	}
	p := parse(t, out.Bytes())
	if p == nil {
		t.FailNow()
	}
	return p
}

// TestNobodyIsTold: DRILLS E2.3.
func TestNobodyIsTold(t *testing.T) {
	r := report(Recipient{Address: "a@b.test", Action: Failed})
	r.Sender = ""
	var out bytes.Buffer
	if _, err := Write(&out, r); !errors.Is(err, ErrNullSender) || out.Len() > 0 {
		t.Errorf("null sender: %v, %d octets", err, out.Len())
	}
	tests := []struct {
		action Action
		notify []string
		want   bool
	}{
		{Failed, nil, true}, {Delayed, nil, true}, {Delivered, nil, false}, {Relayed, nil, false}, {Expanded, nil, false},
		{Failed, []string{"NEVER"}, false}, {Delayed, []string{"NEVER"}, false}, {Failed, []string{"SUCCESS"}, false},
		{Failed, []string{"FAILURE"}, true}, {Delayed, []string{"FAILURE"}, false}, {Delayed, []string{"delay"}, true},
		{Delivered, []string{"SUCCESS", "FAILURE"}, true}, {Relayed, []string{"SUCCESS"}, true}, {Failed, []string{"FAILURE", "NEVER"}, false},
	}
	for _, test := range tests {
		if got := Wanted(test.action, test.notify); got != test.want {
			t.Errorf("%s with %v: %v", test.action, test.notify, got)
		}
		_, err := Write(io.Discard, report(Recipient{Address: "a@b.test", Action: test.action, Notify: test.notify}))
		if errors.Is(err, ErrNotWanted) == test.want || err != nil && !errors.Is(err, ErrNotWanted) {
			t.Errorf("%s with %v: %v", test.action, test.notify, err)
		}
	}
	for _, sender := range []string{"a b@c.test", "a@b.test\r\nX: y", "a>@b.test", "ä@b.test", "a\x00@b.test", "\"a@b.test", strings.Repeat("a", 400) + "@b.test"} {
		r := report(Recipient{Address: "a@b.test", Action: Failed})
		r.Sender = sender
		if _, err := Write(io.Discard, r); err == nil || errors.Is(err, ErrNullSender) {
			t.Errorf("sender %q: %v", sender, err)
		}
	}
	for _, sender := range []string{`"a b\"c>"@d.test`, "a@[IPv6:2001:db8::1]", "Postmaster"} {
		r := report(Recipient{Address: "a@b.test", Action: Failed})
		r.Sender = sender
		if _, err := Write(io.Discard, r); err != nil {
			t.Errorf("sender %q: %v", sender, err)
		}
	}
}

// TestWhatIsReturned: DRILLS E2.8.
func TestWhatIsReturned(t *testing.T) {
	failed := Recipient{Address: "a@b.test", Action: Failed}
	with := func(ret, content string, rcpt Recipient) *parsed {
		r := report(rcpt)
		r.Ret, r.Original, r.OriginalSize = ret, strings.NewReader(content), int64(len(content))
		return write(t, r)
	}
	if p := with("", original, failed); p.kind != "text/rfc822-headers" || strings.Contains(p.back, "Hello") || strings.Contains(strings.ToLower(p.back), "bcc") {
		t.Errorf("%s: %s", p.kind, p.back)
	}
	if p := with("FULL", original, failed); p.kind != "message/rfc822" || !strings.HasSuffix(p.back, "\r\n\r\nHello.\r\n-- \r\nAlice\r\n") || strings.Contains(p.back, "secret@") {
		t.Errorf("%s: %s", p.kind, p.back)
	}
	if p := with("FULL", original, Recipient{Address: "a@b.test", Action: Delayed}); p.kind != "text/rfc822-headers" {
		t.Errorf("delayed: %s", p.kind)
	}
	large := original + strings.Repeat("x\r\n", MaxReturned/3)
	if p := with("FULL", large, failed); p.kind != "text/rfc822-headers" || strings.Contains(p.back, "Hello") {
		t.Errorf("large: %s", p.kind)
	}
	long := "Subject: x\r\n" + strings.Repeat("X-Field: "+strings.Repeat("y", 60)+"\r\n", 3000) + "\r\nbody\r\n"
	if p := with("", long, failed); len(p.back) > MaxReturned || !strings.HasSuffix(p.back, "y\r\n") || strings.Contains(p.back, "body") {
		t.Errorf("long header: %d octets, ends in %q", len(p.back), p.back[len(p.back)-20:])
	}
	if p := with("", "Subject: h\xe9llo\r\n\r\nb\r\n", failed); p.kind != "text/rfc822-headers; charset=utf-8" || p.back != "Subject: h\xe9llo\r\n" {
		t.Errorf("8-bit header: %s: %q", p.kind, p.back)
	}
	if p := with("FULL", "X: "+strings.Repeat("é", 1000)+"\n\rend\x00", failed); !strings.Contains(p.back, "?end?") {
		t.Errorf("broken message: %q", p.back)
	}
	if p := with("FULL", "Subject: x\r\n\r\n--=_01JDRPTAAAAAAAAA_0\r\n--=_01JDRPTAAAAAAAAA_0--\r\nlast\r\n", failed); !strings.HasSuffix(p.back, "last\r\n") {
		t.Errorf("our boundary in the original: %q", p.back)
	}
	r := report(failed)
	r.OriginalSize += 100
	if _, err := Write(io.Discard, r); err == nil {
		t.Error("an original that cannot be read is no error")
	}
}

// FuzzReport (DRILLS E5.6): whatever remote servers, senders and messages say, the report has its three parts and no more, nothing
// strange in it, and says what became of the recipient.
func FuzzReport(f *testing.F) {
	f.Add("bob@example.net", "rfc822;b+40c", "550 no\r\nX-Injected: yes", "mx\r\n.example", "5.1.1", "e\nnv", original, true, false)
	f.Add("j\u00fc@b\u00fccher.example", `utf-8;j\x{FC}@b`, "\u2028\u202e", "", "9.9.9", "", "Subject: \xff\r\n\r\n--=_", true, true)
	f.Add(strings.Repeat("a", 3000), strings.Repeat("é", 2000), strings.Repeat("x", 5000), strings.Repeat("y.", 500), "4.0.0", "--=_id_0", "", false, true)
	f.Fuzz(func(t *testing.T, address, orcpt, diagnostic, remote, code, envid, content string, full, utf8 bool) {
		r := report(Recipient{Address: address, ORcpt: orcpt, Action: Failed, Status: code, RemoteMTA: remote, Diagnostic: diagnostic},
			Recipient{Address: "x@example.net", Action: Failed, Why: diagnostic})
		r.EnvelopeID, r.QueueID, r.SMTPUTF8 = envid, envid, utf8
		r.Original, r.OriginalSize = strings.NewReader(content), int64(len(content))
		if full {
			r.Ret = "FULL"
		}
		var out bytes.Buffer
		params, err := Write(&out, r)
		if err != nil {
			t.Fatal(err)
		}
		p := parse(t, out.Bytes())
		if p == nil {
			t.FailNow()
		}
		if len(p.status) != 3 || p.status[1].Get("Action") != "failed" || p.status[1].Get("X-Injected")+p.header.Get("X-Injected") != "" {
			t.Fatalf("status %+v", p.status)
		}
		if !params.EightBit && hasEightBit(out.Bytes()) || params.SMTPUTF8 && !utf8 {
			t.Fatalf("%+v", params)
		}
		if out.Len() > 5*MaxReturned {
			t.Fatalf("%d octets", out.Len())
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	r := golden()["failed"]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Write(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}
