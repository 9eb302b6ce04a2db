package pipeline

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// model is a message as somebody would write it who has all the memory in the world.
type model struct {
	fields []modelField
	blank  bool // there is an empty line behind the fields
	body   string
}

type modelField struct{ raw string }

// modelOf takes a message apart, line by line.
func modelOf(message string) model {
	var m model
	rest := message
	for rest != "" {
		line, more := rest, ""
		if at := strings.Index(rest, "\n"); at >= 0 {
			line, more = rest[:at+1], rest[at+1:]
		}
		if line == "\r\n" {
			return model{m.fields, true, more}
		}
		if n := len(m.fields); n > 0 && (line[0] == ' ' || line[0] == '\t') {
			m.fields[n-1].raw += line
		} else {
			m.fields = append(m.fields, modelField{raw: line})
		}
		rest = more
	}
	return m
}

func (f modelField) is(name string) bool {
	before, _, ok := strings.Cut(f.raw, ":")
	return ok && strings.EqualFold(strings.TrimRight(before, " \t"), name)
}

// at returns the place of the index-th field of a name, or -1.
func (m *model) at(name string, index int) int {
	var all []int
	for i, f := range m.fields {
		if f.is(name) {
			all = append(all, i)
		}
	}
	if index < 0 {
		index += len(all) + 1
	} else if index == 0 {
		index = 1
	}
	if index < 1 || index > len(all) {
		return -1
	}
	return all[index-1]
}

func (m *model) apply(c sdk.Change, body string) {
	switch raw := string(FormatField(c.Name, c.Value)); c.Kind {
	case sdk.AddField:
		m.fields = append([]modelField{{raw: raw}}, m.fields...)
	case sdk.ReplaceField:
		if i := m.at(c.Name, c.Index); i >= 0 {
			m.fields[i].raw = raw
		}
	case sdk.RemoveField:
		for i := m.at(c.Name, c.Index); i >= 0; i = m.at(c.Name, c.Index) {
			m.fields = append(m.fields[:i:i], m.fields[i+1:]...)
			if c.Index != 0 {
				break
			}
		}
	case sdk.ReplaceBody:
		if n := len(m.fields); n > 0 && !strings.HasSuffix(m.fields[n-1].raw, "\r\n") {
			m.fields[n-1].raw += "\r\n"
		}
		m.blank, m.body = true, body
	}
}

func (m *model) String() string {
	var b strings.Builder
	for _, f := range m.fields {
		b.WriteString(f.raw)
	}
	if m.blank {
		b.WriteString("\r\n")
	}
	return b.String() + m.body
}

// changesOf reads a list of changes from octets, three for each.
func changesOf(program []byte) []sdk.Change {
	names := []string{"Subject", "subject", "From", "Received", "X-A"}
	values := []string{"", "v", "two  blanks", strings.Repeat("a long value that has to be folded ", 9), "\u00fcmlaut"}
	kinds := []sdk.ChangeKind{sdk.AddField, sdk.ReplaceField, sdk.RemoveField, sdk.ReplaceBody}
	var list []sdk.Change
	for ; len(program) >= 3 && len(list) < 200; program = program[3:] {
		c := sdk.Change{Kind: kinds[program[0]%4], Index: int(program[2]>>4)%7 - 3}
		if c.Kind != sdk.ReplaceBody {
			c.Name, c.Value = names[int(program[1])%len(names)], values[int(program[2]&15)%len(values)]
		}
		list = append(list, c)
	}
	return list
}

// FuzzChanges holds any list of changes over any message against the model: the octets
// that are read, in one piece or many, their number, and that of the header's.
func FuzzChanges(f *testing.F) {
	for _, message := range []string{
		"", "\r\n", "\r\nbody", "Subject: x\r\n", "Subject: x", "Subject: x\r\n\r\nbody\r\n", " led by a blank\r\nSubject: x\r\n\r\n",
		"Subject: one\r\nReceived: a\r\n\tfolded\r\nSUBJECT : two\r\nno field\r\nReceived: b\r\nSubject:three\r\n\r\n\r\nbody\r\n.\r\n",
	} {
		f.Add([]byte(message), []byte{0, 0, 1}, []byte("new\r\n"))
		f.Add([]byte(message), []byte{3, 0, 0, 2, 0, 0x30, 0, 3, 3}, []byte(""))
		f.Add([]byte(message), []byte{1, 0, 0x53, 2, 1, 0x20, 1, 0, 2, 2, 3, 0x40, 0, 0, 1, 1, 0, 1, 2, 0, 0x20}, []byte("x"))
	}
	b := newBenchFor(f)
	f.Fuzz(func(t *testing.T, message, program, body []byte) {
		if len(message) > 1<<16 || len(body) > 1<<16 {
			return
		}
		message = bytes.ReplaceAll(message, []byte("\r"), nil) // what comes in has no bare CR or LF (RULES A5)
		message = bytes.ReplaceAll(message, []byte("\n"), []byte("\r\n"))
		draft, replaced := spooled(t, b.blobs, message), spooled(t, b.blobs, body)
		defer draft.Discard()
		defer replaced.Discard()
		m := &Message{Recipients: []*Recipient{{}}}
		if err := m.SetContent(draft); err != nil {
			t.Fatal(err)
		}
		want, changes, given := modelOf(string(message)), changesOf(program), m.NewBody(replaced)
		for i, c := range changes {
			want.apply(c, string(body))
			if c.Kind == sdk.ReplaceBody {
				changes[i].Body = given
			}
		}
		v, err := m.arrived.Apply(changes)
		if err != nil {
			t.Fatal(err)
		}
		variant := v.Variant(m.arrived)
		r, err := m.Open(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r.Section(0, r.Size()), []byte(want.String())); err != nil {
			t.Fatalf("%q after %+v: %v", message, changes, err)
		}
		if size := variant.Size(draft.Size()); size != int64(len(want.String())) {
			t.Errorf("%d octets, and %d are said", len(want.String()), size)
		}
		if header := int64(len(want.String()) - len(want.body)); want.blank && v.HeaderSize() != header {
			t.Errorf("a header of %d octets, and %d are said", header, v.HeaderSize())
		}
		stored(t, variant, draft, replaced, want.String())
	})
}

// stored reads a variant as it comes back from the store.
func stored(t *testing.T, v blob.Variant, base, body *blob.Draft, want string) {
	t.Helper()
	if v.Body != nil {
		v.Body.Ref.Kind = blob.Inline
	}
	back, err := blob.DecodeVariant(v.AppendBinary(nil))
	if err != nil {
		t.Fatal(err)
	}
	if back.Body != nil {
		back.Body.From = body
	}
	r, err := back.Reader(base, base.Size())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r.Section(0, r.Size())); err != nil || string(got) != want {
		t.Errorf("stored, it reads %q, %v; want %q", got, err, want)
	}
}

func spooled(t testing.TB, blobs *blob.Store, octets []byte) *blob.Draft {
	t.Helper()
	sp := blobs.NewSpool()
	if _, err := sp.Write(octets); err != nil {
		t.Fatal(err)
	}
	d, err := sp.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
