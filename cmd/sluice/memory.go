package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// Soft limits of what the Go runtime holds. The server's leaves room for 10,000
// idle sessions, which take 105 MB when they rest, and their mail: with two plugins
// 300 MB, if pages that the processes share count for each. What is above is garbage
// that need not be collected yet. With 160 MB the server took a twentieth more of the
// processor under full load beside these sessions, with 224 nothing less.
// Plugins of this program read messages as they go by and keep nothing: what is
// above their limit is garbage, or frames of a large message that wait. With 12 MB
// they took a third more of the processor, with 24 a tenth less.
const (
	serverMemory = 176 << 20
	pluginMemory = 16 << 20
)

// tuneMemory lets the garbage collector run less often while the heap is small:
// most of a mail server's garbage is short-lived, and Go's default would collect
// it hundreds of times a second. Near the soft limit it runs more often, but never
// all the time: for what is really in use there is always half as much again. Who
// sets GOGC or GOMEMLIMIT decides instead.
var tuneMemory = sync.OnceFunc(func() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(400)
		keepHeadroom(serverMemory, func() bool { return true })
	}
})

// tunePluginMemory is for a plugin of this program, whose GOGC is sdk/serve's.
func tunePluginMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		keepHeadroom(pluginMemory, func() bool { return true })
	}
}

// keepHeadroom sets the soft limit, and again after each collection while on says
// so. It takes no goroutine: an object that nobody holds is found by each collection.
func keepHeadroom(soft int64, on func() bool) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	limit := soft
	debug.SetMemoryLimit(limit)
	var watch func()
	watch = func() {
		runtime.AddCleanup(new([64]byte), func(int) {
			if !on() {
				return
			}
			metrics.Read(samples)
			live := int64(samples[0].Value.Uint64())
			beside := int64(samples[1].Value.Uint64())
			for _, s := range samples[2:] {
				beside -= int64(s.Value.Uint64())
			}
			if want := memoryLimit(soft, live, beside); want != limit {
				limit = want
				debug.SetMemoryLimit(limit)
			}
			watch()
		}, 0)
	}
	watch()
}

// memoryLimit returns the limit for a heap of which live is in use, and what Go
// holds beside it: stacks, gaps, its own tables. Above soft it goes in steps,
// since a change stops the world for a moment.
func memoryLimit(soft, live, beside int64) int64 {
	const step = 16 << 20
	need := beside + live + live/2
	if need <= soft {
		return soft
	}
	return (need + step - 1) / step * step
}
