package deliver

import (
	"testing"

	"github.com/sluicemail/sluice/pipeline"
)

// TestViaMX: who wants MX records gets them, whatever [relay] has.
func TestViaMX(t *testing.T) {
	smarthost := pipeline.Transport{Name: "relay.*", Hosts: []string{"127.0.0.1:26"}}
	r := New(Options{Transport: func(string) pipeline.Transport { return smarthost }})
	defer r.Close()
	r.hops.put("there.test", "mx.there.test", r.Now())
	for via, want := range map[string]string{"": "127.0.0.1:26", pipeline.ViaMX: "mx.there.test", "smtp://127.0.0.2:27": "127.0.0.2:27"} {
		if hop, err := r.NextHop(t.Context(), "there.test", via); err != nil || hop.Key != want {
			t.Errorf("by %q: %q, %v; want %q", via, hop.Key, err, want)
		}
	}
}
