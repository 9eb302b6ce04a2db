package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func ends(t *testing.T) (*HostEnd, *PluginEnd) {
	t.Helper()
	host, plugin := net.Pipe()
	t.Cleanup(func() { _, _ = host.Close(), plugin.Close() })
	return NewHostEnd(host), NewPluginEnd(plugin)
}

func hostFrames() []*HostFrame {
	ask := func(n int) *HostFrame {
		a := &Ask{Id: 1, Phase: Phase_PHASE_CONTENT, Envelope: &Envelope{Id: "Q", Sender: "a@example.org"}}
		for range n {
			a.Envelope.Recipients = append(a.Envelope.Recipients, &Recipient{Address: "alice@example.test"})
		}
		return &HostFrame{Frame: &HostFrame_Ask{Ask: a}}
	}
	chunk := func(n int) *HostFrame {
		return &HostFrame{Frame: &HostFrame_Chunk{Chunk: &Chunk{Id: 1, Data: bytes.Repeat([]byte("0123456789abcde\x00"), n/16)}}}
	}
	return []*HostFrame{
		ask(1), chunk(4096), chunk(0), chunk(MaxChunk), chunk(MaxChunk), chunk(60 << 10), chunk(16), ask(10000),
		{Frame: &HostFrame_Parsed{Parsed: &Parsed{Id: 1, Urls: []string{strings.Repeat("x", 1<<20)}}}},
		{Frame: &HostFrame_Cancel{Cancel: &Cancel{Id: 1}}}, chunk(4096), {Frame: &HostFrame_End{End: &End{Id: 1}}},
	}
}

// TestDirect: what one end sends the other receives, and a chunk received stays as it is.
func TestDirect(t *testing.T) {
	host, plugin := ends(t)
	go func() {
		for _, f := range hostFrames() {
			if err := host.Send(f); err != nil {
				t.Error(err)
			}
		}
	}()
	var got []*HostFrame
	for range hostFrames() {
		f, err := plugin.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f)
	}
	for i, want := range hostFrames() {
		if !proto.Equal(got[i], want) {
			t.Errorf("frame %d: %.100s", i, got[i])
		}
	}
	go func() {
		_ = plugin.Begin()
		_ = plugin.Send(&PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: 1, Data: make([]byte, MaxChunk)}}})
		if err := plugin.Send(&PluginFrame{Frame: &PluginFrame_Body{Body: &Body{Id: 1, Data: make([]byte, maxPluginFrame)}}}); err == nil {
			t.Error("a frame that no host takes was sent")
		}
		_ = plugin.Send(&PluginFrame{Frame: &PluginFrame_Answer{Answer: &Answer{Id: 7}}})
		_ = plugin.Close()
	}()
	if err := host.Begin(); err != nil {
		t.Fatal(err)
	}
	if f, err := host.Recv(); err != nil || len(f.GetBody().GetData()) != MaxChunk {
		t.Errorf("%.50s %v", f, err)
	}
	if f, err := host.Recv(); err != nil || f.GetAnswer().GetId() != 7 {
		t.Errorf("%s %v", f, err)
	}
	if f, err := host.Recv(); err == nil {
		t.Errorf("%s after the end", f)
	}
}

// TestDirectGathers: a small question is one write.
func TestDirectGathers(t *testing.T) {
	w := &counting{}
	host := NewHostEnd(w)
	for _, f := range []*HostFrame{
		{Frame: &HostFrame_Ask{Ask: &Ask{Id: 1}}}, {Frame: &HostFrame_Chunk{Chunk: &Chunk{Id: 1, Data: make([]byte, 4096)}}}, {Frame: &HostFrame_End{End: &End{Id: 1}}},
	} {
		if err := host.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	if w.writes != 1 {
		t.Errorf("%d writes", w.writes)
	}
}

type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(b []byte) (int, error) { c.writes++; return len(b), nil }

func TestDirectRefuses(t *testing.T) {
	frame := func(length uint32, octets string) string {
		return string(binary.BigEndian.AppendUint32(nil, length)) + octets
	}
	for name, text := range map[string]string{
		"too long for a host": frame(maxPluginFrame+1, ""), "cut off": frame(10, "abc"), "no frame": frame(3, "\xff\xff\xff"), "no length": "\x00\x00",
	} {
		a, b := net.Pipe()
		go func() { _, _ = io.WriteString(a, text); _ = a.Close() }()
		if f, err := NewHostEnd(b).Recv(); err == nil {
			t.Errorf("%s: %s", name, f)
		}
	}
	a, b := net.Pipe()
	go func() { _, _ = io.WriteString(a, frame(1, "x")); _ = a.Close() }()
	if err := NewHostEnd(b).Begin(); err == nil {
		t.Error("a lane began with a frame that is not empty")
	}
}

// FuzzDirect: no octets from a plugin make the host panic or take more memory than they are.
func FuzzDirect(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02\x0a\x00"))
	f.Add([]byte("\x00\x10\x00\x00\x0a\x03\x08\x01\x1a"))
	f.Add([]byte("\x00\x00\x00\x06\x12\x04\x08\x01\x12\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		for _, recv := range []func(net.Conn) error{
			func(c net.Conn) error { _, err := NewHostEnd(c).Recv(); return err },
			func(c net.Conn) error { _, err := NewPluginEnd(c).Recv(); return err },
		} {
			_ = recv(&reading{r: bytes.NewReader(octets)})
		}
	})
}

type reading struct {
	net.Conn
	r io.Reader
}

func (r *reading) Read(b []byte) (int, error) { return r.r.Read(b) }
