package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicemail/sluice/sdk/wire"
)

// laneChecks do to lanes what an honest host does rarely, or never.
func laneChecks() []check {
	return []check{
		{
			name: "cancel in the middle", section: "3, rule 5",
			sent: "Ask, half of the message, and Cancel", expected: "an answer (an error will do) within one second of Cancel",
			do: checkCancel,
		},
		{
			name: "cancel after the end", section: "3, rule 5",
			sent: "Ask, the message, End, and Cancel at once", expected: "one answer within one second, and an answer to the next question",
			do: checkCancelAfterEnd,
		},
		{
			name: "reading on after the answer", section: "3, rule 3", limit: 20 * time.Second,
			sent: "Ask, Cancel, 20 MB of the cancelled message, End, and another question", expected: "that all of it is read and thrown away, and an answer to the other question",
			skip: octetsWanted, do: checkReadingOn,
		},
		{
			name: "deadline in the past", section: "3, rule 5",
			sent: "a question whose deadline is a minute ago", expected: "an answer all the same, within one second of Cancel",
			do: checkPastDeadline,
		},
		{
			name: "frames of other questions", section: "3, rule 6",
			sent: "Chunk, End and Cancel of other ids in the middle of a question", expected: "that they are ignored: one answer, of the right id, after the right End",
			do: checkOtherFrames,
		},
		{
			name: "unknown frames and fields", section: "10",
			sent: "a frame and fields of a newer version", expected: "that they are ignored",
			do: checkUnknownFrames,
		},
		{
			name: "end of a lane", section: "3",
			sent: "the end of the stream after an answer", expected: "the end of the lane from the other side within 2 s",
			do: checkLaneEnd,
		},
		{
			name: "one lane too many", section: "3, rule 8",
			sent: "one lane more than Configure said", expected: "RESOURCE_EXHAUSTED, or no response headers, while the others are open",
			do: checkTooMany,
		},
		{
			name: "reset lanes come back", section: "3, rules 7 and 8",
			sent: "every lane reset in the middle of a question, and new ones in their place", expected: "headers and an answer on each new lane within 5 s",
			do: checkReset,
		},
	}
}

func octetsWanted(r *run) string {
	if why := content(r); why != "" {
		return why
	}
	return unless(r.manifest.GetWant() != wire.Want_WANT_NONE, "it wants no octets")
}

// half sends an Ask and a part of the message, without End.
func (l *lane) half(deadline time.Time) error {
	phase, m := l.r.anyPhase(), ordinary()
	if err := l.begin(phase, m, l.r.eventFor(phase), deadline); err != nil {
		return err
	}
	if phase >= wire.Phase_PHASE_CONTENT && l.r.manifest.GetWant() != wire.Want_WANT_NONE {
		return l.chunk(l.id, m.header[:40])
	}
	return nil
}

// eventFor is what a question in PHASE_EVENT is about.
func (r *run) eventFor(phase wire.Phase) *wire.Event {
	if phase != wire.Phase_PHASE_EVENT || len(r.manifest.GetEvents()) == 0 {
		return nil
	}
	return &wire.Event{Kind: r.manifest.GetEvents()[0], AtUnixNano: time.Now().UnixNano(), Recipient: "alice@example.test", Account: "alice@example.test"}
}

// another asks an ordinary question, to see that the lane goes on.
func (l *lane) another(ctx context.Context) error {
	phase := l.r.anyPhase()
	if _, err := l.ask(ctx, phase, ordinary(), l.r.eventFor(phase)); err != nil {
		return fmt.Errorf("of the next question on the lane: %w", err)
	}
	return nil
}

func (r *run) soon() time.Time { return time.Now().Add(r.timeout) }

func checkCancel(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.leave()
	if err := l.half(r.soon()); err != nil {
		return "", err
	}
	time.Sleep(50 * time.Millisecond)
	begin := time.Now()
	if err := l.cancel(l.id); err != nil {
		return "", err
	}
	a, err := l.wait(ctx, grace+patience)
	if err != nil {
		return "", fmt.Errorf("after Cancel: %w", err)
	}
	if took := a.at.Sub(begin); took > grace {
		return "", fmt.Errorf("the answer %s after Cancel", took.Round(time.Millisecond))
	}
	return fmt.Sprintf("answered after %s", max(0, a.at.Sub(begin)).Round(100*time.Microsecond)), nil
}

func checkCancelAfterEnd(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	phase := r.anyPhase()
	for range 5 {
		if err := l.begin(phase, ordinary(), r.eventFor(phase), r.soon()); err != nil {
			return "", err
		}
		if err := l.contents(phase, ordinary()); err != nil {
			return "", err
		}
		if err := l.cancel(l.id); err != nil {
			return "", err
		}
		if _, err := l.wait(ctx, grace+patience); err != nil {
			return "", err
		}
	}
	return "", l.another(ctx)
}

func checkReadingOn(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	stop := time.AfterFunc(8*time.Second, l.reset)
	defer stop.Stop()
	if err := l.half(r.soon()); err != nil {
		return "", err
	}
	if err := l.cancel(l.id); err != nil {
		return "", err
	}
	if _, err := l.wait(ctx, grace+patience); err != nil {
		return "not tried: no answer to Cancel", nil // which is another check's affair
	}
	begin := time.Now()
	data := make([]byte, wire.MaxChunk)
	for range 20 << 20 / wire.MaxChunk {
		if err := l.chunk(l.id, data); err != nil {
			if !stop.Stop() {
				return "", errors.New("it stopped reading: not all of it within 8 s")
			}
			return "", err
		}
	}
	if err := l.end(l.id); err != nil {
		return "", err
	}
	return fmt.Sprintf("in %s", time.Since(begin).Round(time.Millisecond)), l.another(ctx)
}

