package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
)

const (
	demoUser     = "alice@example.test"
	demoPassword = "sluice-demo"
	demoSender   = "bob@example.org"
)

// demoConfig is the whole configuration of the demo; the first %s is its DNS server, the second the server at which its
// mail to others arrives.
const demoConfig = `hostname = "mx.example.test"
data_dir = "data"

[dns]
servers = ["%s"]

[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"

[listener.submission]
protocol = "submission"
address = "127.0.0.1:0"
allow_plaintext_login = true

[listener.imap]
protocol = "imap"
address = "127.0.0.1:0"
allow_plaintext_login = true

[listener.pop3]
protocol = "pop3"
address = "127.0.0.1:0"
allow_plaintext_login = true

[domain."example.test"]
aliases = { postmaster = "alice@example.test" }

[relay."example.org"]
hosts = ["%s"]

[pipeline.inbound.anti-spam]
plugins = ["gtube"]
junk_at = 6.0
reject_at = 0                         # off, so that the spam can be seen in Junk

[pipeline.inbound.anti-virus]
plugins = ["eicar"]
on_infected = "reject"
`

// demoZone is what the demo's DNS says: both domains let this machine send, and ask
// to refuse everybody else.
const demoZone = `
example.test.              IN MX 10 mx.example.test.
example.test.              IN TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.example.test.       IN TXT "v=DMARC1; p=reject"
mx.example.test.           IN A 127.0.0.1
example.org.               IN A 127.0.0.1
example.org.               IN TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.example.org.        IN TXT "v=DMARC1; p=reject"
mail.example.org.          IN A 127.0.0.1
1.0.0.127.in-addr.arpa.    IN PTR mail.example.org.
`

func (a *app) demoCommand() *cobra.Command {
	var exit bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "run everything in a temporary directory: three messages in, filtered by plugins, stored, read back; one out, signed",
		Args:  exactArgs(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), exit) },
	}
	cmd.Flags().BoolVar(&exit, "exit", false, "end after the messages; exit status 0 only if all held")
	return cmd
}

func (a *app) demo(ctx context.Context, exit bool) error {
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer os.RemoveAll(dir)
	record, err := demoKeys(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	dns, stopDNS, err := resolvertest.Start(demoZone + record)
	if err != nil {
		return fmt.Errorf("start the demo's DNS: %w", err)
	}
	defer stopDNS()
	var log lockedBuffer
	world, err := startDemo(ctx, dir, "world.toml", fmt.Sprintf(worldConfig, dns), &log)
	if err != nil {
		return err
	}
	home, err := startDemo(ctx, dir, "sluice.toml", fmt.Sprintf(demoConfig, dns, world.address("mx")), &log)
	if err == nil {
		err = errors.Join((&demo{app: a, server: home, world: world, dir: dir}).run(ctx, exit), home.stop())
	}
	err = errors.Join(err, world.stop())
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.stderr, "The servers' log:\n%s", log.String())
	}
	return err
}

// startDemo starts one of the demo's servers.
func startDemo(ctx context.Context, dir, name, text string, log io.Writer) (*server, error) {
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the demo's configuration: %w", err)
	}
	c, err := config.Load(file, config.Options{})
	if err != nil {
		return nil, err
	}
	s := &server{config: c, logger: slog.New(slog.NewTextHandler(log, nil))}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("start the demo's server %s: %w", c.Hostname, err)
	}
	return s, nil
}

// lockedBuffer is the log of both servers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// demo is one run of the demo against its server, and the one to which that sends.
type demo struct {
	*app
	server *server
	world  *server
	dir    string
	failed []string
}

// parcel is one message of the demo, and what must become of it.
type parcel struct {
	title   string
	subject string
	body    string
	refused bool   // by a 5yz reply
	mailbox string // where it must be found by IMAP
}

// The test strings stand here in two halves, so that scanners leave this file alone.
var parcels = []parcel{
	{"A clean message", "Lunch on Friday?", "Hello Alice,\r\n\r\nthe usual place at noon?\r\n\r\nBob\r\n", false, "INBOX"},
	{"A spam message", "You have won", "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n", false, "Junk"},
	{"A virus", "Invoice", `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR` + `-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*` + "\r\n", true, ""},
}

