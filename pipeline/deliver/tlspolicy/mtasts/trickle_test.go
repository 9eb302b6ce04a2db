package mtasts

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// TestTrickle (DRILLS E5.1): a web server that sends an octet now and then, in the body or before it, gets the time of one fetch, and
// what it has sent by then is no policy.
func TestTrickle(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"the body": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(rw, enforce) // a policy, were this its end
			trickle(rw, r)
		},
		"interim answers": func(rw http.ResponseWriter, r *http.Request) {
			for range 1000 {
				rw.WriteHeader(http.StatusEarlyHints)
				select {
				case <-r.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		},
		"nothing": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		w := newWorld(t)
		w.answers(answer)
		s := w.store(t)
		s.within = 400 * time.Millisecond
		start := time.Now()
		p, err := w.get(t, s)
		var failed *Error
		if p != nil || !errors.As(err, &failed) || failed.Type != tlsrpt.STSPolicyFetchError || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %+v, %v after %v", name, p, err, time.Since(start))
		}
	}
	if s := newWorld(t).store(t); s.within != fetchTime {
		t.Errorf("a fetch may take %v", s.within)
	}
}

func trickle(rw http.ResponseWriter, r *http.Request) {
	for range 1000 {
		fmt.Fprint(rw, "#")
		rw.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
