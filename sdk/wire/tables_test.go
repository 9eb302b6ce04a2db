package wire

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestTables: PROTOCOL.md has every phase, event, action and change by name and number, and every
// field of what the host sends and hears.
func TestTables(t *testing.T) {
	octets, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(octets)
	for enum, row := range map[protoreflect.EnumDescriptor]string{
		Phase(0).Descriptor(): "\n| `%s` %d |", EventKind(0).Descriptor(): "\n| `%s` %d |",
		Action(0).Descriptor(): "\n| `%s` | %d |", ChangeKind(0).Descriptor(): "\n| `%s` | %d |",
	} {
		prefix := map[protoreflect.Name]string{"Phase": "PHASE_", "EventKind": "EVENT_KIND_", "Action": "ACTION_", "ChangeKind": "CHANGE_KIND_"}[enum.Name()]
		for i := range enum.Values().Len() {
			v := enum.Values().Get(i)
			name := strings.TrimPrefix(string(v.Name()), prefix)
			if name != "UNSPECIFIED" && !strings.Contains(text, fmt.Sprintf(row, name, v.Number())) {
				t.Errorf("PROTOCOL.md has no row for %s %d", v.Name(), v.Number())
			}
		}
	}
	for _, message := range []protoreflect.ProtoMessage{
		&DescribeResponse{}, &ConfigureRequest{}, &Ask{}, &Envelope{}, &Recipient{}, &Event{}, &Parsed{}, &Part{}, &Ambiguity{}, &Verdict{},
		&RecipientVerdict{}, &Change{}, &Route{}, &Alert{}, &Reason{}, &Reply{},
	} {
		fields := message.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			name := string(fields.Get(i).Name())
			known := strings.Contains(text, "`"+name+"`") || strings.Contains(text, "."+name+"`") || name == "id"
			if strings.HasPrefix(name, "client_") || name == "to" || name == "kind" && strings.Contains(text, "`kind`") {
				continue // client_*; route.to
			}
			if !known {
				t.Errorf("PROTOCOL.md does not name %s.%s", message.ProtoReflect().Descriptor().Name(), name)
			}
		}
	}
}
