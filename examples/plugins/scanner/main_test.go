package main

import (
	"errors"
	"testing"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

func TestScanner(t *testing.T) {
	p := sdktest.Start(t, &scanner{}, map[string]any{"words": []any{"lottery"}})
	for subject, want := range map[string]struct {
		action sdk.Action
		score  float64
	}{
		"Hello":                        {sdk.Accept, 0},
		"You won the Lottery!":         {sdk.Reject, 0},
		"BUY NOW":                      {sdk.Accept, 2},
		"about Kafka's Lotterie":       {sdk.Accept, 0},
		"=?utf-8?B?WW91ciBsb3R0ZXJ5?=": {sdk.Reject, 0},
		"=?utf-8?Q?THE_L=4FTTERY?=":    {sdk.Reject, 0},
		"=?utf-8?Q?BUY_N=C3=96W?=":     {sdk.Accept, 2},
		"=?klingon?Q?lottery?=":        {sdk.Reject, 0},
	} {
		v, err := p.Ask(sdktest.Mail("From: a@example.org\nSubject: " + subject + "\n\nlottery\n"))
		if err != nil || v.Action != want.action || v.Score != want.score {
			t.Errorf("%s: %+v %v, expected %v %v", subject, v, err, want.action, want.score)
		}
	}
	if _, err := p.Ask(sdktest.Mail("no header\n")); err == nil {
		t.Error("half a message got an opinion")
	}
}

func TestSettings(t *testing.T) {
	for key, config := range map[string]map[string]any{
		"words": nil,
		"wrods": {"wrods": []any{"lottery"}},
	} {
		err := sdktest.Configure(t, &scanner{}, config)
		var complaint *sdk.SettingError
		if !errors.As(err, &complaint) || complaint.Key != key {
			t.Errorf("%v, expected a complaint about %s", err, key)
		}
	}
}
