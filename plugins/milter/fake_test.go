package milter

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/sdk"
)

// fake is a milter that is written in frames.
type fake struct {
	address string
	options string                                 // the answer to the negotiation; "": version 6, everything
	reply   func(code byte, data string) []string  // frames, a code and data each; nil: the default, "c" where one is due
	raw     func(code byte, w io.Writer) (ok bool) // writes octets; false closes

	mu   sync.Mutex
	got  []string // code and data, with | for NUL, of the last connection
	open int      // connections
}

// optneg is the data of SMFIC_OPTNEG.
func optneg(version, actions, steps uint32) string {
	return string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, version), actions), steps))
}

// at is an index in front of an insertion or change.
func at(index uint32, rest string) string {
	return string(binary.BigEndian.AppendUint32(nil, index)) + rest
}

func startFake(t testing.TB, f *fake) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	f.address = "tcp:" + l.Addr().String()
	if f.options == "" {
		f.options = optneg(6, uint32(offeredActions), 0)
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { f.serve(c) })
		}
	})
	return f
}

func frame(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	f.mu.Lock()
	f.got = nil
	f.open++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	for {
		var size uint32
		if binary.Read(r, binary.BigEndian, &size) != nil || size == 0 || size > 70000 {
			return
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		code, data := b[0], string(b[1:])
		f.mu.Lock()
		f.got = append(f.got, strings.ReplaceAll(string(b), "\x00", "|"))
		f.mu.Unlock()
		if f.raw != nil && !f.raw(code, c) {
			return
		}
		for _, text := range f.answers(code, data) {
			if _, err := c.Write(frame(text)); err != nil {
				return
			}
		}
		if code == byte(milter.CodeQuit) {
			return
		}
	}
}

func (f *fake) answers(code byte, data string) []string {
	if code == byte(milter.CodeOptNeg) {
		return []string{"O" + f.options}
	}
	if f.reply != nil {
		if list := f.reply(code, data); list != nil {
			return list
		}
	}
	silent := map[byte]milter.OptProtocol{
		'C': milter.OptNoConnReply, 'H': milter.OptNoHeloReply, 'M': milter.OptNoMailReply, 'R': milter.OptNoRcptReply, 'T': milter.OptNoDataReply,
		'L': milter.OptNoHeaderReply, 'N': milter.OptNoEOHReply, 'B': milter.OptNoBodyReply, 'E': 0,
	}
	if flag, due := silent[code]; due && milter.OptProtocol(binary.BigEndian.Uint32([]byte(f.options[8:])))&flag == 0 {
		return []string{"c"}
	}
	return nil
}

// on answers one command.
func on(command byte, frames ...string) func(byte, string) []string {
	return func(code byte, _ string) []string {
		if code == command {
			return frames
		}
		return nil
	}
}

// saw waits until nobody is connected.
func (f *fake) saw() []string {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		open, got := f.open, slices.Clone(f.got)
		f.mu.Unlock()
		if open == 0 || time.Now().After(end) {
			return got
		}
	}
}

// show is a verdict in a line.
func show(v sdk.Verdict) string {
	var b strings.Builder
	reply := func(r *sdk.Reply) {
		if r != nil {
			fmt.Fprintf(&b, " %d %s %s", r.Code, r.Enhanced, r.Text)
		}
	}
	b.WriteString(v.Action.String())
	reply(v.Reply)
	for _, r := range v.Recipients {
		fmt.Fprintf(&b, "; %s %s", r.Recipient, r.Action)
		reply(r.Reply)
	}
	for _, c := range v.Changes {
		fmt.Fprintf(&b, "; %s", c.Kind)
		for _, text := range []string{c.Name, c.Value, c.Address} {
			if text != "" {
				fmt.Fprintf(&b, " %q", text)
			}
		}
		if c.Index != 0 {
			fmt.Fprintf(&b, " %d", c.Index)
		}
		if c.Body != nil {
			body, err := io.ReadAll(c.Body)
			fmt.Fprintf(&b, " %.60q %d %v", body, len(body), err)
		}
	}
	return b.String()
}
