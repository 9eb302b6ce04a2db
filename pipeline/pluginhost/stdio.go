package pluginhost

import (
	"bytes"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// carryOutput logs what a plugin prints that is served by go-plugin itself and not by sdk/serve:
// there os.Stdout and os.Stderr become pipes that go-plugin carries over gRPC, and a plugin whose pipe
// nobody reads blocks. Its generated code is internal to go-plugin; the message is
// StdioData{channel = 1 (1 stdout, 2 stderr), data = 2}, read here as the unknown fields of Empty.
func (p *process) carryOutput(out *output) {
	defer p.gone.Done()
	stream, err := p.conn.NewStream(p.ctx, &grpc.StreamDesc{ServerStreams: true}, "/plugin.GRPCStdio/StreamStdio")
	if err != nil || stream.SendMsg(&emptypb.Empty{}) != nil || stream.CloseSend() != nil {
		return
	}
	for {
		var data emptypb.Empty
		if stream.RecvMsg(&data) != nil { // UNIMPLEMENTED, or the end
			return
		}
		name, text := stdioData(data.ProtoReflect().GetUnknown())
		for line := range bytes.Lines(text) {
			out.line(name, string(line[:min(len(line), maxLine)]), len(line) > maxLine)
		}
	}
}

// stdioData reads a StdioData; what is broken ends it.
func stdioData(rest []byte) (stream string, text []byte) {
	stream = "stdout"
	for len(rest) > 0 {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			break
		}
		size := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if size < 0 {
			break
		}
		value := rest[n : n+size]
		switch {
		case number == 1 && kind == protowire.VarintType && len(value) == 1 && value[0] == 2:
			stream = "stderr"
		case number == 2 && kind == protowire.BytesType:
			text, _ = protowire.ConsumeBytes(value)
		}
		rest = rest[n+size:]
	}
	return stream, text
}
