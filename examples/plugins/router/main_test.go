package main

import (
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk/sdktest"
)

func TestRouter(t *testing.T) {
	config := map[string]any{
		"address": "support@example.test", "otherwise": "team@example.test",
		"duty": map[string]any{"monday": "ann@example.test"},
	}
	day := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) // a Monday
	r := &router{now: func() time.Time { return day }}
	p := sdktest.Start(t, r, config)
	for _, want := range []string{"ann@example.test", "team@example.test"} {
		v, err := p.Ask(sdktest.Route("From: a@example.org\n\nhelp\n", "bob@example.test", "Support@example.test"))
		if err != nil || len(v.Recipients) != 1 || v.Recipients[0].Recipient != "Support@example.test" || v.Recipients[0].Route.To[0] != want {
			t.Errorf("%s: %+v %v, expected %s for support alone", day.Weekday(), v, err, want)
		}
		day = day.AddDate(0, 0, 1)
	}
}

func TestSettings(t *testing.T) {
	for _, config := range []map[string]any{
		{},
		{"address": "support", "otherwise": "a@b"},
		{"address": "a@b", "otherwise": "a@b", "duty": map[string]any{"moonday": "a@b"}},
		{"address": "a@b", "otherwise": "a@b", "duty": map[string]any{"monday": "ann"}},
		{"address": "a@b", "otherwise": "a@b", "nights": true},
	} {
		if err := sdktest.Configure(t, &router{now: time.Now}, config); err == nil {
			t.Errorf("%v is taken", config)
		}
	}
}
