package mtasts

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestSlowServer: mail does not wait long for a server that says nothing, and has the policy when it comes.
func TestSlowServer(t *testing.T) {
	w := newWorld(t)
	answer := make(chan struct{})
	w.answers(func(rw http.ResponseWriter, _ *http.Request) {
		<-answer
		rw.Header().Set("Content-Type", "text/plain")
		_, _ = rw.Write([]byte(enforce))
	})
	s := w.store(t)
	s.options.Patience = 50 * time.Millisecond
	begun := time.Now()
	for range 10 { // all of them together wait once
		p, err := w.get(t, s)
		var failed *Error
		if p != nil || !errors.As(err, &failed) || failed.Type != tlsrpt.STSPolicyFetchError {
			t.Fatalf("got %+v, %v", p, err)
		}
	}
	if d := time.Since(begun); d > 400*time.Millisecond {
		t.Errorf("it took %s", d)
	}
	close(answer)
	waitFor(t, func() bool { p, err := w.get(t, s); return err == nil && p != nil && p.Mode == Enforce })
	if n := w.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	// With a policy that is known, it holds meanwhile.
	stuck := make(chan struct{})
	defer close(stuck)
	w.answers(func(http.ResponseWriter, *http.Request) { <-stuck })
	w.id("two")
	if p, err := w.get(t, s); err != nil || p == nil || p.ID != "one" {
		t.Errorf("got %+v, %v", p, err)
	}
}

// TestNobodyCanTell: whether there is a policy. That is no "there is none" for who asks for TLS (RFC 8689 section 4.2.1).
func TestNobodyCanTell(t *testing.T) {
	w := newWorld(t)
	w.zone.Break("_mta-sts.example.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	p, err := w.get(t, w.store(t))
	var unknown *Error
	if p != nil || !errors.As(err, &unknown) || unknown.Type != "" {
		t.Errorf("got %+v, %v", p, err)
	}
}
