package mailfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// messages returns what Walk finds: "name sender text" each.
func messages(t *testing.T, path, stdin string) (list []string) {
	t.Helper()
	err := Walk(t.Context(), path, strings.NewReader(stdin), func(m Message) error {
		if m.Err != nil {
			list = append(list, m.Name+" failed")
			return nil
		}
		text, err := io.ReadAll(m.R)
		list = append(list, fmt.Sprintf("%s <%s> %q", m.Name, m.Sender, text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestMbox(t *testing.T) {
	for text, want := range map[string][]string{
		"":                     {`- <> ""`},
		"Subject: x\n\nFrom a": {`- <> "Subject: x\n\nFrom a"`},
		"From a@b Thu Jan  1 12:00:00 2026\nSubject: x\n\none\n\nFrom MAILER-DAEMON Thu Jan  1 12:00:00 2026\nSubject: y\n\ntwo\n\n": {
			`-:1 <a@b> "Subject: x\n\none\n"`, `-:2 <> "Subject: y\n\ntwo\n"`,
		},
		"From a@b 1:23\nx\nFrom here on 12:00\n\nFrom the text\n>From >\n>>From mboxrd\n\n\n": { // no empty line before it; no time in it
			`-:1 <a@b> "x\nFrom here on 12:00\n\nFrom the text\nFrom >\n>From mboxrd\n\n"`,
		},
		"From a@b 1:23\r\nx\r\n\r\nFrom c@d 1:23\r\n": {`-:1 <a@b> "x\r\n"`, `-:2 <c@d> ""`},
		"From a@b 1:23\n\nFrom c@d 1:23\n\n\ntext":    {`-:1 <a@b> ""`, `-:2 <c@d> "\n\ntext"`},
		"From me\nno mbox":                            {`- <> "From me\nno mbox"`},
	} {
		if got := messages(t, "-", text); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%q:\n%s\nexpected\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	long := strings.Repeat("x", 200<<10)
	got := messages(t, "-", "From a@b 1:23\n"+long+"\n\nFrom "+long+"@b 1:23\nFrom a@b 1:23\n")
	if len(got) != 1 {
		t.Errorf("%d messages of long lines", len(got))
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cur/1": "one", "new/2": "two", ".hidden/3": "x", ".Junk/cur/4": "four", ".Junk/new/7": "seven", "dot/.5": "x",
		"tmp/8": "x", ".Junk/tmp/9": "x", "dovecot-uidlist": "x", ".Junk/dovecot.index": "x", "cur/tmp/10": "ten", "tmp/cur/11": "x", "other/tmp/12": "twelve", "other/cur/13": "thirteen", "other/a.mbox": "From a@b 1:23\nsix\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "endless")); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(strings.Join(messages(t, dir, ""), " "), dir+"/", "")
	if want := `.Junk/cur/4 <> "four" .Junk/new/7 <> "seven" cur/1 <> "one" cur/tmp/10 <> "ten" new/2 <> "two" ` +
		`other/a.mbox:1 <a@b> "six\n" other/cur/13 <> "thirteen" other/tmp/12 <> "twelve"`; got != want {
		t.Errorf("%s\nexpected\n%s", got, want)
	}
	if err := Walk(t.Context(), filepath.Join(dir, "absent"), nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	stop := errors.New("stop")
	if err := Walk(t.Context(), dir, nil, func(Message) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Walk(ended, dir, nil, func(Message) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSpool(t *testing.T) {
	s, err := NewSpool()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for text, want := range map[string]struct {
		text   string
		header int64
	}{
		"":                     {"", 0},
		"a: b\n\nc\n":          {"a: b\r\n\r\nc\r\n", 8},
		"a: b\r\n\r\nc\nd\r":   {"a: b\r\n\r\nc\r\nd\r\n", 8},
		"a: b":                 {"a: b\r\n", 6},
		"\nbody":               {"\r\nbody\r\n", 2},
		"a\rb\n\r\n\x00\xff\n": {"a\rb\r\n\r\n\x00\xff\r\n", 7},
	} {
		if err := s.Fill(strings.NewReader(text), 100); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s.Reader())
		if err != nil || string(got) != want.text || s.HeaderSize != want.header || s.Size != int64(len(got)) {
			t.Errorf("%q: %q, header %d, size %d, %v; expected %q, header %d", text, got, s.HeaderSize, s.Size, err, want.text, want.header)
		}
	}
	if err := s.Fill(strings.NewReader(strings.Repeat("x", 101)), 100); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// FuzzMbox: nothing is lost but separators, quoting and the empty lines before separators.
func FuzzMbox(f *testing.F) {
	f.Add("From a@b 1:23\nSubject: x\n\n>From y\n\nFrom c@d 1:23\n\nz")
	f.Fuzz(func(t *testing.T, text string) {
		octets, count := 0, 0
		err := Walk(t.Context(), "-", strings.NewReader(text), func(m Message) error {
			n, err := io.Copy(io.Discard, m.R)
			octets += int(n)
			count++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if octets > len(text) || count > 1+strings.Count(text, "From ") {
			t.Errorf("%d octets in %d messages from %d octets", octets, count, len(text))
		}
		if !strings.HasPrefix(text, "From ") && octets != len(text) {
			t.Errorf("%d octets from %d", octets, len(text))
		}
	})
}
