package wire

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Codec returns the protobuf codec with short cuts for Chunk and End, which are two thirds of all frames: what is on the wire is
// the same, octet by octet, and whatever the short cuts do not know goes the long way. It is for both
// sides; either may have it alone.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

type codec struct{ encoding.CodecV2 }

// The tags of fields: number<<3 | wire type (2: length-delimited, 0: varint).
const (
	tagChunk = 2<<3 | 2 // in HostFrame
	tagEnd   = 3<<3 | 2
	tagID    = 1 << 3 // in Chunk and End
	tagData  = 2<<3 | 2
)

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	frame, ok := v.(*HostFrame)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	switch x := frame.Frame.(type) {
	case *HostFrame_Chunk:
		if x.Chunk != nil && len(frame.unknownFields)+len(x.Chunk.unknownFields) == 0 {
			return marshalPiece(tagChunk, x.Chunk.Id, x.Chunk.Data), nil
		}
	case *HostFrame_End:
		if x.End != nil && len(frame.unknownFields)+len(x.End.unknownFields) == 0 {
			return marshalPiece(tagEnd, x.End.Id, nil), nil
		}
	}
	return c.CodecV2.Marshal(v)
}

func marshalPiece(tag byte, id uint64, data []byte) mem.BufferSlice {
	size := pieceLength(id, len(data))
	var pooled *[]byte
	var b []byte
	if mem.IsBelowBufferPoolingThreshold(size) {
		b = make([]byte, 0, size)
	} else {
		pooled = mem.DefaultBufferPool().Get(size)
		b = (*pooled)[:0]
	}
	b = append(appendPieceHead(b, tag, id, len(data)), data...)
	if pooled == nil {
		return mem.BufferSlice{mem.SliceBuffer(b)}
	}
	return mem.BufferSlice{mem.NewBuffer(pooled, mem.DefaultBufferPool())}
}

// pieceSize is the length of a Chunk or End with that much data.
func pieceSize(id uint64, data int) (size int) {
	if id != 0 {
		size += 1 + protowire.SizeVarint(id)
	}
	if data > 0 {
		size += 1 + protowire.SizeBytes(data)
	}
	return size
}

// pieceLength is the length of a frame with a Chunk or End with that much data.
func pieceLength(id uint64, data int) int { return 1 + protowire.SizeBytes(pieceSize(id, data)) }

// appendPieceHead appends a Chunk or End up to its data.
func appendPieceHead(b []byte, tag byte, id uint64, data int) []byte {
	b = protowire.AppendVarint(append(b, tag), uint64(pieceSize(id, data)))
	if id != 0 {
		b = protowire.AppendVarint(append(b, tagID), id)
	}
	if data > 0 {
		b = protowire.AppendVarint(append(b, tagData), uint64(data))
	}
	return b
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	frame, ok := v.(*HostFrame)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	if b := buffer.ReadOnlyData(); !unmarshalPiece(b, frame, true) { // grpc takes its buffer back
		return proto.Unmarshal(b, frame)
	}
	return nil
}

// unmarshalPiece reads a Chunk or End as an encoder would write it; it returns false for everything else. Without
// copied the frame shares memory with b.
func unmarshalPiece(b []byte, frame *HostFrame, copied bool) bool {
	if len(b) < 2 || b[0] != tagChunk && b[0] != tagEnd {
		return false
	}
	inner, n := protowire.ConsumeBytes(b[1:])
	if n != len(b)-1 {
		return false
	}
	var id uint64
	if len(inner) > 0 && inner[0] == tagID {
		if id, n = protowire.ConsumeVarint(inner[1:]); n < 0 {
			return false
		}
		inner = inner[1+n:]
	}
	if b[0] == tagEnd {
		if len(inner) > 0 {
			return false
		}
		x := &struct {
			wrapper HostFrame_End
			end     End
		}{}
		x.end.Id, x.wrapper.End = id, &x.end
		frame.Reset()
		frame.Frame = &x.wrapper
		return true
	}
	x := &struct {
		wrapper HostFrame_Chunk
		chunk   Chunk
	}{}
	if len(inner) > 0 {
		octets, n := protowire.ConsumeBytes(inner[1:])
		if inner[0] != tagData || n != len(inner)-1 {
			return false
		}
		if copied {
			octets = append([]byte(nil), octets...)
		}
		x.chunk.Data = octets
	}
	x.chunk.Id, x.wrapper.Chunk = id, &x.chunk
	frame.Reset()
	frame.Frame = &x.wrapper
	return true
}
