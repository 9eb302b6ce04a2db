package conformance

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk/wire"
)

// listen makes the socket of a plugin whose name begins with "direct-" or "shared-", and returns its path.
func (p *rawPlugin) listen() string {
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "own")
	p.sockets.Do(func() {
		l, err := net.Listen("unix", path)
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go p.wired(conn)
			}
		}()
	})
	return path
}

// wiredEnd is what both ends of a plugin have.
type wiredEnd interface {
	Begin() error
	Recv() (*wire.HostFrame, error)
	Send(*wire.PluginFrame) error
}

// wired serves a direct lane, or a shared connection.
func (p *rawPlugin) wired(conn net.Conn) {
	defer conn.Close()
	var end wiredEnd = wire.NewPluginEnd(conn)
	if strings.HasPrefix(p.name, "shared-") {
		end = wire.NewPluginShare(conn)
	}
	open := p.open.Add(1)
	defer p.open.Add(-1)
	switch {
	case p.name == "direct-silent", p.name == "direct-one" && open > 1:
		_, _ = end.Recv()
		return
	case p.name == "shared-garbage":
		_, _ = conn.Write([]byte("220 mail.example.test ready\r\n"))
		return
	}
	_ = end.Begin()
	var mu sync.Mutex
	asked := make(map[uint64]bool)
	answer := func(id uint64, v *wire.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		if asked[id] || p.name == "shared-twice" {
			delete(asked, id)
			_ = end.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id, Result: &wire.Answer_Verdict{Verdict: v}}}})
		}
	}
	for {
		f, err := end.Recv()
		if err != nil {
			return
		}
		switch x := f.GetFrame().(type) {
		case *wire.HostFrame_Ask:
			mu.Lock()
			asked[x.Ask.GetId()] = true
			many := len(asked) > 1
			mu.Unlock()
			if many && p.name == "shared-one" {
				return
			}
		case *wire.HostFrame_Cancel:
			switch {
			case p.name == "shared-cancel":
				return
			case p.name == "shared-twice" && x.Cancel.GetId() != 1<<62 && x.Cancel.GetId()&1 == 1, p.name != "direct-cancel" && p.name != "shared-twice":
				answer(x.Cancel.GetId(), &wire.Verdict{})
			}
		case *wire.HostFrame_End:
			v := &wire.Verdict{}
			if strings.HasSuffix(p.name, "-other") {
				v.Score = 1
			}
			switch id := x.End.GetId(); p.name {
			case "shared-one":
				time.AfterFunc(20*time.Millisecond, func() { answer(id, v) })
			case "shared-id":
				answer(id, v)
				_ = end.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{Id: id + 1000}}})
			default:
				answer(id, v)
			}
		}
	}
}
