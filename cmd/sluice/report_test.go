package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// TestReportShow reads the reports that the tests of pipeline/report write, as files, by a pipe, and as JSON.
func TestReportShow(t *testing.T) {
	const reports = "../../pipeline/report/"
	code, stdout, stderr := sluice(t, "", "report", "show", reports+"dmarc/testdata/full.xml")
	if code != exitDone || stderr != "" || !strings.Contains(stdout, "192.0.2.1    3      none") ||
		!strings.Contains(stdout, "example.net: 4 messages, 3 passed (3 by DKIM, 0 by SPF), 1 quarantined, 0 rejected\n") {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = sluice(t, "", "report", "show", reports+"tlsreport/testdata")
	if code != exitDone || stderr != "" || !strings.Contains(stdout, "certificate-expired") ||
		!strings.Contains(stdout, "company-y.example: 5326 sessions with TLS as it should be, 303 without\n") {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
	text, err := os.ReadFile(reports + "dmarc/testdata/full.xml")
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, _ = sluice(t, string(text), "--json", "report", "show", "-")
	var item reportItem
	if err := json.Unmarshal([]byte(stdout), &item); err != nil || code != exitDone || item.DMARC == nil || item.DMARC.Policy.Domain != "example.net" || len(item.DMARC.Records) != 2 {
		t.Errorf("%d %v %s", code, err, stdout)
	}
	code, stdout, _ = sluice(t, "Subject: hello\r\n\r\nno report\r\n", "report", "show", "-")
	if code != exitDone || stdout != "there are no reports\n" {
		t.Errorf("%d %q", code, stdout)
	}
}

// TestReportHostile: a file that is a trap is named, the others are shown, nothing reaches the terminal that could change it.
func TestReportHostile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.xml": "<!DOCTYPE x><feedback/>",
		"b.xml": "<feedback><policy_published><domain>e\u202example.net</domain></policy_published><record><row><source_ip>\u009b31m</source_ip><count>1</count></row></record></feedback>",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := sluice(t, "", "report", "show", dir)
	if code != exitFailed || !strings.Contains(stdout, "a.xml: read the report: it has a document type declaration") || !strings.Contains(stdout, "1 messages") ||
		!strings.Contains(stderr, "1 reports could not be read") || strings.ContainsAny(stdout, "\u202e\u009b\x1b") {
		t.Errorf("%d\n%q\n%s", code, stdout, stderr)
	}
}

// TestReportLimit: a limit that makes no sense is no reason to end the server, which does the work.
func TestReportLimit(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Options{
		Dir: "data", FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), Pebble: pebble.Options{MinFree: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	if _, err := store.CreateAccount(t.Context(), "alice@example.test", "correct horse", storage.AccountOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{-5, 0, 1 << 40} {
		r := reportRequest{Account: "alice@example.test", Mailbox: "INBOX", Limit: limit}
		if err := showReports(t.Context(), store, r, func(any) error { return nil }); err != nil {
			t.Errorf("%d: %v", limit, err)
		}
	}
}
