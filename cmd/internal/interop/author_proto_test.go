package interop

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/sluicemail/sluice/sdk/wire"
)

// TestAuthorProto: what the examples in other languages have of the protocol is the protocol.
func TestAuthorProto(t *testing.T) {
	t.Parallel()
	original, err := os.ReadFile("../../../sdk/wire/plugin.proto")
	if err != nil {
		t.Fatal(err)
	}
	copied, err := os.ReadFile(filepath.Join(examplePath(t, "javascript"), "plugin.proto"))
	if err != nil || !bytes.Equal(original, copied) {
		t.Errorf("examples/plugins/javascript/plugin.proto is no copy of sdk/wire/plugin.proto: %v", err)
	}
	needPython(t)
	out := mustIn(t, examplePath(t, "python"), time.Minute, debianPython, "-B", "-c", "import plugin_pb2; print(plugin_pb2.DESCRIPTOR.serialized_pb.hex())")
	octets, err := hex.DecodeString(strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	var python descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(octets, &python); err != nil {
		t.Fatal(err)
	}
	ours := protodesc.ToFileDescriptorProto(wire.File_plugin_proto)
	python.Name, ours.Name = nil, nil
	withoutJSON(ours.MessageType)
	withoutJSON(python.MessageType)
	if !proto.Equal(&python, ours) {
		t.Error("examples/plugins/python/plugin_pb2.py is not made from this plugin.proto; its README says how to make it")
	}
}

// withoutJSON removes what only some compilers write down: it follows from the names.
func withoutJSON(messages []*descriptorpb.DescriptorProto) {
	for _, m := range messages {
		for _, f := range m.GetField() {
			f.JsonName = nil
		}
		withoutJSON(m.GetNestedType())
	}
}
