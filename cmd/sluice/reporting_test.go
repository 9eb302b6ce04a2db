package main

import (
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	reports "github.com/sluicemail/sluice/pipeline/report"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/storage"
)

const reportingConfig = `hostname = "mx.example.test"
[domain."example.test"]
aliases = { postmaster = "alice@example.test", dmarc = "alice@example.test" }
[listener.lmtp]
protocol = "lmtp"
address = "127.0.0.1:0"
tls = "none"
[dns]
servers = ["%s"]
[reports]
dmarc = true
own_domains = true
interval = "1h"
`

// TestReporting: what was observed in an hour that is over goes out as signed mail, here to ourselves, and is read again.
func TestReporting(t *testing.T) {
	dns, stop, err := resolvertest.Start(`_dmarc.example.test. TXT "v=DMARC1; p=reject; rua=mailto:dmarc@example.test"`)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	path := writeConfig(t, strings.Replace(reportingConfig, "%s", dns, 1))
	for _, args := range [][]string{{"user", "add", "alice@example.test", "--password-stdin"}, {"dkim", "new", "example.test"}} {
		if code, _, problem := sluice(t, "correct horse\n", append(args, "--config", path)...); code != exitDone {
			t.Fatalf("%v: %s", args, problem)
		}
	}
	c, err := config.Load(path, config.Options{Builtins: builtinNames()})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{config: c, logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}()
	if s.reporting.observer(c) == nil {
		t.Error("nobody observes, although [reports] dmarc is set")
	}
	if off, _ := config.Load(writeConfig(t, testConfig), config.Options{Builtins: builtinNames()}); off == nil || s.reporting.observer(off) != nil {
		t.Error("somebody observes, although [reports] dmarc is not set")
	}
	past := reports.NewCollector(reports.CollectorOptions{
		Engine: s.store.KV(), Logger: s.logger, Interval: func() time.Duration { return time.Hour },
		Now: func() time.Time { return time.Now().Add(-3 * time.Hour) },
	})
	past.Start(t.Context())
	past.ObserveDMARC(&pipeline.DMARCObservation{
		Source: netip.MustParseAddr("192.0.2.1"), HeaderFrom: "example.test", Disposition: "reject",
		Policy: pipeline.DMARCPolicy{Domain: "example.test", P: "reject", Percent: 100, RUA: []string{"mailto:dmarc@example.test"}},
	})
	past.Stop(t.Context())
	s.reporting.sender.Look(t.Context())

	var found []reportItem
	for deadline := time.Now().Add(10 * time.Second); len(found) == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err := showReports(t.Context(), s.store, reportRequest{Account: "alice@example.test", Mailbox: "INBOX", Limit: 10}, func(item any) error {
			found = append(found, item.(reportItem))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) != 1 || found[0].DMARC == nil || found[0].DMARC.Records[0].Row.SourceIP != "192.0.2.1" || found[0].DMARC.Metadata.Email != "postmaster@example.test" {
		t.Fatalf("%+v", found)
	}
	header := headerOf(t, s.store, "alice@example.test")
	for _, want := range []string{"Return-Path: <>", "DKIM-Signature: ", "d=example.test", "From: <postmaster@example.test>", "Auto-Submitted: auto-generated"} {
		if !strings.Contains(header, want) {
			t.Errorf("%q is not in\n%s", want, header)
		}
	}
}

// headerOf returns the header of the first message in an account's INBOX.
func headerOf(t *testing.T, store *storage.Store, address string) string {
	t.Helper()
	who, err := store.Accounts().Lookup(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	var m *storage.Message
	err = store.View(t.Context(), who.ID, func(v *storage.View) error {
		box, err := v.Mailbox("INBOX")
		if err != nil {
			return err
		}
		return v.Messages(box.ID, 1, 1, func(one *storage.Message) (bool, error) {
			m = one.Clone()
			return false, nil
		})
	})
	if err != nil || m == nil {
		t.Fatalf("no message: %v", err)
	}
	content, err := store.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	text, err := io.ReadAll(content.Reader())
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(string(text), "\r\n\r\n")
	return header
}
