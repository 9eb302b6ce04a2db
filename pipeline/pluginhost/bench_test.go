package pluginhost

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicemail/sluice/sdk/wire"
)

// cpuOf returns the processor time of a process so far, from /proc/PID/stat (10 ms steps).
func cpuOf(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkLanes keeps all lanes of a real process busy and reports the processor time of both
// sides together.
func benchmarkLanes(b *testing.B, builtin string, lanes, size int) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the server has it (cmd/sluice/memory.go)
	h := newHarness(b, builtin, func(c *Config, _ *Options) { c.Lanes = lanes })
	h.ready(b)
	q := messageOf(lines(size))
	b.SetBytes(int64(size))
	measure(b, h, lanes, func() error {
		_, _, err := h.Ask(context.Background(), q)
		return err
	})
}

func lines(size int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab\r\n"), size/62+1)[:size]
}

func measure(b *testing.B, h *harness, lanes int, ask func() error) {
	pid := h.host.States()[0].PID
	var next atomic.Int64
	var askers sync.WaitGroup
	own, its := ownCPU(), cpuOf(b, pid)
	b.ResetTimer()
	for range lanes {
		askers.Add(1)
		go func() {
			defer askers.Done()
			for next.Add(1) <= int64(b.N) {
				if err := ask(); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	askers.Wait()
	b.StopTimer()
	own, its = ownCPU()-own, cpuOf(b, pid)-its
	b.ReportMetric(float64(own.Microseconds())/float64(b.N), "host-cpu-us/op")
	b.ReportMetric(float64((own+its).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkUnary32x4K is what a call for each question would cost: no deadline, no copy of the content, no
// check of the answer.
func BenchmarkUnary32x4K(b *testing.B) {
	h := newHarness(b, "raw-twice", nil)
	h.ready(b)
	proc, err := h.current(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	envelope, err := proto.Marshal(wire.ToEnvelope(&message("").Envelope))
	if err != nil {
		b.Fatal(err)
	}
	data := append(envelope, lines(4<<10)...)
	b.SetBytes(4 << 10)
	measure(b, h, 32, func() error {
		var a wire.Answer
		return proc.conn.Invoke(context.Background(), "/bench.Unary/Ask", &wire.Chunk{Id: 1, Data: data}, &a)
	})
}

func BenchmarkLane1x4K(b *testing.B)  { benchmarkLanes(b, "count", 1, 4<<10) }
func BenchmarkLane32x4K(b *testing.B) { benchmarkLanes(b, "count", 32, 4<<10) }
func BenchmarkLane32x0(b *testing.B)  { benchmarkLanes(b, "envelope", 32, 4<<10) }
func BenchmarkLane8x1M(b *testing.B)  { benchmarkLanes(b, "count", 8, 1<<20) }
func BenchmarkLane2x50M(b *testing.B) { benchmarkLanes(b, "count", 2, 50<<20) }

// BenchmarkTenNoOps asks ten plugins that do nothing about one 4 KiB message, all at once, as a stage does. It reports the median
// of the wall time.
func BenchmarkTenNoOps(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var plugins []*Plugin
	for range 10 {
		h := newHarness(b, "none", nil)
		h.ready(b)
		plugins = append(plugins, h.Plugin)
	}
	q := messageOf(lines(4 << 10))
	times := make([]time.Duration, 0, b.N)
	cpu := func() (d time.Duration) {
		for _, p := range plugins {
			d += cpuOf(b, p.describe().PID)
		}
		return d
	}
	own, its := ownCPU(), cpu()
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		begun := make([]*Begun, len(plugins))
		var stage sync.WaitGroup
		for i, p := range plugins {
			if begun[i] = p.Begin(context.Background(), q); begun[i] == nil {
				stage.Go(func() {
					if _, _, err := p.Ask(context.Background(), q); err != nil {
						b.Error(err)
					}
				})
			}
		}
		for _, one := range slices.Backward(begun) {
			if one == nil {
				continue
			}
			if _, _, err := one.Wait(); err != nil {
				b.Error(err)
			}
		}
		stage.Wait()
		times = append(times, time.Since(start))
	}
	b.StopTimer()
	slices.Sort(times)
	own, its = ownCPU()-own, cpu()-its
	b.ReportMetric(float64(own.Microseconds())/float64(b.N), "host-cpu-us/op")
	b.ReportMetric(float64((own+its).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
}
