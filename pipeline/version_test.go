package pipeline

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

const arrivedHeader = "Received: one\r\nReceived: two\r\nSubject: hello\r\n  folded\r\nFrom: a@example.net\r\nX-Junk line without colon\r\nreceived: three\r\n\r\n"

// render returns what a reader of the store will see.
func render(t *testing.T, v, arrived *Version, octets string) string {
	t.Helper()
	variant := v.Variant(arrived)
	r, err := variant.Reader(strings.NewReader(octets), int64(len(octets)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r.Section(0, variant.Size(int64(len(octets)))))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestVersionApply(t *testing.T) {
	octets := arrivedHeader + "body\r\n"
	cases := []struct {
		name    string
		changes []sdk.Change
		want    string
	}{
		{"nothing", nil, octets},
		{"add", []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "1"}, {Kind: sdk.AddField, Name: "X-B", Value: "2"}},
			"X-B: 2\r\nX-A: 1\r\n" + octets},
		{"replace folded", []sdk.Change{{Kind: sdk.ReplaceField, Name: "subject", Value: "new"}},
			strings.Replace(octets, "Subject: hello\r\n  folded\r\n", "subject: new\r\n", 1)},
		{"replace the second", []sdk.Change{{Kind: sdk.ReplaceField, Name: "Received", Index: 2, Value: "2"}},
			strings.Replace(octets, "Received: two", "Received: 2", 1)},
		{"replace the last", []sdk.Change{{Kind: sdk.ReplaceField, Name: "Received", Index: -1, Value: "3"}},
			strings.Replace(octets, "received: three", "Received: 3", 1)},
		{"remove one", []sdk.Change{{Kind: sdk.RemoveField, Name: "Received", Index: 1}},
			strings.Replace(octets, "Received: one\r\n", "", 1)},
		{"remove all", []sdk.Change{{Kind: sdk.RemoveField, Name: "Received"}},
			"Subject: hello\r\n  folded\r\nFrom: a@example.net\r\nX-Junk line without colon\r\n\r\nbody\r\n"},
		{"what is not there", []sdk.Change{{Kind: sdk.RemoveField, Name: "Bcc"}, {Kind: sdk.ReplaceField, Name: "Bcc", Value: "x"},
			{Kind: sdk.ReplaceField, Name: "Received", Index: 9, Value: "x"}}, octets},
		{"added and removed", []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "1"}, {Kind: sdk.RemoveField, Name: "X-A"}}, octets},
		{"added and replaced", []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "1"}, {Kind: sdk.ReplaceField, Name: "X-A", Value: "2"}},
			"X-A: 2\r\n" + octets},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			arrived := newVersion([]byte(arrivedHeader))
			v, err := arrived.Apply(c.changes)
			if err != nil {
				t.Fatal(err)
			}
			if got := render(t, v, arrived, octets); got != c.want {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
			if again := render(t, arrived, arrived, octets); again != octets {
				t.Error("what arrived has changed")
			}
		})
	}
}

func TestVersionRefuses(t *testing.T) {
	for _, c := range []sdk.Change{
		{Kind: sdk.AddField, Name: "X-A", Value: "a\r\nBcc: evil@example.net"},
		{Kind: sdk.AddField, Name: "X-A", Value: "a\nb"},
		{Kind: sdk.AddField, Name: "X-A", Value: "\x00"},
		{Kind: sdk.AddField, Name: "X A", Value: "a"},
		{Kind: sdk.AddField, Name: "X-A:", Value: "a"},
		{Kind: sdk.AddField, Name: "", Value: "a"},
		{Kind: sdk.AddField, Name: "X-\u00fc", Value: "a"},
		{Kind: 99, Name: "X-A"},
	} {
		if _, err := newVersion([]byte(arrivedHeader)).Apply([]sdk.Change{c}); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestFormatField(t *testing.T) {
	long := strings.Repeat("word ", 60)
	got := FormatField("X-Long", long)
	if !bytes.HasSuffix(got, []byte("\r\n")) {
		t.Fatalf("no line end: %q", got)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(got), "\r\n"), "\r\n") {
		if len(line) > 78 {
			t.Errorf("line of %d octets: %q", len(line), line)
		}
		if strings.TrimSpace(line) == "" {
			t.Errorf("a line of white space alone in %q", got)
		}
	}
	back := strings.Fields(strings.TrimPrefix(string(got), "X-Long:"))
	if len(back) != 60 {
		t.Errorf("%d words came back", len(back))
	}
	if got := string(FormatField("Subject", "two  spaces")); got != "Subject: two  spaces\r\n" {
		t.Errorf("%q", got)
	}
}

func FuzzVersion(f *testing.F) {
	f.Add(arrivedHeader+"body\r\n", "Subject", "new", 1, uint8(2))
	f.Add("", "X", "", 0, uint8(1))
	f.Add("no colon\r\n \r\n", "no", "x", -1, uint8(3))
	f.Fuzz(func(t *testing.T, octets, name, value string, index int, kind uint8) {
		end := strings.Index(octets, "\r\n\r\n")
		if end < 0 {
			end = len(octets)
		}
		arrived := newVersion([]byte(octets[:end]))
		if got := render(t, arrived, arrived, octets); got != octets {
			t.Fatalf("unchanged: %q became %q", octets, got)
		}
		v, err := arrived.Apply([]sdk.Change{{Kind: sdk.ChangeKind(kind), Name: name, Value: value, Index: index}})
		if err != nil {
			return
		}
		got := render(t, v, arrived, octets)
		if !strings.HasSuffix(got, octets[end:]) {
			t.Fatalf("the body changed: %q", got)
		}
		if strings.Count(got, "\n") > strings.Count(octets, "\n")+1+len(value)/50 {
			t.Fatalf("more than one field came: %q from %q", got, octets)
		}
	})
}
