package main

import (
	"errors"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

func table() map[string]any {
	return map[string]any{"tenants": map[string]any{
		"acme":   map[string]any{"domains": []any{"acme.example", "ACME.test"}, "to": "{local}@acme.mail.example"},
		"zenith": map[string]any{"domains": []any{"zenith.example"}, "to": "all-{domain}@mail.example"},
		"broke":  map[string]any{"domains": []any{"broke.example"}, "to": "{local}@broke.mail.example", "suspended": true},
	}}
}

func TestTenants(t *testing.T) {
	p := sdktest.Start(t, &tenants{}, table())
	v, err := p.Ask(sdktest.Route("From: a@example.org\n\nhi\n", "Ann@acme.test", "bob@zenith.example", "carl@broke.example", "dora@example.test"))
	if err != nil || len(v.Recipients) != 3 {
		t.Fatalf("%+v %v, expected an opinion about three of four", v, err)
	}
	ann, bob, carl := v.Recipients[0], v.Recipients[1], v.Recipients[2]
	if ann.Recipient != "Ann@acme.test" || ann.Route.To[0] != "Ann@acme.mail.example" {
		t.Errorf("%+v", ann)
	}
	if bob.Route.To[0] != "all-zenith.example@mail.example" {
		t.Errorf("%+v", bob)
	}
	if carl.Action != sdk.Reject || carl.Route != nil {
		t.Errorf("%+v", carl)
	}
}

func TestSettings(t *testing.T) {
	for key, change := range map[string]func(map[string]any){
		"tenants.acme.to":     func(c map[string]any) { c["acme"].(map[string]any)["to"] = "nowhere" },
		"tenants.acme.domain": func(c map[string]any) { c["acme"].(map[string]any)["domain"] = "x" },
		"tenants.broke.domains": func(c map[string]any) {
			delete(c, "acme")
			delete(c, "zenith")
			c["broke"].(map[string]any)["domains"] = []any{"a.example", "A.example"}
		},
	} {
		config := table()
		change(config["tenants"].(map[string]any))
		var complaint *sdk.SettingError
		if err := sdktest.Configure(t, &tenants{}, config); !errors.As(err, &complaint) || complaint.Key != key {
			t.Errorf("%v, expected a complaint about %s", err, key)
		}
	}
}
