package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicemail/sluice/sdk/wire"
)

// wiredChecks are about what a plugin need not have: direct lanes, and a shared connection. Whoever names the socket of one
// keeps the same promises there.
func wiredChecks() []check {
	return []check{
		{
			name: "direct lane", section: "3, direct lanes",
			sent: "a connection to lane_socket, and an ordinary question", expected: "an empty frame at once, and the answer that the question has on a lane of gRPC",
			skip: laneSocket, do: checkDirect,
		},
		{
			name: "cancel on a direct lane", section: "3, direct lanes",
			sent: "half a question on one direct lane, a whole one on another, and then Cancel", expected: "an answer to the whole one, and one to the other within one second of Cancel",
			skip: laneSocket, do: checkDirectCancel,
		},
		{
			name: "shared connection", section: "3, shared connections",
			sent: "a connection to shared_socket, and an ordinary question", expected: "an empty frame at once, and the answer that the question has on a lane of gRPC",
			skip: sharedSocket, do: checkShared,
		},
		{
			name: "many on the shared connection", section: "3, shared connections",
			sent: "as many questions at once as there are lanes, 20 times", expected: "an answer to each in time",
			skip: sharedSocket, do: checkBeside,
		},
		{
			name: "cancel on the shared connection", section: "3, shared connections",
			sent: "questions and their Cancels at once, and Cancels of ids that are not in use", expected: "one answer to each question within one second, and one to the next question",
			skip: sharedSocket, do: checkSharedCancel,
		},
		{
			name: "another shared connection", section: "3, shared connections",
			sent: "the end of the connection with questions on it, and another one", expected: "that it is served within 5 s",
			skip: sharedSocket, do: checkSharedAgain,
		},
	}
}

func laneSocket(r *run) string {
	return unless(r.manifest.GetLaneSocket() != "", "it names no lane_socket, and need not")
}

func sharedSocket(r *run) string {
	if r.manifest.GetSharedSocket() == "" {
		return "it names no shared_socket, and need not"
	}
	return unless(r.sharedPhase() != 0, "it is asked nothing that goes over a shared connection")
}

// sharedPhase is a phase whose questions go over a shared connection: not with a parse, and not events.
func (r *run) sharedPhase() wire.Phase {
	phase := r.anyPhase()
	if r.manifest.GetParsed() && phase >= wire.Phase_PHASE_CONTENT {
		phase = 0
		for _, p := range r.manifest.GetPhases() {
			if _, ok := wire.Phase_name[int32(p)]; ok && p < wire.Phase_PHASE_CONTENT {
				phase = p
			}
		}
	}
	if phase == wire.Phase_PHASE_EVENT {
		return 0
	}
	return phase
}

func alike(a, b *wire.Verdict) bool { return proto.Equal(a, b) }

// direct opens a direct lane.
func (r *run) direct(ctx context.Context) (*wired, *wire.HostEnd, error) {
	var end *wire.HostEnd
	w, err := r.wire(ctx, (*wire.DescribeResponse).GetLaneSocket, func(c net.Conn) hostEnd {
		end = wire.NewHostEnd(c)
		return end
	})
	return w, end, err
}

// shared opens a shared connection.
func (r *run) shared(ctx context.Context) (*wired, *wire.HostShare, error) {
	var end *wire.HostShare
	w, err := r.wire(ctx, (*wire.DescribeResponse).GetSharedSocket, func(c net.Conn) hostEnd {
		end = wire.NewHostShare(c, r.lanes)
		return end
	})
	return w, end, err
}

// sendDirect sends a question on a direct lane, up to its End, or half of it.
func (w *wired) sendDirect(end *wire.HostEnd, id uint64, phase wire.Phase, m *message, half bool) error {
	frames := []*wire.HostFrame{{Frame: &wire.HostFrame_Ask{Ask: w.note(id, phase, m)}}}
	if octets := w.r.octetsOf(phase, m); len(octets) > 0 {
		if half {
			octets = octets[:len(octets)/2]
		}
		frames = append(frames, &wire.HostFrame{Frame: &wire.HostFrame_Chunk{Chunk: &wire.Chunk{Id: id, Data: octets}}})
	}
	if !half && phase >= wire.Phase_PHASE_CONTENT && w.r.manifest.GetParsed() {
		frames = append(frames, &wire.HostFrame{Frame: &wire.HostFrame_Parsed{Parsed: m.parsed(id)}})
	}
	if !half {
		frames = append(frames, &wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: id}}})
	}
	for _, f := range frames {
		if err := end.Send(f); err != nil {
			return fmt.Errorf("send on the direct lane: %w", err)
		}
	}
	return end.Flush()
}

// sendShared sends a question on the shared connection.
func (w *wired) sendShared(end *wire.HostShare, id uint64) error {
	phase := w.r.sharedPhase()
	octets := w.r.octetsOf(phase, ordinary())
	if err := end.Ask(w.note(id, phase, ordinary()), bytes.NewReader(octets), len(octets)); err != nil {
		return fmt.Errorf("send on the shared connection: %w", err)
	}
	return nil
}

