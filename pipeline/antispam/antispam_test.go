package antispam

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

func TestThresholds(t *testing.T) {
	cases := []struct {
		config Config
		score  float64
		want   sdk.Action
	}{
		{DefaultConfig(), -3, sdk.Accept},
		{DefaultConfig(), 5.99, sdk.Accept},
		{DefaultConfig(), 6, sdk.Junk},
		{DefaultConfig(), 19.9, sdk.Junk},
		{DefaultConfig(), 20, sdk.Reject},
		{Config{JunkAt: 1, QuarantineAt: 2, RejectAt: 3}, 2, sdk.Quarantine},
		{Config{JunkAt: 1, QuarantineAt: 2, RejectAt: 0}, 1000, sdk.Quarantine},
		{Config{}, 1000, sdk.Accept},
	}
	for _, c := range cases {
		o := New(c.config, nil).threshold(c.score)
		if o.Action != c.want {
			t.Errorf("%+v at %v: %v, want %v", c.config, c.score, o.Action, c.want)
		}
		if (o.Action == sdk.Reject) != (o.Reply.Code == 550) {
			t.Errorf("%v replies %v", o.Action, o.Reply)
		}
	}
}

func TestValidate(t *testing.T) {
	cases := []struct {
		config Config
		keys   string // of the problems
	}{
		{DefaultConfig(), ""},
		{Config{}, ""},
		{Config{JunkAt: 6, RejectAt: 6}, "reject_at"},
		{Config{JunkAt: 6, QuarantineAt: 3, RejectAt: 5}, "quarantine_at reject_at"},
		{Config{JunkAt: -1, RejectAt: 5}, "junk_at"},
	}
	for _, c := range cases {
		var keys []string
		if err := c.config.Validate(); err != nil {
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var f *pipeline.FieldError
				if errors.As(e, &f) {
					keys = append(keys, f.Key)
				}
			}
		}
		if got := strings.Join(keys, " "); got != c.keys {
			t.Errorf("%+v: %q, want %q", c.config, got, c.keys)
		}
	}
}
