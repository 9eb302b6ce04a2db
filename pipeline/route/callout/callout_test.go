package callout

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicemail/sluice/pipeline"
)

// hop is a next hop: the local part says what it answers.
type hop struct {
	mu    sync.Mutex
	asked []string
	now   int // under way
	most  int
	takes time.Duration
}

func (h *hop) AskRecipient(ctx context.Context, name, address string) (pipeline.RecipientAnswer, string) {
	h.mu.Lock()
	h.asked = append(h.asked, address)
	h.now++
	h.most = max(h.most, h.now)
	takes := h.takes
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.now--
		h.mu.Unlock()
	}()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return pipeline.AnswerNone, "no answer in time"
	}
	local, _, _ := strings.Cut(address, "@")
	switch strings.TrimRight(local, "0123456789.") {
	case "nobody":
		return pipeline.AnswerRefused, "mx.inside.test [10.1.2.3]: 550 5.1.1 no such user"
	case "later":
		return pipeline.AnswerLater, "mx.inside.test [10.1.2.3]: 450 4.7.1 greylisted"
	case "silent":
		return pipeline.AnswerNone, "connect: refused"
	case "broken":
		panic("a bug in the client")
	}
	return pipeline.AnswerTaken, ""
}

func (h *hop) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.asked)
}

var client = netip.MustParseAddr("192.0.2.1")

func ask(t *testing.T, v *Verifier, from netip.Addr, address string) bool {
	t.Helper()
	return v.Refused(t.Context(), Question{Pipeline: "inbound", Address: address, Client: from})
}

// TestAnswers: what is remembered, for how long, and what the log says.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := &hop{}, &bytes.Buffer{}
		v := New(Options{Asker: h, Logger: slog.New(slog.NewTextHandler(log, nil))})
		for _, step := range []struct {
			address string
			refused bool
			asked   int // questions so far
			wait    time.Duration
			log     string // of this step; "": nothing
		}{
			{"alice@far.test", false, 1, 0, ""},
			{"alice@far.test", false, 1, 24*time.Hour - time.Second, ""},
			{"alice@far.test", false, 1, 2 * time.Second, ""},
			{"alice@far.test", false, 2, 0, ""}, // a day is over
			{"nobody@far.test", true, 3, 0, "action=reject rcpt=nobody@far.test why=\"mx.inside.test"},
			{"nobody@far.test", true, 3, time.Hour - time.Second, ""},
			{"nobody@far.test", true, 3, 2 * time.Second, ""},
			{"nobody@far.test", true, 4, 0, "action=reject"},
			{"later@far.test", false, 5, 59 * time.Second, "action=accept rcpt=later@far.test why=\"mx.inside.test [10.1.2.3]: 450"},
			{"later@far.test", false, 5, 2 * time.Second, ""},
			{"later@far.test", false, 6, 0, "action=accept"},
			{"silent@far.test", false, 7, 0, "action=accept rcpt=silent@far.test why=\"no answer, and the domain is not asked for 30s"},
			{"nobody2@far.test", false, 7, 0, ""}, // nobody is asked at that domain
			{"nobody@far.test", true, 7, 0, ""},   // what is known is known
			{"nobody2@near.test", true, 8, 31 * time.Second, "action=reject"},
			{"nobody2@far.test", true, 9, 0, "action=reject"},
		} {
			log.Reset()
			if got := ask(t, v, client, step.address); got != step.refused || h.count() != step.asked {
				t.Errorf("%s: refused %v, %d questions; want %v and %d", step.address, got, h.count(), step.refused, step.asked)
			}
			if got := log.String(); step.log == "" && got != "" || !strings.Contains(got, step.log) {
				t.Errorf("%s: the log has %q, want %q", step.address, got, step.log)
			}
			time.Sleep(step.wait)
		}
	})
}

// TestOnceAtATime: many clients that want to know the same thing are one question.
func TestOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: time.Second}
		v := New(Options{Asker: h})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if !ask(t, v, client, "nobody@far.test") {
					t.Error("it was let in")
				}
			})
		}
		all.Wait()
		if h.count() != 1 {
			t.Errorf("%d questions", h.count())
		}
	})
}