func checkDirect(ctx context.Context, r *run) (string, error) {
	phase, m := r.anyPhase(), ordinary()
	usual, err := r.usual(ctx, phase, m)
	if err != nil {
		return "", err
	}
	w, end, err := r.direct(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	for id := range uint64(3) {
		if err := w.sendDirect(end, id+1, phase, m, false); err != nil {
			return "", err
		}
		a, err := w.wait(ctx, id+1, r.timeout)
		if err == nil && id == 0 {
			err = same(a, usual)
		}
		if err != nil {
			return "", err
		}
	}
	return "", nil
}

func checkDirectCancel(ctx context.Context, r *run) (string, error) {
	r.resetAll() // what is idle has places
	phase, m := r.anyPhase(), ordinary()
	hanging, end, err := r.direct(ctx)
	if err != nil {
		return "", err
	}
	defer hanging.close()
	if err := hanging.sendDirect(end, 1, phase, m, true); err != nil {
		return "", err
	}
	if r.lanes > 1 {
		other, otherEnd, err := r.direct(ctx)
		if err != nil {
			return "", fmt.Errorf("a second direct lane: %w", err)
		}
		defer other.close()
		if err := other.sendDirect(otherEnd, 1, phase, m, false); err != nil {
			return "", err
		}
		if _, err := other.wait(ctx, 1, r.timeout); err != nil {
			return "", fmt.Errorf("beside a question of which only half has come: %w", err)
		}
	}
	begin := time.Now()
	if err := end.Send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: 1}}}); err != nil {
		return "", fmt.Errorf("send Cancel: %w", err)
	}
	if _, err := hanging.wait(ctx, 1, grace+patience); err != nil {
		return "", fmt.Errorf("after Cancel: %w", err)
	}
	if err := end.Send(&wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: 1}}}); err != nil {
		return "", fmt.Errorf("send End: %w", err)
	}
	if err := hanging.sendDirect(end, 2, phase, m, false); err != nil {
		return "", err
	}
	if _, err := hanging.wait(ctx, 2, r.timeout); err != nil {
		return "", fmt.Errorf("of the next question on the lane: %w", err)
	}
	return fmt.Sprintf("in %s", time.Since(begin).Round(100*time.Microsecond)), nil
}

func checkShared(ctx context.Context, r *run) (string, error) {
	usual, err := r.usual(ctx, r.sharedPhase(), ordinary())
	if err != nil {
		return "", err
	}
	w, end, err := r.shared(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	if err := w.sendShared(end, 1); err != nil {
		return "", err
	}
	a, err := w.wait(ctx, 1, r.timeout)
	if err != nil {
		return "", err
	}
	return "", same(a, usual)
}

// idOn is the id of a question as the server makes it.
func idOn(lane, count int) uint64 { return uint64(lane)<<32 | uint64(count) }

func checkBeside(ctx context.Context, r *run) (string, error) {
	w, end, err := r.shared(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	for round := range 20 {
		for lane := range r.lanes {
			if err := w.sendShared(end, idOn(lane, round+1)); err != nil {
				return "", err
			}
		}
		for lane := range r.lanes {
			if _, err := w.wait(ctx, idOn(lane, round+1), r.timeout); err != nil {
				return "", fmt.Errorf("question %d of %d that were sent at once: %w", lane+1, r.lanes, err)
			}
		}
	}
	return fmt.Sprintf("%d questions", 20*r.lanes), nil
}

func checkSharedCancel(ctx context.Context, r *run) (string, error) {
	w, end, err := r.shared(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	for round := range 5 {
		for lane := range r.lanes {
			id := idOn(lane, round+1)
			if err := w.sendShared(end, id); err != nil {
				return "", err
			}
			for _, id := range []uint64{id, id + 1, 1 << 62} {
				if err := end.Cancel(id); err != nil {
					return "", fmt.Errorf("send Cancel: %w", err)
				}
			}
		}
		for lane := range r.lanes {
			if _, err := w.wait(ctx, idOn(lane, round+1), grace+patience); err != nil {
				return "", fmt.Errorf("after Cancel: %w", err)
			}
		}
	}
	if err := w.sendShared(end, idOn(0, 6)); err != nil {
		return "", err
	}
	if _, err := w.wait(ctx, idOn(0, 6), r.timeout); err != nil {
		return "", fmt.Errorf("of the next question: %w", err)
	}
	return "", nil
}

func checkSharedAgain(ctx context.Context, r *run) (string, error) {
	for range 3 {
		w, end, err := r.shared(ctx)
		if err != nil {
			return "", err
		}
		for lane := range r.lanes {
			if err := w.sendShared(end, idOn(lane, 1)); err != nil {
				w.close()
				return "", err
			}
		}
		w.close()
	}
	w, end, err := r.shared(ctx)
	if err != nil {
		return "", err
	}
	defer w.close()
	if err := w.sendShared(end, 1); err != nil {
		return "", err
	}
	_, err = w.wait(ctx, 1, r.timeout)
	return "", err
}
