package queue_test

import (
	"testing"

	"github.com/sluicemail/sluice/pipeline"
)

// TestAgain (RULES B8): a server that takes two recipients in a transaction gets the others in further ones, at once, each after
// the one before is durable, and none counts as an attempt that failed.
func TestAgain(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	var sizes, open []int
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		sizes, open = append(sizes, len(p.Recipients)), append(open, w.open)
		s := took(p)
		for i := range s.Outcomes[min(2, len(s.Outcomes)):] {
			s.Outcomes[2+i] = pipeline.Outcome{Kind: pipeline.Delayed, Again: true, Text: "follows"}
		}
		for _, to := range p.Recipients {
			if to.Attempts != 1 {
				t.Errorf("%s has %d attempts", to.Address, to.Attempts)
			}
		}
		return s, nil
	}
	m := r.commit(t, "five", to("a@example.net"), to("b@example.net"), to("c@example.net"), to("d@example.net"), to("e@example.net"))
	r.empty(t)
	if len(w.counts()) != 5 || len(w.received()) != 5 || r.actions(t, m.ID) != "queued delivered delivered delivered delivered delivered" {
		t.Errorf("received: %v, the trace says %q", w.received(), r.actions(t, m.ID))
	}
	if len(sizes) != 3 || sizes[0] != 5 || sizes[1] != 3 || sizes[2] != 1 || open[1] != 0 || open[2] != 0 {
		t.Errorf("parcels of %v, with %v connections that wait", sizes, open)
	}
}

// TestAgainForAll: a Courier that asks to come again for all is not asked again at once for ever.
func TestAgainForAll(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Again: true, Text: "follows"}, pipeline.PaceSame), nil
	}
	r.commit(t, "two", to("a@example.net"), to("b@example.net"))
	eventually(t, "an attempt", func() bool {
		l := r.list(t)
		return len(l) == 1 && len(l[0].Recipients) == 2 && l[0].Recipients[0].Attempts == 1 && l[0].Recipients[1].Attempts == 1
	})
}