func checkPastDeadline(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	phase := r.anyPhase()
	if err := l.begin(phase, ordinary(), r.eventFor(phase), time.Now().Add(-time.Minute)); err != nil {
		return "", err
	}
	if err := l.contents(phase, ordinary()); err != nil {
		return "", err
	}
	if err := l.cancel(l.id); err != nil {
		return "", err
	}
	a, err := l.wait(ctx, grace+patience)
	if err != nil {
		return "", err
	}
	return a.note(), l.another(ctx)
}

// checkOtherFrames asks the same half question twice, once with frames of other questions in it: there must be no difference.
func checkOtherFrames(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	halfway := func(between func() error) (early bool, a *answer, err error) {
		if err := l.half(r.soon()); err != nil {
			return false, nil, err
		}
		if err := between(); err != nil {
			return false, nil, err
		}
		time.Sleep(200 * time.Millisecond)
		early = l.answered()
		if err := l.end(l.id); err != nil {
			return early, nil, err
		}
		a, err = l.wait(ctx, r.timeout)
		return early, a, err
	}
	usualEarly, usual, err := halfway(func() error { return nil })
	if err != nil {
		return "", err
	}
	early, a, err := halfway(func() error {
		var err error
		for _, id := range []uint64{l.id - 1, l.id + 1, 1 << 40, 0} {
			err = errors.Join(err, l.chunk(id, []byte("of another question\r\n")), l.end(id), l.cancel(id))
		}
		return err
	})
	switch {
	case err != nil:
		return "", err
	case early && !usualEarly:
		return "", fmt.Errorf("an answer (%s) before the End of the question", a.note())
	case usual.verdict != nil && a.verdict == nil:
		return "", fmt.Errorf("the error %q, where the same question without them had a verdict", a.err)
	}
	return "", l.another(ctx)
}

func checkUnknownFrames(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	defer l.close()
	strange := &wire.HostFrame{} // field 6 is kept for a frame that is to come
	var inner []byte
	inner = protowire.AppendTag(inner, 1, protowire.VarintType)
	inner = protowire.AppendVarint(inner, 1)
	var unknown []byte
	unknown = protowire.AppendTag(unknown, 6, protowire.BytesType)
	unknown = protowire.AppendBytes(unknown, inner)
	strange.ProtoReflect().SetUnknown(unknown)
	if err := l.send(strange); err != nil {
		return "", err
	}
	phase, m := r.anyPhase(), ordinary()
	if err := l.begin(phase, m, r.eventFor(phase), r.soon()); err != nil {
		return "", err
	}
	if err := l.send(strange); err != nil {
		return "", err
	}
	if err := l.contents(phase, m); err != nil {
		return "", err
	}
	a, err := l.wait(ctx, r.timeout)
	if err != nil {
		return "", err
	}
	return a.note(), l.another(ctx)
}

func checkLaneEnd(ctx context.Context, r *run) (string, error) {
	l, err := r.open(ctx)
	if err != nil {
		return "", err
	}
	if err := l.another(ctx); err != nil {
		return "", err
	}
	defer l.abort()
	if err := l.stream.CloseSend(); err != nil {
		return "", err
	}
	select {
	case <-l.ended:
		return "", nil
	case <-time.After(2*time.Second + patience):
		return "", errors.New("the lane is still open")
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// most is how many lanes the host may open: those of Configure, and one for events.
func (r *run) most() int {
	if len(r.manifest.GetEvents()) > 0 {
		return r.lanes + 1
	}
	return r.lanes
}

func checkTooMany(ctx context.Context, r *run) (string, error) {
	for i := range r.most() {
		l, err := r.open(ctx)
		if err != nil {
			return "", fmt.Errorf("lane %d of %d: %w", i+1, r.most(), err)
		}
		defer l.close()
	}
	extra, err := r.dial()
	if err != nil {
		return "", err
	}
	defer extra.abort()
	err = extra.served(ctx, 300*time.Millisecond)
	if err == nil {
		return "", fmt.Errorf("lane %d is served, of %d", r.most()+1, r.most())
	}
	select {
	case <-extra.ended:
		if code := status.Code(extra.err); code != codes.ResourceExhausted {
			return "", fmt.Errorf("lane %d is refused with %s: %s", r.most()+1, code, printable(status.Convert(extra.err).Message(), 200))
		}
		return "it is refused", nil
	default:
		return "it waits", nil
	}
}

func checkReset(ctx context.Context, r *run) (string, error) {
	for round := range 2 {
		lanes := make([]*lane, r.lanes)
		for i := range lanes {
			l, err := r.open(ctx)
			if err != nil {
				return "", fmt.Errorf("lane %d of %d in round %d: %w", i+1, r.lanes, round+1, err)
			}
			lanes[i] = l
			if err := l.half(r.soon()); err != nil {
				return "", err
			}
		}
		for _, l := range lanes {
			l.abort()
		}
		if r.headless { // there is no other sign that a lane came back
			time.Sleep(300 * time.Millisecond)
		}
	}
	for i := range r.lanes {
		l, err := r.open(ctx)
		if err == nil {
			defer l.close()
			err = l.another(ctx)
		}
		if err != nil {
			return "", fmt.Errorf("lane %d of %d after the resets: %w", i+1, r.lanes, err)
		}
	}
	return fmt.Sprintf("%d resets", 2*r.lanes), nil
}
