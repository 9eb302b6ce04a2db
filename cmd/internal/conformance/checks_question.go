package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk/wire"
)

// questionChecks ask what a server would ask, in every phase that the plugin announces.
func questionChecks() []check {
	list := []check{{
		name: "lane headers", section: "3, rule 1",
		sent: "a new lane", expected: "response headers at once, before the first question",
		do: func(ctx context.Context, r *run) (string, error) {
			l, err := r.open(ctx)
			if err != nil {
				r.headless = true // the others do without
				return "", err
			}
			l.close()
			return "", nil
		},
	}}
	for _, phase := range []wire.Phase{
		wire.Phase_PHASE_CONNECT, wire.Phase_PHASE_SENDER, wire.Phase_PHASE_RECIPIENT, wire.Phase_PHASE_CONTENT, wire.Phase_PHASE_ROUTE,
	} {
		list = append(list, check{
			name: "phase " + phaseWord(phase), section: "4",
			sent: "a question in " + phase.String(), expected: "an answer in time",
			skip: announces(phase),
			do:   func(ctx context.Context, r *run) (string, error) { return r.askOnce(ctx, phase, ordinary(), nil) },
		})
	}
	list = append(list, check{
		name: "events", section: "4",
		sent: "each kind of event that the manifest lists, on the lane for events", expected: "an answer to each in time",
		skip: func(r *run) string { return unless(len(r.manifest.GetEvents()) > 0, "it wants none") },
		do:   checkEvents,
	})
	for i, m := range strange(false) {
		list = append(list, check{
			name: or(m.name, m.what), section: "4", sent: m.what, expected: "an answer in time, and a plugin that lives",
			skip: content,
			do: func(ctx context.Context, r *run) (string, error) {
				m := strange(r.Quick)[i]
				note, err := r.askOnce(ctx, r.contentPhase(), m, nil)
				if err != nil {
					err = &seenError{sent: m.what, seen: err.Error()}
				}
				return note, err
			},
		})
	}
	return append(list, loadChecks()...)
}

// loadChecks are about much at a time.
func loadChecks() []check {
	return []check{
		{
			name: "10,000 recipients", section: "3, flow control",
			sent: "a question with 10,000 recipients (800 KB of envelope)", expected: "an answer in time",
			skip: content,
			do: func(ctx context.Context, r *run) (string, error) {
				m := ordinary()
				m.recipients = 10000
				return r.askOnce(ctx, r.contentPhase(), m, nil)
			},
		},
		{
			name: "large messages on every lane", section: "3, rule 3", limit: 45 * time.Second,
			sent: "a message of 50 MB on every lane at once, and an ordinary one on each lane after it", expected: "answers in time, early or after the end, and lanes that go on",
			skip: content, do: checkLarge,
		},
		{
			name: "all lanes at once", section: "3",
			sent: "20 ordinary questions on each lane, all lanes at the same time, and events beside them", expected: "an answer to each in time",
			do: checkLoad,
		},
		{
			name: "health", section: "1",
			sent: "grpc.health.v1.Health/Check every 100 ms while all lanes are busy", expected: "any answer within 2 s",
			skip: content, do: checkHealth,
		},
		alikeCheck(),
	}
}

// contentPhase is the phase in which the plugin is sent octets: content, or route.
func (r *run) contentPhase() wire.Phase {
	if slices.Contains(r.manifest.GetPhases(), wire.Phase_PHASE_CONTENT) {
		return wire.Phase_PHASE_CONTENT
	}
	if slices.Contains(r.manifest.GetPhases(), wire.Phase_PHASE_ROUTE) {
		return wire.Phase_PHASE_ROUTE
	}
	return 0
}

// anyPhase is a phase that the plugin is asked in.
func (r *run) anyPhase() wire.Phase {
	if p := r.contentPhase(); p != 0 {
		return p
	}
	for _, p := range r.manifest.GetPhases() {
		if _, ok := wire.Phase_name[int32(p)]; ok && p != 0 {
			return p
		}
	}
	return wire.Phase_PHASE_EVENT
}

func content(r *run) string { return unless(r.contentPhase() != 0, "it is asked about no content") }

func announces(p wire.Phase) func(*run) string {
	return func(r *run) string {
		return unless(slices.Contains(r.manifest.GetPhases(), p), "it takes no part in it")
	}
}

func unless(ok bool, why string) string {
	if ok {
		return ""
	}
	return why
}

// askOnce asks on a lane of its own.
func (r *run) askOnce(ctx context.Context, phase wire.Phase, m *message, event *wire.Event) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	a, err := l.ask(ctx, phase, m, event)
	if err != nil {
		return "", err
	}
	return a.note(), nil
}

// note says what an answer was.
func (a *answer) note() string {
	if a.verdict == nil {
		return "answered with the error: " + a.err
	}
	word := strings.ToLower(strings.TrimPrefix(a.verdict.GetAction().String(), "ACTION_"))
	if s := a.verdict.GetScore(); s != 0 {
		word += fmt.Sprintf(", score %.4g", s)
	}
	return word
}

