package wire

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

func frames() []*HostFrame {
	chunk := func(id uint64, data []byte) *HostFrame {
		return &HostFrame{Frame: &HostFrame_Chunk{Chunk: &Chunk{Id: id, Data: data}}}
	}
	end := func(id uint64) *HostFrame { return &HostFrame{Frame: &HostFrame_End{End: &End{Id: id}}} }
	return []*HostFrame{
		chunk(1, []byte("x")), chunk(0, []byte("x")), chunk(1<<40, bytes.Repeat([]byte("y"), 5000)), chunk(7, nil), chunk(0, nil),
		chunk(3, make([]byte, MaxChunk)), end(1), end(0), end(1 << 63), {},
		{Frame: &HostFrame_Cancel{Cancel: &Cancel{Id: 3}}}, {Frame: &HostFrame_Ask{Ask: &Ask{Id: 9, Size: 4, Envelope: &Envelope{Id: "Q"}}}},
		{Frame: &HostFrame_Parsed{Parsed: &Parsed{Id: 9, Truncated: true}}},
	}
}

// TestCodec: the short cuts write what protobuf writes, and read it.
func TestCodec(t *testing.T) {
	c := Codec()
	for i, f := range frames() {
		want, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Marshal(f)
		if err != nil || !bytes.Equal(got.Materialize(), want) {
			t.Errorf("%d: %x %v, expected %x", i, got.Materialize(), err, want)
		}
		var back HostFrame
		if err := c.Unmarshal(got, &back); err != nil || !proto.Equal(&back, f) {
			t.Errorf("%d: %v %v", i, &back, err)
		}
		got.Free()
	}
	answer := &PluginFrame{Frame: &PluginFrame_Answer{Answer: &Answer{Id: 3}}}
	octets, err := c.Marshal(answer)
	var back PluginFrame
	if err != nil || c.Unmarshal(octets, &back) != nil || !proto.Equal(&back, answer) {
		t.Errorf("%v %v", &back, err)
	}
}

// FuzzHostFrame: whatever arrives means to the codec what it means to protobuf.
func FuzzHostFrame(f *testing.F) {
	for _, frame := range frames() {
		octets, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(octets[:min(len(octets), 100)])
	}
	c := Codec()
	f.Fuzz(func(t *testing.T, octets []byte) {
		var want, got HostFrame
		wantErr := proto.Unmarshal(octets, &want)
		gotErr := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(octets)}, &got)
		if (wantErr == nil) != (gotErr == nil) || wantErr == nil && !proto.Equal(&want, &got) {
			t.Errorf("%v %v, expected %v %v", &got, gotErr, &want, wantErr)
		}
	})
}
