package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk/wire"
)

// endChecks are about the end of a process, and about what was seen all the time.
func endChecks() []check {
	return []check{
		{
			name: "restart after a crash", section: "2",
			sent: "SIGKILL, and a new process with the same state_dir", expected: "a start as before, and an answer",
			do: checkCrash,
		},
		{
			name: "shutdown", section: "1",
			sent: "plugin.GRPCController/Shutdown", expected: "the end within 2 s, or UNIMPLEMENTED",
			do: checkShutdown,
		},
		{
			name: "end of standard input", section: "1",
			sent: "the end of standard input, on which nothing was ever written", expected: "the end of the process within 2 s: the host is gone",
			do: checkStdin,
		},
		{
			name: "memory", section: "9", skip: startable, process: none, after: true,
			sent: "everything above", expected: "to need no more than `memory` in its table",
			do: checkMemory,
		},
		observed(checkOnce, "3, rules 2 and 6", "exactly one answer, with the question's id"),
		observed(checkVerdict, "5 and 11", "verdicts within the contract, every number known and every limit kept"),
		observed(checkChanges, "2 and 5", "no kind of change that the manifest does not list"),
	}
}

// observed is a check that the observer has made all the time.
func observed(name, section, expected string) check {
	return check{
		name: name, section: section, sent: "all questions", expected: expected, process: none, skip: startable, after: true,
		do: func(_ context.Context, r *run) (string, error) {
			r.seen.mu.Lock()
			defer r.seen.mu.Unlock()
			if text, ok := r.seen.faults[name]; ok {
				return "", errors.New(text)
			}
			return fmt.Sprintf("%d answers", r.seen.answers), nil
		},
	}
}

func checkCrash(ctx context.Context, r *run) (string, error) {
	r.p.end()
	begin := time.Now()
	if err := r.ready(ctx); err != nil {
		return "", err
	}
	took := time.Since(begin)
	phase := r.anyPhase()
	if _, err := r.askOnce(ctx, phase, ordinary(), r.eventFor(phase)); err != nil {
		return "", err
	}
	return fmt.Sprintf("ready after %d ms", took.Milliseconds()), nil
}

func checkShutdown(ctx context.Context, r *run) (string, error) {
	p := r.p
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	begin := time.Now()
	err := p.conn.Invoke(limited, wire.ShutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) == codes.Unimplemented {
		return "not served; it will be killed", nil
	}
	p.fit = false
	if !p.waitExit(2*time.Second + patience - time.Since(begin)) {
		return "", fmt.Errorf("it runs on after 2 s (the call said: %s)", printable(fmt.Sprint(err), 100))
	}
	return fmt.Sprintf("after %s, %s", time.Since(begin).Round(time.Millisecond), p.cmd.ProcessState), nil
}

func checkStdin(_ context.Context, r *run) (string, error) {
	p := r.p
	p.fit = false
	begin := time.Now()
	if err := p.stdin.Close(); err != nil {
		return "", err
	}
	if !p.waitExit(2*time.Second + patience) {
		return "", errors.New("it runs on after 2 s")
	}
	return fmt.Sprintf("after %s", time.Since(begin).Round(time.Millisecond)), nil
}

func checkMemory(_ context.Context, r *run) (string, error) {
	limit := int64(r.Plugin.Memory)
	if limit > 0 && r.peak > limit {
		return "", fmt.Errorf("%s resident at its peak, with memory = %q", units.Size(r.peak), r.Plugin.Memory.String())
	}
	return fmt.Sprintf("%d MB at its peak, of %s", r.peak>>20, r.Plugin.Memory), nil
}
