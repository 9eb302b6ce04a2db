// Command tenants is a Sluice plugin for a server that many organisations share: a table says which domains are whose,
// and where the mail of each goes.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

type tenant struct {
	Domains   []string `config:"domains"`
	To        string   `config:"to"`        // "{local}@acme.mail.example": an address, or a pattern for one
	Suspended bool     `config:"suspended"` // its mail is refused for the time being
}

type tenants struct {
	Tenants map[string]tenant `config:"tenants"`

	byDomain map[string]string // name of the tenant
}

func (*tenants) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "tenants", Version: "1.0", Phases: []sdk.Phase{sdk.PhaseRoute}, Overlap: true, CheckOnly: true}
}

func (t *tenants) Configure(_ context.Context, settings sdk.Settings) error {
	t.byDomain = make(map[string]string)
	problems := []error{settings.Decode(t)}
	for name, one := range t.Tenants {
		if !strings.Contains(one.To, "@") {
			problems = append(problems, &sdk.SettingError{
				Key: "tenants." + name + ".to", Problem: fmt.Sprintf("%q, expected an address such as \"{local}@acme.example.net\"", one.To),
			})
		}
		for _, domain := range one.Domains {
			domain = strings.ToLower(domain)
			if other, ok := t.byDomain[domain]; ok {
				problems = append(problems, &sdk.SettingError{Key: "tenants." + name + ".domains", Problem: domain + " is of tenant " + other + " already"})
			}
			t.byDomain[domain] = name
		}
	}
	return errors.Join(problems...)
}

func (t *tenants) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	var v sdk.Verdict
	for _, to := range m.Recipients {
		at := strings.LastIndexByte(to.Address, '@')
		local, domain := to.Address[:max(at, 0)], strings.ToLower(to.Address[at+1:])
		name, ok := t.byDomain[domain]
		if !ok {
			continue // none of our tenants: the configuration decides
		}
		v.Recipients = append(v.Recipients, t.opinion(name, to.Address, local, domain))
	}
	return v, nil
}

func (t *tenants) opinion(name, address, local, domain string) sdk.RecipientVerdict {
	one := t.Tenants[name]
	v := sdk.RecipientVerdict{Recipient: address, Reasons: []sdk.Reason{{Symbol: "TENANT", Text: domain + " is of " + name}}}
	if one.Suspended {
		v.Action = sdk.Reject
		v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.2.1", Text: "This mailbox takes no mail for the time being"}
		return v
	}
	v.Route = &sdk.Route{To: []string{strings.NewReplacer("{local}", local, "{domain}", domain).Replace(one.To)}}
	return v
}

func main() { serve.Main(&tenants{}) }
