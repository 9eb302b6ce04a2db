package pluginhost

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemail/sluice/sdk/wire"
)

// rawShared is one connection of a plugin that takes small questions over a shared one, and breaks the protocol in the way
// its name says. Verdicts from here have the score 1, those that nobody may get 13.
type rawShared struct {
	*wire.PluginShare
	name string
	conn net.Conn
	nth  int // of the connections on which a question came

	mu   sync.Mutex
	read int // questions
}

// listenShared makes the socket, and returns its path.
func listenShared(name string) string {
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "shared")
	l, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	if name == "full" { // nobody accepts, and there is room for one: the host's look at the socket has it
		raw, err := l.(*net.UnixListener).SyscallConn()
		if err != nil {
			panic(err)
		}
		_ = raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
		if err != nil {
			panic(err)
		}
		return path
	}
	go func() {
		for nth := 0; ; nth++ { // the first is the host's look at the socket
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s := &rawShared{PluginShare: wire.NewPluginShare(conn), name: name, conn: conn, nth: nth}
			go s.serve()
		}
	}()
	return path
}

func (s *rawShared) serve() {
	switch s.name {
	case "at-once":
		_ = s.conn.Close()
		return
	case "garbage":
		_, _ = s.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		_, _ = io.Copy(io.Discard, s.conn)
		return
	case "never-begins":
		_, _ = io.Copy(io.Discard, s.conn)
		return
	case "deaf":
		_ = s.Begin()
		s.hold()
	case "guesses": // what the host may ask next, without having read it
		_ = s.Begin()
		for {
			for count := range uint32(300) {
				if s.answer(idOf(0, count), 1) != nil || s.answer(idOf(1, count), 1) != nil {
					return
				}
			}
		}
	default:
		_ = s.Begin()
	}
	for {
		f, err := s.Recv()
		if err != nil {
			return
		}
		if c := f.GetChunk(); c != nil {
			s.question(c.GetId(), string(c.GetData()))
		}
		if c := f.GetCancel(); c != nil && s.name == "late" {
			time.AfterFunc(1300*time.Millisecond, func() { _ = s.answer(c.GetId(), 13) })
		}
	}
}

// hold does nothing any more, and keeps the connection from being collected and closed.
func (s *rawShared) hold() {
	for {
		time.Sleep(time.Hour)
		_ = s.conn.RemoteAddr()
	}
}

func (s *rawShared) answer(id uint64, score float64) error {
	return s.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: &wire.Answer{
		Id: id, Result: &wire.Answer_Verdict{Verdict: &wire.Verdict{Score: score}},
	}}})
}

func (s *rawShared) body(id uint64, text string) error {
	return s.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Body{Body: &wire.Body{Id: id, Data: []byte(text)}}})
}

// question is one that has come, but for its End.
func (s *rawShared) question(id uint64, text string) {
	s.mu.Lock()
	s.read++
	read := s.read
	s.mu.Unlock()
	marked := strings.HasPrefix(text, "marked")
	switch s.name {
	case "middle": // of all that there are at a time
		if s.nth > 1 {
			_ = s.answer(id, 1)
		} else if read == 8 {
			_ = s.conn.Close()
		}
	case "strays":
		for _, other := range []uint64{0, id - 1, id + 1, id + 1<<32, id ^ 1<<32, id + 100<<32, 1<<63 | id, 1<<64 - 1} {
			_ = s.answer(other, 13)
		}
		_ = s.answer(id, 1)
		_ = s.answer(id, 13)
	case "huge":
		_, _ = s.conn.Write(binary.BigEndian.AppendUint32(nil, 1<<20+1))
	case "foreign-body":
		for _, other := range []uint64{0, id - 1, id + 1, id ^ 1<<32, id + 100<<32} {
			_ = s.body(other, "not yours")
		}
		_ = s.answer(id, 1)
	case "endless-body":
		if marked {
			go func() {
				for s.body(id, strings.Repeat("x\r\n", 1000)) == nil {
				}
			}()
			return
		}
		_ = s.answer(id, 1)
	case "half":
		_, _ = s.conn.Write([]byte{0, 0, 0, 100, 1, 2, 3})
	case "late":
		if !marked {
			_ = s.answer(id, 1)
		}
	case "dies":
		switch {
		case strings.HasSuffix(os.Getenv("HOME"), ".cell"), read == 1:
			_ = s.answer(id, 1)
		case read == 1+32:
			os.Exit(9)
		}
	case "half-closed":
		if s.nth == 1 {
			_ = s.conn.(*net.UnixConn).CloseRead()
			s.hold()
		}
		_ = s.answer(id, 1)
	case "hangs-closes": // each question, and the connection, after the Cancel
		time.AfterFunc(400*time.Millisecond, func() { _ = s.conn.Close() })
	}
}
