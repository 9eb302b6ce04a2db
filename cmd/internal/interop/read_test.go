package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMbsync: isync's mbsync brings a mailbox into a maildir, again and again:
// new mail, flags and deletions travel both ways, and nothing comes twice.
func TestMbsync(t *testing.T) {
	t.Parallel()
	mbsync := peer(t, "mbsync", "isync")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	ids := s.fill("mbsync", 5)
	maildir := filepath.Join(s.dir, "maildir")
	if err := os.MkdirAll(maildir, 0o700); err != nil {
		t.Fatal(err)
	}
	rc := s.writeFile("mbsyncrc", fmt.Sprintf(`
IMAPAccount sluice
Host localhost
Port %s
User %s
Pass "%s"
SSLType IMAPS
CertificateFile %s
PipelineDepth 50

IMAPStore far
Account sluice

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
`, s.port("imaps"), alice, password, s.ca, maildir, maildir))
	sync := func() { s.mustRun("", mbsync, "-c", rc, "all") }
	local := func(box string) []string {
		var files []string
		for _, sub := range []string{"new", "cur"} {
			found, _ := filepath.Glob(filepath.Join(maildir, box, sub, "*"))
			files = append(files, found...)
		}
		return files
	}
	holds := func(box string, want ...string) {
		t.Helper()
		var got []string
		for _, file := range local(box) {
			text, _ := os.ReadFile(file)
			for line := range strings.Lines(string(text)) {
				if m := messageIDField.FindStringSubmatch(line); m != nil {
					got = append(got, m[1])
				}
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("maildir %s has %q, want %q", box, got, want)
		}
	}

	sync()
	holds("INBOX", ids...)
	for _, box := range []string{"Sent", "Drafts", "Junk", "Trash", "Archive"} {
		if _, err := os.Stat(filepath.Join(maildir, box)); err != nil {
			t.Errorf("mailbox %s was not made: %v", box, err)
		}
	}
	sync()
	holds("INBOX", ids...) // nothing twice

	// A message written here, one read and one deleted.
	near := local("INBOX")
	slices.Sort(near)
	if err := os.Remove(near[0]); err != nil {
		t.Fatal(err)
	}
	read := filepath.Join(maildir, "INBOX", "cur", strings.Split(filepath.Base(near[1]), ":2,")[0]+":2,S")
	if err := os.Rename(near[1], read); err != nil {
		t.Fatal(err)
	}
	draft := strings.ReplaceAll(letter("mbsync.draft@example.org", "from the maildir", 800), "\r\n", "\n")
	if err := os.WriteFile(filepath.Join(maildir, "Drafts", "new", "1.draft.here"), []byte(draft), 0o600); err != nil {
		t.Fatal(err)
	}
	sync()
	inbox, err := s.ids(alice, "INBOX")
	if err != nil || len(inbox) != 4 {
		t.Errorf("INBOX has %v (%v), want four messages", inbox, err)
	}
	s.waitMail(alice, "Drafts", "mbsync.draft@example.org")
	out := s.mustRun("", peer(t, "curl", "curl"), "-sS", "--noproxy", "*", "--cacert", s.ca, "--user", alice+":"+password,
		"imaps://127.0.0.1:"+s.port("imaps")+"/INBOX?SEEN")
	if n := len(strings.Fields(strings.TrimPrefix(strings.TrimSpace(out), "* SEARCH"))); n != 1 {
		t.Errorf("%d messages are seen, want 1: %q", n, out)
	}

	more := s.fill("mbsync-later", 2)
	sync()
	sync()
	var want []string
	for id := range inbox {
		want = append(want, id)
	}
	holds("INBOX", append(want, more...)...)
	holds("Drafts", "mbsync.draft@example.org")
}

// TestMutt: mutt in batch mode reads, tags, saves and deletes by IMAP, and reads
// by POP3.
func TestMutt(t *testing.T) {
	t.Parallel()
	mutt := peer(t, "mutt", "mutt")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	ids := s.fill("mutt", 4)
	common := fmt.Sprintf(`
set certificate_file = "%s"
set ssl_verify_host = no
set ssl_starttls = yes
set ssl_force_tls = yes
set imap_user = "%s"
set imap_pass = "%s"
set pop_user = "%s"
set pop_pass = "%s"
set record = ""
set confirmcreate = no
set confirmappend = no
set delete = yes
set move = no
set quit = yes
set wait_key = no
set mark_old = no
set header_cache = ""
set tmpdir = "%s"
set timeout = 5
`, s.ca, alice, password, alice, password, s.dir)

	run := func(name, rc string) {
		t.Helper()
		path := s.writeFile(name+".muttrc", common+rc)
		// mutt wants a terminal to draw on; script from util-linux would do as well.
		out, err := s.run(time.Minute, "", "script", "-qec", fmt.Sprintf("%s -n -F %s", mutt, path), "/dev/null")
		if err != nil {
			t.Fatalf("mutt %s: %v\n%.2000s", name, err, out)
		}
	}
	// Save the second message to Archive, delete the third, quit.
	run("imap", fmt.Sprintf(`
set spoolfile = "imaps://localhost:%s/INBOX"
set folder = "imaps://localhost:%s/"
push "<jump>2<enter><save-message>=Archive<enter><jump>3<enter><delete-message><sync-mailbox><quit>"
`, s.port("imaps"), s.port("imaps")))
	s.waitMail(alice, "Archive", ids[1])
	inbox, err := s.ids(alice, "INBOX")
	if err != nil || len(inbox) != 2 || inbox[ids[0]] != 1 || inbox[ids[3]] != 1 {
		t.Errorf("INBOX has %v (%v), want %s and %s", inbox, err, ids[0], ids[3])
	}

	// By POP3: copy everything to a local file.
	box := filepath.Join(s.dir, "from-pop")
	run("pop", fmt.Sprintf(`
set spoolfile = "pops://localhost:%s/"
set mbox_type = mbox
push "<jump>1<enter><copy-message>%s<enter><jump>2<enter><copy-message>%s<enter><quit>"
`, s.port("pop3s"), box, box))
	text, err := os.ReadFile(box)
	if err != nil || !strings.Contains(string(text), ids[0]) || !strings.Contains(string(text), ids[3]) {
		t.Errorf("mutt copied %d octets by POP3, without the messages: %v", len(text), err)
	}

	// And sends one by our submission.
	body := s.writeFile("body.txt", "Hello from mutt.\n")
	rc := s.writeFile("send.muttrc", common+fmt.Sprintf("set from = \"%s\"\nset realname = \"Alice\"\nset smtp_url = \"smtp://%s@localhost:%s/\"\nset smtp_pass = \"%s\"\nmy_hdr Message-ID: <mutt.sent@example.org>\n",
		alice, alice, s.port("submission"), password))
	_, err = s.run(time.Minute, "", "sh", "-c", fmt.Sprintf("%s -n -F %s -s 'from mutt' -- %s < %s", mutt, rc, bob, body))
	if err != nil {
		t.Errorf("mutt sends: %v", err)
	}
	eventually(t, 15*time.Second, "the message that mutt sent", func() bool {
		got, err := s.ids(bob, "INBOX")
		return err == nil && len(got) == 1
	})
}

// TestFetchmail: fetchmail by POP3 and IMAP; with keep it fetches nothing twice,
// also across a restart of the server (DRILLS E7.5).
func TestFetchmail(t *testing.T) {
	t.Parallel()
	fetchmail := peer(t, "fetchmail", "fetchmail")
	for _, protocol := range []string{"pop3", "imap"} {
		for _, keep := range []string{"keep", "no keep"} {
			t.Run(protocol+"-"+strings.ReplaceAll(keep, " ", "-"), func(t *testing.T) {
				s := newSite(t, "")
				s.start()
				defer s.stop()
				ids := s.fill("fetchmail", 3)
				box := filepath.Join(s.dir, "fetched")
				fetch := func() string {
					t.Helper()
					uidl := ""
					if protocol == "pop3" {
						uidl = "uidl"
					}
					rc := s.writeFile("fetchmailrc", fmt.Sprintf("set no bouncemail\npoll localhost protocol %s port %s %s\n  user \"%s\" password \"%s\" ssl sslcertck sslcertfile \"%s\"\n  mda \"cat >>%s\" %s\n",
						protocol, s.port(protocol+"s"), uidl, alice, password, s.ca, box, keep))
					out, err := s.run(time.Minute, "", fetchmail, "-f", rc, "--idfile", filepath.Join(s.dir, "ids"), "--pidfile", filepath.Join(s.dir, "pid"), "-N", "-v")
					if err != nil && !strings.Contains(err.Error(), "exit status 1") { // 1: there was no mail
						t.Fatalf("fetchmail: %v\n%s", err, out)
					}
					return out
				}
				check := func(want ...string) {
					t.Helper()
					text, _ := os.ReadFile(box)
					for _, id := range want {
						if n := strings.Count(string(text), "<"+id+">"); n != 1 {
							t.Errorf("<%s> was fetched %d times", id, n)
						}
					}
				}
				fetch()
				check(ids...)
				fetch()
				check(ids...)
				s.stop()
				s.start()
				fetch()
				check(ids...)
				later := s.fill("fetchmail-later", 1)
				fetch()
				check(append(ids, later...)...)
				left, err := s.ids(alice, "INBOX")
				if want := map[string]int{"keep": 4, "no keep": 0}[keep]; err != nil || len(left) != want {
					t.Errorf("%d messages are left, want %d: %v", len(left), want, err)
				}
			})
		}
	}
}

// TestIMAPLib plays what Thunderbird does, over Python's imaplib.
func TestIMAPLib(t *testing.T) {
	t.Parallel()
	peer(t, "python3", "python3")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	ids := s.fill("imaplib", 6)
	for _, scene := range []string{"first-look", "read", "idle", "sent", "trash", "search", "folders", "restart"} {
		t.Run(scene, func(t *testing.T) {
			s.t = t
			if scene == "restart" {
				s.stop()
				s.start()
			}
			out := s.python("imaplib_read.py", scene, s.port("imaps"), s.port("mx"), s.ca, password, strings.Join(ids, ","), filepath.Join(s.dir, "uids.json"))
			if !strings.Contains(out, "done "+scene) {
				t.Errorf("the script did not end:\n%s", out)
			}
		})
	}
	s.t = t
}