func (d *demo) run(ctx context.Context, exit bool) error {
	if _, err := d.server.store.CreateAccount(ctx, demoUser, demoPassword, storage.AccountOptions{}); err != nil {
		return fmt.Errorf("make the demo's account: %w", err)
	}
	fmt.Fprintf(d.stdout, "Sluice is up, with everything in %s. Three messages arrive for %s.\n\n", d.dir, demoUser)
	for i, p := range parcels {
		if err := d.try(ctx, i+1, p); err != nil {
			return err
		}
	}
	if err := d.readPOP3(ctx); err != nil {
		return err
	}
	if err := d.answer(ctx); err != nil {
		return err
	}
	if len(d.failed) > 0 {
		return fmt.Errorf("the demo did not go as it should: %s", strings.Join(d.failed, "; "))
	}
	fmt.Fprintln(d.stdout, "All held: the clean one is in INBOX, the spam in Junk, the virus was refused before we took it, and the answer arrived, signed.")
	if exit {
		return nil
	}
	d.invite()
	<-ctx.Done()
	return nil
}

// try sends one message, shows its trace and looks for it by IMAP.
func (d *demo) try(ctx context.Context, n int, p parcel) error {
	messageID := fmt.Sprintf("<demo-%d.%d@example.org>", n, time.Now().UnixNano())
	reply, refused, err := d.send(p, messageID)
	if err != nil {
		return fmt.Errorf("send %q: %w", p.subject, err)
	}
	fmt.Fprintf(d.stdout, "%d. %s: the server answered %s\n", n, p.title, reply)
	if refused != p.refused {
		d.fail("%s: refused %v, expected %v", p.title, refused, p.refused)
		return nil
	}
	place, err := d.findIMAP(ctx, messageID, p.mailbox != "")
	if err != nil {
		return err
	}
	if err := d.showTrace(ctx, messageID); err != nil {
		return err
	}
	if place == "" {
		fmt.Fprint(d.stdout, "   It was never ours: the peer was told, and IMAP finds it nowhere.\n\n")
	} else {
		fmt.Fprintf(d.stdout, "   IMAP found it in %s.\n\n", place)
	}
	if place != p.mailbox {
		d.fail("%s: found in %q, expected %q", p.title, place, p.mailbox)
	}
	return nil
}

func (d *demo) fail(format string, args ...any) {
	d.failed = append(d.failed, fmt.Sprintf(format, args...))
}

// send hands a message to the mx listener as a stranger and returns the reply.
func (d *demo) send(p parcel, messageID string) (reply string, refused bool, err error) {
	c, err := smtp.Dial(d.server.address("mx"))
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	if err := c.Hello("mail.example.org"); err != nil {
		return "", false, err
	}
	if err := c.Mail(demoSender, nil); err != nil {
		return "", false, err
	}
	if err := c.Rcpt(demoUser, nil); err != nil {
		return "", false, err
	}
	w, err := c.Data()
	if err != nil {
		return "", false, err
	}
	_, err = fmt.Fprintf(w, "From: Bob <%s>\r\nTo: Alice <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: %s\r\n\r\n%s",
		demoSender, demoUser, p.subject, time.Now().Format(time.RFC1123Z), messageID, p.body)
	if err != nil {
		return "", false, err
	}
	answer, err := w.CloseWithResponse()
	var refusal *smtp.SMTPError
	if errors.As(err, &refusal) {
		return fmt.Sprintf("%d %d.%d.%d %s", refusal.Code, refusal.EnhancedCode[0], refusal.EnhancedCode[1], refusal.EnhancedCode[2], refusal.Message), true, c.Quit()
	}
	if err != nil {
		return "", false, err
	}
	return "250 " + answer.StatusText, false, c.Quit()
}

// showTrace prints the stored trace of a message.
func (d *demo) showTrace(ctx context.Context, messageID string) error {
	return findTraces(ctx, d.server.store, traceRequest{Word: messageID, Limit: 1}, func(item any) error {
		printStages(d.stdout, item.(*trace.Story).Events)
		return nil
	})
}

// invite tells how to connect one's own client.
func (d *demo) invite() {
	fmt.Fprintf(d.stdout, `
Now yours. The server stays up until you press Ctrl-C:

  account   %s, password %s
  IMAP      %s      POP3  %s
  submit    %s      SMTP  %s

  curl --url imap://%s/INBOX --user %s:%s
`, demoUser, demoPassword, d.server.address("imap"), d.server.address("pop3"), d.server.address("submission"), d.server.address("mx"),
		d.server.address("imap"), demoUser, demoPassword)
}

// address returns where a listener is.
func (s *server) address(name string) string {
	for _, l := range s.listeners {
		if l.name == name {
			return l.addr.String()
		}
	}
	return ""
}

// printStages prints one line for each stage and plugin.
func printStages(w io.Writer, events []trace.Event) {
	fmt.Fprintf(w, "   %-13s %-10s %-11s %7s %8s  %s\n", "STAGE", "WHO", "VERDICT", "SCORE", "MS", "WHY")
	for _, e := range events {
		fmt.Fprintf(w, "   %-13s %-10s %-11s %7s %8s  %s\n", e.Stage, orDash(e.Plugin), e.Action, score(e), millis(e.Took), because(e))
	}
}
