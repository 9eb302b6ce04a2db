package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/sdk"
)

// routeRequest asks where mail would go.
type routeRequest struct {
	Address string `json:"address"`
	Sender  string `json:"sender"`
	Origin  string `json:"origin"`
}

// routeItem is the answer. The table says it (route.Table.Resolve), the same that answers RCPT.
type routeItem struct {
	Address string        `json:"address"`
	Sender  string        `json:"sender"`
	Origin  string        `json:"origin"`
	Reply   string        `json:"reply"` // to RCPT, as far as the table is concerned
	Steps   []routeStep   `json:"steps"`
	Targets []routeTarget `json:"targets"`
}

// routeStep is one rule on the way.
type routeStep struct {
	Address string   `json:"address"`
	Rule    string   `json:"rule"`
	Text    string   `json:"text"`
	Key     []string `json:"key,omitempty"` // of the TOML file
	File    string   `json:"file,omitempty"`
	Line    int      `json:"line,omitempty"`
}

// routeTarget is one place where it goes.
type routeTarget struct {
	Kind      string `json:"kind"` // mailbox or remote
	Address   string `json:"address"`
	NewSender string `json:"new_sender,omitempty"` // SRS

	Transport   string        `json:"transport,omitempty"`   // "mx", or the [relay]: "relay.*"
	Protocol    string        `json:"protocol,omitempty"`    // smtp or lmtp
	Hosts       []string      `json:"hosts,omitempty"`       // of the [relay]
	TLS         string        `json:"tls,omitempty"`         // what the configuration asks for
	Destination string        `json:"destination,omitempty"` // the [destination] that overrides settings
	File        string        `json:"file,omitempty"`        // of the [relay]
	Line        int           `json:"line,omitempty"`
	Servers     []routeServer `json:"servers,omitempty"` // with --dns
	Problem     string        `json:"problem,omitempty"` // with --dns: why there is none
}

func routeOperation() operation {
	return operation{"route", typedDesk(func(ctx context.Context, d *desk, r routeRequest, emit func(any) error) error {
		item, err := whereTo(ctx, d.table(), r)
		if err != nil {
			return err
		}
		return emit(item)
	})}
}

// whereTo asks the table.
func whereTo(ctx context.Context, table *route.Table, r routeRequest) (*routeItem, error) {
	way, err := table.Resolve(ctx, route.Asked{Address: r.Address, Origin: sdk.Origin(r.Origin), Sender: r.Sender, Explain: true})
	item := &routeItem{Address: r.Address, Sender: r.Sender, Origin: r.Origin, Steps: []routeStep{}, Targets: []routeTarget{}}
	for _, s := range way.Steps {
		item.Steps = append(item.Steps, routeStep{Address: s.Address, Rule: s.Rule, Text: s.Text, Key: s.Key})
	}
	if err != nil {
		reply := route.Refusal(err)
		if reply.Temporary() {
			return nil, fmt.Errorf("find out where mail for %s goes: %w", r.Address, err)
		}
		item.Reply = reply.String()
		return item, nil
	}
	item.Reply = "250"
	for i, hop := range table.Hops(r.Sender, way.Targets) {
		target := routeTarget{Kind: hop.Kind.String(), Address: hop.Address, NewSender: hop.Sender}
		if hop.Kind == pipeline.HopRemote {
			target.leave(table.Transport(way.Targets[i].Domain()))
		}
		item.Targets = append(item.Targets, target)
	}
	return item, nil
}

// leave says how it leaves.
func (t *routeTarget) leave(by pipeline.Transport) {
	t.Transport, t.Protocol = "mx", "smtp"
	if len(by.Hosts) == 0 {
		return
	}
	t.Transport, t.Hosts, t.TLS = by.Name, by.Hosts, by.TLS
	if by.LMTP {
		t.Protocol = "lmtp"
	}
}

const routeLong = `Says where mail for an address would go, and why: each rule that is applied on the way with its place in the
configuration, then the mailboxes and the addresses at other servers, and how those are reached. The table that answers
is the one that answers RCPT. Router plugins are not asked, since they decide
about a message.`

