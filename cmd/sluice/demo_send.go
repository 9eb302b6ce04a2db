package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
)

// worldConfig is the configuration of the server at which the demo's mail arrives when it leaves; %s is the DNS server.
const worldConfig = `hostname = "mail.example.org"
data_dir = "world"

[dns]
servers = ["%s"]

[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"

[domain."example.org"]
aliases = { postmaster = "bob@example.org" }
`

// demoKeys makes the key with which the demo's domain signs, and returns its record for DNS.
func demoKeys(dataDir string) (record string, err error) {
	keys := keyring.Of(dataDir)
	if _, err := keys.Make("example.test", []keyring.Wish{{Algorithm: dkim.Ed25519}}, time.Now()); err != nil {
		return "", fmt.Errorf("make the demo's key: %w", err)
	}
	records, err := keys.Records("example.test")
	if err != nil {
		return "", fmt.Errorf("read the demo's key: %w", err)
	}
	return records[0].Zone() + "\n", nil
}

// answer sends a message of the demo's user to the other server, which verifies whose it is, and shows both traces.
func (d *demo) answer(ctx context.Context) error {
	if _, err := d.world.store.CreateAccount(ctx, demoSender, demoPassword, storage.AccountOptions{}); err != nil {
		return fmt.Errorf("make the other account of the demo: %w", err)
	}
	messageID := fmt.Sprintf("<demo-answer.%d@example.test>", time.Now().UnixNano())
	if err := d.submit(messageID); err != nil {
		return fmt.Errorf("submit the answer: %w", err)
	}
	fmt.Fprintf(d.stdout, "4. An answer: %s logs in and writes to %s, at another server\n", demoUser, demoSender)
	there, err := d.await(ctx, d.world.store, messageID)
	if err != nil {
		return err
	}
	if _, err := d.await(ctx, d.server.store, messageID); err != nil {
		return err
	}
	if err := d.showTrace(ctx, messageID); err != nil {
		return err
	}
	for _, e := range there.Events {
		if e.Stage != pipeline.StageAuthenticate {
			continue
		}
		fmt.Fprintf(d.stdout, "   The other server found %s, and has it in %s's mailbox.\n\n", e.Text, demoSender)
		for _, want := range []string{"spf=pass", "dkim=pass", "dmarc=pass"} {
			if !strings.Contains(e.Text, want) {
				d.fail("the answer has %q at the other server, expected %s", e.Text, want)
			}
		}
	}
	return nil
}

// submit hands the answer to the submission listener, as a mail program does.
func (d *demo) submit(messageID string) error {
	c, err := smtp.Dial(d.server.address("submission"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", demoUser, demoPassword)); err != nil {
		return err
	}
	text := fmt.Sprintf("From: Alice <%s>\r\nTo: Bob <%s>\r\nSubject: Re: Lunch on Friday?\r\nDate: %s\r\nMessage-ID: %s\r\n\r\nGladly.\r\n\r\nAlice\r\n",
		demoUser, demoSender, time.Now().Format(time.RFC1123Z), messageID)
	if err := c.SendMail(demoUser, []string{demoSender}, strings.NewReader(text)); err != nil {
		return err
	}
	return c.Quit()
}

// await returns the trace of a message once a server has delivered it.
func (d *demo) await(ctx context.Context, store *storage.Store, messageID string) (*trace.Story, error) {
	for deadline := time.Now().Add(readWait); ; {
		var story *trace.Story
		err := findTraces(ctx, store, traceRequest{Word: messageID, Limit: 1}, func(item any) error {
			story = item.(*trace.Story)
			return nil
		})
		if err != nil && !errors.Is(err, trace.ErrNotFound) && time.Now().After(deadline) {
			return nil, err
		}
		if story != nil {
			for _, e := range story.Events {
				if e.Stage == pipeline.StageDeliver && e.Action == pipeline.Delivered.String() {
					return story, nil
				}
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the answer was not delivered within %v", readWait)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
