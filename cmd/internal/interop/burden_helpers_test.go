package interop

import (
	"os"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// everything returns the messages of an INBOX.
func (s *site) everything(user string) (list []string) {
	s.t.Helper()
	c, err := s.imapLogin(user)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	selected, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	if selected.NumMessages == 0 {
		return nil
	}
	section := &imap.FetchItemBodySection{Peek: true}
	all := imap.SeqSet{{Start: 1, Stop: 0}}
	got, err := c.Fetch(all, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range got {
		list = append(list, string(m.FindBodySection(section)))
	}
	return list
}

// replaceConfig changes a line of the configuration.
func (s *site) replaceConfig(old, fresh string) {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil || !strings.Contains(string(text), old) {
		s.t.Fatalf("the configuration has no %q: %v", old, err)
	}
	s.writeFile("sluice.toml", strings.Replace(string(text), old, fresh, 1))
}