func checkEvents(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	m := ordinary()
	for _, kind := range r.manifest.GetEvents() {
		e := &wire.Event{
			Kind: kind, AtUnixNano: time.Now().UnixNano(), Recipient: "alice@example.test", Account: "alice@example.test", Text: "250 2.0.0 it is there",
		}
		if kind == wire.EventKind_EVENT_KIND_COMMAND {
			e.Words = []string{"sluice-check"}
		}
		if _, err := l.ask(ctx, wire.Phase_PHASE_EVENT, m, e); err != nil {
			return "", &seenError{sent: "the event " + kind.String(), seen: err.Error()}
		}
	}
	return fmt.Sprintf("%d kinds", len(r.manifest.GetEvents())), nil
}

// together calls do for every lane at once and returns the first error.
func (r *run) together(ctx context.Context, do func(l *lane) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, r.lanes)
	var wg sync.WaitGroup
	for i := range r.lanes {
		l, err := r.open(ctx)
		if err != nil {
			cancel()
			wg.Wait()
			return fmt.Errorf("lane %d of %d: %w", i+1, r.lanes, err)
		}
		defer l.close()
		wg.Go(func() { errs[i] = do(l) })
	}
	wg.Wait()
	return errors.Join(firstOf(errs))
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkLarge(ctx context.Context, r *run) (string, error) {
	size := int64(50 << 20)
	if r.Quick {
		size = 4 << 20
	}
	begin := time.Now()
	var early sync.Map
	err := r.together(ctx, func(l *lane) error {
		sent := time.Now()
		a, err := l.ask(ctx, r.contentPhase(), large(size), nil)
		if err != nil {
			return &seenError{sent: fmt.Sprintf("%d MB on each of %d lanes", size>>20, r.lanes), seen: err.Error()}
		}
		early.Store(l, a.at.Sub(sent))
		if _, err := l.ask(ctx, r.contentPhase(), ordinary(), nil); err != nil {
			return &seenError{sent: fmt.Sprintf("an ordinary message after %d MB on the same lane", size>>20), seen: err.Error()}
		}
		return nil
	})
	took := time.Since(begin)
	return fmt.Sprintf("%d times %d MB in %s", r.lanes, size>>20, took.Round(10*time.Millisecond)), err
}

const rounds = 20

func checkLoad(ctx context.Context, r *run) (string, error) {
	events := make(chan error, 1)
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	if len(r.manifest.GetEvents()) == 0 {
		l.close()
		events <- nil
	} else {
		go func() {
			defer l.close()
			for range rounds {
				if _, err := l.ask(ctx, wire.Phase_PHASE_EVENT, ordinary(), r.eventFor(wire.Phase_PHASE_EVENT)); err != nil {
					events <- fmt.Errorf("an event, with %d lanes busy: %w", r.lanes, err)
					return
				}
			}
			events <- nil
		}()
	}
	begin, phase := time.Now(), r.anyPhase()
	if phase == wire.Phase_PHASE_EVENT {
		return "events alone", <-events
	}
	err = r.together(ctx, func(l *lane) error {
		m := ordinary()
		for i := range rounds {
			if _, err := l.ask(ctx, phase, m, nil); err != nil {
				return fmt.Errorf("question %d of a lane, with %d lanes busy: %w", i+1, r.lanes, err)
			}
		}
		return nil
	})
	if err == nil {
		err = <-events
	}
	n := float64(r.lanes * rounds)
	return fmt.Sprintf("%.0f questions/s", n/time.Since(begin).Seconds()), err
}

func checkHealth(ctx context.Context, r *run) (string, error) {
	stop, worst := make(chan struct{}), make(chan error, 1)
	var slowest time.Duration
	go func() {
		defer close(worst)
		client := grpc_health_v1.NewHealthClient(r.p.conn)
		for {
			limited, cancel := context.WithTimeout(ctx, 3*time.Second)
			begin := time.Now()
			_, err := client.Check(limited, &grpc_health_v1.HealthCheckRequest{Service: wire.ServiceName})
			cancel()
			slowest = max(slowest, time.Since(begin))
			code := status.Code(err)
			if slowest > 2*time.Second+patience || code == codes.DeadlineExceeded || code == codes.Unavailable {
				worst <- fmt.Errorf("no answer within %s %s", slowest.Round(time.Millisecond), printable(status.Convert(err).Message(), 200))
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	_ = r.together(ctx, func(l *lane) error { // whether these are answered is another check's affair
		_, err := l.ask(ctx, r.contentPhase(), large(8<<20), nil)
		return err
	})
	close(stop)
	err := <-worst
	return fmt.Sprintf("%s at most", slowest.Round(100*time.Microsecond)), err
}
