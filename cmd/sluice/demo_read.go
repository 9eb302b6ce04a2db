package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// readWait is how long the demo waits for a message to reach its mailbox.
const readWait = 10 * time.Second

// findIMAP returns the mailbox in which IMAP finds the message, or "". It waits
// for a message that must be there.
func (d *demo) findIMAP(ctx context.Context, messageID string, expected bool) (string, error) {
	c, err := imapclient.DialInsecure(d.server.address("imap"), nil)
	if err != nil {
		return "", fmt.Errorf("connect by IMAP: %w", err)
	}
	defer c.Close()
	if err := c.Login(demoUser, demoPassword).Wait(); err != nil {
		return "", fmt.Errorf("log in by IMAP: %w", err)
	}
	boxes, err := c.List("", "*", nil).Collect()
	if err != nil {
		return "", fmt.Errorf("list mailboxes by IMAP: %w", err)
	}
	criteria := &imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: messageID}}}
	for deadline := time.Now().Add(readWait); ; {
		for _, box := range boxes {
			if _, err := c.Select(box.Mailbox, &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
				return "", fmt.Errorf("open %s by IMAP: %w", box.Mailbox, err)
			}
			found, err := c.UIDSearch(criteria, nil).Wait()
			if err != nil {
				return "", fmt.Errorf("search %s by IMAP: %w", box.Mailbox, err)
			}
			if len(found.AllUIDs()) > 0 {
				return box.Mailbox, c.Logout().Wait()
			}
		}
		if !expected || time.Now().After(deadline) {
			return "", c.Logout().Wait()
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readPOP3 fetches the clean message, which must be the only one in the INBOX.
func (d *demo) readPOP3(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", d.server.address("pop3"))
	if err != nil {
		return fmt.Errorf("connect by POP3: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(readWait))
	in := bufio.NewReader(conn)
	var stat string
	for _, command := range []string{"", "USER " + demoUser, "PASS " + demoPassword, "STAT", "RETR 1"} {
		if command != "" {
			if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
				return fmt.Errorf("read by POP3: %w", err)
			}
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read by POP3: %w", err)
		}
		if !strings.HasPrefix(line, "+OK") {
			d.fail("POP3 answered %q to %s", strings.TrimSpace(line), strings.Fields(command + " the connection")[0])
			return nil
		}
		if command == "STAT" {
			stat = strings.TrimSpace(strings.TrimPrefix(line, "+OK"))
		}
	}
	subject, octets := "", 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read by POP3: %w", err)
		}
		if line == ".\r\n" {
			break
		}
		octets += len(line)
		if s, ok := strings.CutPrefix(line, "Subject: "); ok && subject == "" {
			subject = strings.TrimSpace(s)
		}
	}
	fmt.Fprintf(d.stdout, "POP3 shows one message of %d octets, %q.\n", octets, subject)
	if want := fmt.Sprintf("1 %d", octets); stat != want || subject != parcels[0].subject {
		d.fail("POP3 shows %q and the subject %q, expected %q and %q", stat, subject, want, parcels[0].subject)
	}
	return nil
}