// TestFewAtOnce: no domain is asked many things at once, and whoever has to wait too long gets in.
func TestFewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: 3 * time.Second}
		v := New(Options{Asker: h})
		start := time.Now()
		var all sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for i := range 40 {
			all.Go(func() {
				if ask(t, v, netip.Addr{}, fmt.Sprintf("nobody%d@far.test", i)) {
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took > Time {
			t.Errorf("it took %s", took)
		}
		if h.most != maxPerDomain || refused != 3*maxPerDomain {
			t.Errorf("%d at once, %d refused; want %d and %d", h.most, refused, maxPerDomain, 3*maxPerDomain)
		}
		h.takes, h.most = time.Second, 0
		time.Sleep(time.Minute)
		for i := range 20 * maxPerDomain {
			all.Go(func() { ask(t, v, netip.Addr{}, fmt.Sprintf("alice@%d.test", i)) })
		}
		all.Wait()
		if h.most != maxAtOnce {
			t.Errorf("%d at once, want %d", h.most, maxAtOnce)
		}
		if len(v.flights) != 0 || len(v.turns) != 0 {
			t.Errorf("%d questions and %d turns are left over", len(v.flights), len(v.turns))
		}
	})
}

// TestBudget: a client cannot have a next hop asked about one address after the other; others are not concerned.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, log := &hop{}, &bytes.Buffer{}
		v := New(Options{Asker: h, Logger: slog.New(slog.NewTextHandler(log, nil))})
		for i := range 3 * burst {
			if got := ask(t, v, client, fmt.Sprintf("nobody%d@far.test", i)); got != (i < burst) {
				t.Fatalf("question %d: refused %v", i, got)
			}
		}
		if h.count() != burst || strings.Count(log.String(), "action=accept") != 1 {
			t.Errorf("%d questions, and the log has\n%s", h.count(), log)
		}
		if !ask(t, v, client, "nobody0@far.test") {
			t.Error("what is known is not said")
		}
		if !ask(t, v, client.Next(), "nobody77777@far.test") {
			t.Error("another client has no budget")
		}
		time.Sleep(10 * refill)
		for i := range 20 {
			ask(t, v, client, fmt.Sprintf("nobody.again%d@far.test", i))
		}
		if h.count() != burst+1+10 {
			t.Errorf("%d questions after ten seconds", h.count())
		}
		six := netip.MustParseAddr("2001:db8::1")
		for i := range 2 * burst {
			ask(t, v, six, fmt.Sprintf("six%d@far.test", i))
			six = six.Next()
		}
		if h.count() != 2*burst+1+10 {
			t.Errorf("a /64 has more than one budget: %d questions", h.count())
		}
	})
}

// TestBounds: whoever asks, memory does not grow without end.
func TestBounds(t *testing.T) {
	now := time.Now()
	answers := make(map[string]time.Time)
	for i := range 3 * maxAnswers {
		remember(answers, fmt.Sprint(i), now, time.Hour)
		if len(answers) > maxAnswers {
			t.Fatalf("%d answers", len(answers))
		}
	}
	remember(answers, "x", now.Add(2*time.Hour), time.Hour)
	if _, ok := answers["x"]; !ok {
		t.Error("the newest is not there")
	}
	var b budgets
	at := netip.MustParseAddr("10.0.0.0")
	for range 3 * maxClients {
		if ok, _ := b.spend(at, now); !ok || len(b.byClient) > maxClients {
			t.Fatalf("%v, %d clients", ok, len(b.byClient))
		}
		at = at.Next()
	}
}

// TestPanicLeavesNothing: a bug in the client is the session's, and the next one can ask.
func TestPanicLeavesNothing(t *testing.T) {
	v := New(Options{Asker: &hop{}})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		ask(t, v, client, "broken@far.test")
	}()
	if !ask(t, v, client, "nobody@far.test") || len(v.flights) != 0 || len(v.turns) != 0 || len(v.domains["far.test"].turns) != 0 {
		t.Errorf("something is left: %+v", v)
	}
}