func (a *app) routeCommand() *cobra.Command {
	request := routeRequest{Origin: string(sdk.Stranger)}
	dns := false
	cmd := &cobra.Command{
		Use:   "route ADDRESS",
		Short: "say where mail for an address goes, by which rule, and how it leaves",
		Long:  routeLong,
		Args:  exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Address = strings.Trim(strings.TrimSpace(args[0]), "<>")
			request.Sender = strings.Trim(strings.TrimSpace(request.Sender), "<>")
			if request.Sender != "" && !pipeline.ValidAddress(request.Sender) {
				return usagef("--from %q is no address; expected one such as alice@example.net, or <> for the null sender", request.Sender)
			}
			origins := []string{string(sdk.Stranger), string(sdk.Login), string(sdk.Trusted), string(sdk.LMTP), string(sdk.Generated)}
			if !slices.Contains(origins, request.Origin) {
				return usagef("--origin %s is none, expected one of %s", request.Origin, strings.Join(origins, ", "))
			}
			c, err := a.load()
			if err != nil {
				return err
			}
			return a.perform(cmd.Context(), c, routeOperation(), request, func(raw json.RawMessage) error {
				item := &routeItem{}
				if err := json.Unmarshal(raw, item); err != nil {
					return fmt.Errorf("read the answer to route: %w", err)
				}
				item.locate(c)
				if dns {
					if err := item.lookUp(cmd.Context(), c); err != nil {
						return err
					}
				}
				if a.json {
					return json.NewEncoder(a.stdout).Encode(item)
				}
				var b strings.Builder
				item.print(&b)
				if _, err := io.WriteString(a.stdout, plain(b.String())); err != nil {
					return err
				}
				if len(item.Targets) == 0 {
					return errSilent
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&request.Sender, "from", "", "the `sender`, MAIL FROM; empty: the null sender")
	cmd.Flags().StringVar(&request.Origin, "origin", request.Origin, "the `origin`, who brings it: stranger, login, trusted, lmtp or generated")
	cmd.Flags().BoolVar(&dns, "dns", false, "ask DNS for the servers of domains without a [relay], their addresses and TLS policies")
	return cmd
}

// locate fills in what the file says: lines, and the settings of delivery.
func (i *routeItem) locate(c *config.Config) {
	for n := range i.Steps {
		if s := &i.Steps[n]; len(s.Key) > 0 {
			s.File, s.Line = c.Locate(s.Key...)
		}
	}
	for n := range i.Targets {
		t := &i.Targets[n]
		if t.Kind != pipeline.HopRemote.String() {
			continue
		}
		domain := t.Address[strings.LastIndexByte(t.Address, '@')+1:]
		settings, name := c.DestinationFor(domain)
		t.Destination = name
		if relay, ok := strings.CutPrefix(t.Transport, "relay."); ok {
			t.File, t.Line = c.Locate("relay", relay)
			continue
		}
		if t.TLS = settings.DeliverDestination.TLS; t.TLS == "" {
			t.TLS = i.pipeline(c).Deliver.TLS
		}
	}
}

// pipeline returns the one whose settings of delivery hold for mail of that origin where no listener says otherwise.
func (i *routeItem) pipeline(c *config.Config) *config.Pipeline {
	if i.Origin == string(sdk.Login) || i.Origin == string(sdk.Generated) {
		return c.Pipeline["outbound"]
	}
	return c.Pipeline["inbound"]
}

// print writes it for a person.
func (i *routeItem) print(w io.Writer) {
	fmt.Fprintf(w, "%s, from <%s>, origin %s\n", i.Address, i.Sender, i.Origin)
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	for _, s := range i.Steps {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", s.Address, s.Rule, s.Text, place(s.File, s.Line))
	}
	_ = t.Flush()
	if len(i.Targets) == 0 {
		fmt.Fprintf(w, "refused: %s\n", i.Reply)
		return
	}
	for n := range i.Targets {
		i.Targets[n].print(w)
	}
}

func place(file string, line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", file, line)
}

func (t *routeTarget) print(w io.Writer) {
	if t.Kind != pipeline.HopRemote.String() {
		fmt.Fprintf(w, "-> mailbox of %s\n", t.Address)
		return
	}
	fmt.Fprintf(w, "-> %s at another server", t.Address)
	if t.NewSender != "" {
		fmt.Fprintf(w, ", from <%s>", t.NewSender)
	}
	fmt.Fprintln(w)
	switch t.Transport {
	case "mx":
		fmt.Fprintf(w, "   by its MX records, tls %s\n", t.TLS)
	default:
		fmt.Fprintf(w, "   by [%s] %s: %s to %s, tls %s\n", t.Transport, place(t.File, t.Line), t.Protocol, strings.Join(t.Hosts, ", "), t.TLS)
	}
	if t.Destination != "" {
		fmt.Fprintf(w, "   with the settings of [destination.%q]\n", t.Destination)
	}
	for _, s := range t.Servers {
		fmt.Fprintf(w, "   %5d %s %s\n", s.Preference, s.Name, s.words())
	}
	if t.Problem != "" {
		fmt.Fprintf(w, "   %s\n", t.Problem)
	}
}
