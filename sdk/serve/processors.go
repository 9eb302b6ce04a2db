package serve

import (
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// processors keeps the process on one processor as long as that is enough. A filter mostly waits, and is woken for
// some ten microseconds of work: with several processors Go wakes a second thread each time to look
// for more, which costs as much as the work, and as many threads as there are plugins
// contend. When the process uses most of one, it gets all; when it has needed little for a
// while, one again. The environment's GOMAXPROCS is respected.
type processors struct {
	used  func() time.Duration // processor time of the process so far
	one   func()
	all   func()
	many  atomic.Bool
	last  time.Duration
	since time.Time
	quiet int // looks in a row at which one would have been enough
}

// newProcessors returns nil where there is nothing to decide.
func newProcessors() *processors {
	if os.Getenv("GOMAXPROCS") != "" || runtime.GOMAXPROCS(0) == 1 {
		return nil
	}
	p := &processors{used: usedTime, one: func() { runtime.GOMAXPROCS(1) }, all: runtime.SetDefaultGOMAXPROCS}
	p.one()
	return p
}

// What part of one processor is much, and what is little.
const (
	muchTime   = 0.7
	littleTime = 0.3
)

// quietLooks is how many quiet looks take the processors back: a second's.
const quietLooks = 50

// look is called every patience while there are questions.
func (p *processors) look(now time.Time) {
	if p == nil {
		return
	}
	used := p.used()
	share := float64(used-p.last) / float64(now.Sub(p.since))
	fresh := p.since.IsZero() || now.Sub(p.since) > 10*patience // what was before says nothing about now
	p.last, p.since = used, now
	switch {
	case fresh:
	case !p.many.Load() && share > muchTime:
		p.many.Store(true)
		p.quiet = 0
		p.all()
	case share > littleTime:
		p.quiet = 0
	case p.many.Load():
		if p.quiet++; p.quiet >= quietLooks {
			p.many.Store(false)
			p.one()
		}
	}
}

// single reports whether the process keeps to one processor.
func (p *processors) single() bool { return p != nil && !p.many.Load() }

func usedTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
