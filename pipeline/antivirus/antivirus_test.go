package antivirus

import (
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

type asker struct{ pipeline.Asker }

func (asker) Name() string { return "scanner" }

func TestOnInfectedTakesThePlaceOfThePluginsAction(t *testing.T) {
	found := sdk.RecipientVerdict{Action: sdk.Accept, Detections: []string{"Eicar\r\nTest"}}
	for _, on := range []sdk.Action{sdk.Reject, sdk.Quarantine, sdk.Discard} {
		o := New(Config{OnInfected: on}, nil).opinion(&pipeline.Answer{Asker: asker{}}, found)
		if o.Action != on || o.Plugin != "scanner" {
			t.Errorf("%v: %+v", on, o)
		}
		if on == sdk.Reject && o.Reply.String() != "550 5.7.1 The message contains a virus: Eicar??Test" {
			t.Errorf("reply %v", o.Reply)
		}
		if on != sdk.Reject && o.Reply.Code != 0 {
			t.Errorf("%v replies %v", on, o.Reply)
		}
	}
	clean := New(DefaultConfig(), nil).opinion(&pipeline.Answer{Asker: asker{}}, sdk.RecipientVerdict{Action: sdk.Quarantine})
	if clean.Action != sdk.Quarantine {
		t.Errorf("without a detection the plugin's action holds: %+v", clean)
	}
}

func TestValidate(t *testing.T) {
	for action, ok := range map[sdk.Action]bool{sdk.Reject: true, sdk.Quarantine: true, sdk.Discard: true, sdk.Accept: false, sdk.Junk: false, sdk.Defer: false} {
		c := Config{OnInfected: action}
		if err := c.Validate(); (err == nil) != ok {
			t.Errorf("%v: %v", action, err)
		}
	}
}
