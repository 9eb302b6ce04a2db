package pluginhost

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/sluicemail/sluice/sdk/wire"
)

// link is a shared connection (sdk/wire, HostShare): it carries the small questions of all lanes of a process.
type link struct {
	*wire.HostShare
	p    *process
	over atomic.Bool // its reader has told the lanes that it ended, or is about to
}

// errOver says that a link had ended before a question was put on it.
var errOver = errors.New("the connection for small questions has ended")

// links is the shared connection of a process, and the next one when that has ended.
type links struct {
	socket string // or "": the plugin has none

	mu   sync.Mutex
	open *link
}

// idOf is the id of a question on a link: the number of its lane, and the lane's count.
func idOf(lane int, count uint32) uint64 { return uint64(lane)<<32 | uint64(count) }

// current returns the link that is open, or nil.
func (s *links) current() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// link returns the link, which is made if there is none; nil: there can be none, and each lane has a stream.
func (p *process) link() *link {
	s := &p.links
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil || s.socket == "" {
		return s.open
	}
	ctx, reset := context.WithCancel(p.ctx)
	conn, err := dialOwn(ctx, s.socket)
	if err != nil {
		reset()
		if errors.Is(err, fs.ErrNotExist) && !p.runner.isReaped() {
			s.socket = ""
			p.log.Warn("the plugin's socket for small questions was removed: they are slower until it is started again", "why", err)
		}
		return nil
	}
	conn = wire.Quick(conn)
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	s.open = &link{HostShare: wire.NewHostShare(conn, p.lanes), p: p}
	p.gone.Add(1)
	go s.open.read(reset)
	return s.open
}

// read takes frames until the connection ends. Answers that nobody waits for are dropped.
func (k *link) read(reset context.CancelFunc) {
	defer k.p.gone.Done()
	defer reset()
	err := k.Begin()
	for err == nil {
		var f *wire.PluginFrame
		if f, err = k.Recv(); err != nil {
			break
		}
		k.p.moves.Add(1)
		switch x := f.GetFrame().(type) {
		case *wire.PluginFrame_Answer:
			if l := k.lane(x.Answer.GetId()); l != nil {
				l.deliver(k, x.Answer.GetId(), result{answer: x.Answer})
			}
		case *wire.PluginFrame_Body:
			if l := k.lane(x.Body.GetId()); l != nil {
				l.take(k, x.Body)
			}
		}
	}
	k.over.Store(true) // before any lane is told: who puts a question later sees it
	k.p.links.mu.Lock()
	if k.p.links.open == k {
		k.p.links.open = nil
	}
	k.p.links.mu.Unlock()
	for _, l := range k.p.all {
		l.deliver(k, 0, result{err: err})
	}
}

// lane returns the lane of a question.
func (k *link) lane(id uint64) *lane {
	if i := id >> 32; i < uint64(len(k.p.all)) {
		return k.p.all[i]
	}
	return nil
}
