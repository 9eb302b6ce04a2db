// Command router is a Sluice plugin that decides where mail goes: what comes for one address goes to whoever is on duty
// today.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

type router struct {
	Address   string            `config:"address"`   // "support@example.test"
	Duty      map[string]string `config:"duty"`      // "monday" = "ann@example.test"
	Otherwise string            `config:"otherwise"` // on days that duty does not have

	now func() time.Time
}

func (*router) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "router", Version: "1.0", Phases: []sdk.Phase{sdk.PhaseRoute}, Overlap: true, CheckOnly: true}
}

func (r *router) Configure(_ context.Context, settings sdk.Settings) error {
	problems := []error{settings.Decode(r)}
	complain := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for key, address := range map[string]string{"address": r.Address, "otherwise": r.Otherwise} {
		if !strings.Contains(address, "@") {
			complain(key, "%q, expected an address", address)
		}
	}
	for day, address := range r.Duty {
		if !weekday(day) {
			complain("duty."+day, "unknown day, expected monday to sunday")
		}
		if !strings.Contains(address, "@") {
			complain("duty."+day, "%q, expected an address", address)
		}
	}
	return errors.Join(problems...)
}

func weekday(name string) bool {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if strings.ToLower(day.String()) == name {
			return true
		}
	}
	return false
}

func (r *router) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	var v sdk.Verdict
	for _, to := range m.Recipients {
		if !strings.EqualFold(to.Address, r.Address) {
			continue // goes where the configuration says
		}
		day := strings.ToLower(r.now().Weekday().String())
		target, ok := r.Duty[day]
		if !ok {
			target = r.Otherwise
		}
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "ON_DUTY", Text: "on " + day + " it is " + target})
		v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: to.Address, Route: &sdk.Route{To: []string{target}}})
	}
	return v, nil
}

func main() { serve.Main(&router{now: time.Now}) }
