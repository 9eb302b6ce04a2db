package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

func connect(t *testing.T, addr string, o *imapclient.Options) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialInsecure(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login(testUser, testPass).Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, c *imapclient.Client, box, msg string) {
	t.Helper()
	a := c.Append(box, int64(len(msg)), nil)
	if _, err := io.WriteString(a, msg); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestHostileMails stores every hostile mail that the parser is tested with, and
// some made here, and holds that a client understands all that is said of them
// and gets every octet (DRILLS E3, LIBRARIES 2.4 traps 3, 13, 14).
func TestHostileMails(t *testing.T) {
	_, addr := start(t, Options{AllowPlaintextLogin: true})
	c := connect(t, addr, nil)
	var mails []string
	for _, pattern := range []string{"../mime/testdata/*.eml", "testdata/*.eml"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			mails = append(mails, mailFile(t, f))
		}
	}
	nest := ""
	for i := range 200 {
		nest += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	mails = append(mails, "\r\n", "x", nest, strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 300),
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n"+strings.Repeat("--b\r\n\r\n\r\n", 3000),
		"Subject: "+strings.Repeat("\xff", 5000)+"\r\n\r\n", "To: "+strings.Repeat("a@b,", 3000)+"\r\n\r\n",
		"bad line\r\nSubject: after a bad line\r\n\r\nbody\r\n", strings.Repeat("y", 100000))
	for _, m := range mails {
		put(t, c, "INBOX", m)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	msgs, err := c.Fetch(goimap.SeqSet{{Start: 1}}, &goimap.FetchOptions{
		Envelope: true, BodyStructure: &goimap.FetchItemBodyStructure{Extended: true}, RFC822Size: true, UID: true, Flags: true,
		BodySection: []*goimap.FetchItemBodySection{{Peek: true}, {Peek: true, Specifier: goimap.PartSpecifierHeader}, {Peek: true, Specifier: goimap.PartSpecifierText},
			{Peek: true, Part: []int{1}}, {Peek: true, Part: []int{1, 1, 1}}},
	}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	if len(msgs) != len(mails) {
		t.Fatalf("%d of %d mails", len(msgs), len(mails))
	}
	for i, m := range msgs {
		whole, head, text := m.BodySection[0].Bytes, m.BodySection[1].Bytes, m.BodySection[2].Bytes
		if want := len(mails[i]); len(whole) != want || m.RFC822Size != int64(len(whole)) {
			t.Errorf("%d: %d octets, size %d, sent %d", i, len(whole), m.RFC822Size, len(mails[i]))
		}
		if !bytes.Equal(whole, append(append([]byte(nil), head...), text...)) {
			t.Errorf("%d: header and text are not the message", i)
		}
		if m.BodyStructure == nil || m.Envelope == nil {
			t.Errorf("%d: no structure", i)
		}
	}
}

// TestAsciiOnly holds that outside of literals no octet over 127 is sent.
func TestAsciiOnly(t *testing.T) {
	_, addr := start(t, Options{AllowPlaintextLogin: true})
	p := dial(t, addr).login()
	files, _ := filepath.Glob("../mime/testdata/*.eml")
	for _, f := range append(files, "testdata/hostile.eml", "testdata/utf8.eml") {
		p.append("INBOX", "", mailFile(t, f))
	}
	p.ok("SELECT INBOX")
	for _, l := range p.ok("FETCH 1:* (ENVELOPE BODY BODYSTRUCTURE)") {
		for i := 0; i < len(l); i++ {
			if l[i] >= 0x80 || l[i] == 0 {
				t.Fatalf("octet %#x in %q", l[i], l)
			}
		}
	}
}

// TestIdleAcrossSessions counts: every message that one session appends is told
// to another in IDLE, which is entered and left all the time.
func TestIdleAcrossSessions(t *testing.T) {
	_, addr := start(t, Options{AllowPlaintextLogin: true})
	seen := make(chan uint32, 1000)
	watcher := connect(t, addr, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(d *imapclient.UnilateralDataMailbox) {
			if d.NumMessages != nil {
				seen <- *d.NumMessages
			}
		},
	}})
	if _, err := watcher.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	writer := connect(t, addr, nil)
	const total = 60
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range total {
			put(t, writer, "INBOX", shortMail)
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		}
	}()
	last := uint32(0)
	for last < total {
		idle, err := watcher.Idle()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case last = <-seen:
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing heard after message %d", last)
		}
		if err := idle.Close(); err != nil {
			t.Fatal(err)
		}
		if err := idle.Wait(); err != nil {
			t.Fatal(err)
		}
		for len(seen) > 0 {
			last = <-seen
		}
	}
	<-done
}

// TestManySessions lets sessions change one mailbox at the same time and holds
// that each one's picture, kept from what it was told, is that of the store.
func TestManySessions(t *testing.T) {
	store := openStore(t)
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	first := dial(t, addr).login()
	for range 40 {
		first.append("INBOX", "", shortMail)
	}
	const sessions = 4
	errs := make(chan error, sessions)
	for n := range sessions {
		p := dial(t, addr).login()
		go func() { errs <- churn(p, rand.New(rand.NewPCG(uint64(n), 7))) }()
	}
	for range sessions {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// picture is a client's view of a mailbox: UIDs by sequence number, 0 unknown.
type picture struct{ uids []string }

func (v *picture) hear(l string) error {
	var n int
	var what string
	if k, _ := fmt.Sscanf(l, "* %d %s", &n, &what); k != 2 {
		return nil
	}
	switch what {
	case "EXISTS":
		if n < len(v.uids) {
			return fmt.Errorf("EXISTS %d below %d", n, len(v.uids))
		}
		for len(v.uids) < n {
			v.uids = append(v.uids, "")
		}
	case "EXPUNGE":
		if n < 1 || n > len(v.uids) {
			return fmt.Errorf("EXPUNGE %d of %d", n, len(v.uids))
		}
		v.uids = append(v.uids[:n-1], v.uids[n:]...)
	case "FETCH":
		_, rest, ok := strings.Cut(l, "(UID ")
		if !ok || n < 1 || n > len(v.uids) {
			return fmt.Errorf("FETCH %d of %d: %s", n, len(v.uids), l)
		}
		uid := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == ')' })[0]
		if have := v.uids[n-1]; have != "" && have != uid {
			return fmt.Errorf("message %d has UID %s and then %s", n, have, uid)
		}
		v.uids[n-1] = uid
	}
	return nil
}

func churn(p *peer, r *rand.Rand) error {
	var v picture
	run := func(cmd string) error {
		for _, l := range p.do(cmd) {
			if err := v.hear(l); err != nil {
				return fmt.Errorf("%s: %w", cmd, err)
			}
			if strings.HasPrefix(l, "t BAD") {
				return errors.New(cmd + ": " + l)
			}
		}
		return nil
	}
	if err := run("SELECT INBOX"); err != nil {
		return err
	}
	for range 80 {
		n := max(len(v.uids), 1)
		cmds := []string{"NOOP", "FETCH 1:* (UID FLAGS)", "SEARCH UNSEEN", "EXPUNGE", "UID FETCH 1:* (UID)", "CHECK"}
		if len(v.uids) > 0 {
			k := r.IntN(n) + 1
			cmds = append(cmds, fmt.Sprintf("STORE %d +FLAGS (\\Deleted)", k), fmt.Sprintf("STORE %d FLAGS.SILENT (\\Seen)", k),
				fmt.Sprintf("COPY %d INBOX", k), fmt.Sprintf("MOVE %d Trash", k))
		}
		cmds = append(cmds, fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(shortMail), shortMail))
		if err := run(cmds[r.IntN(len(cmds))]); err != nil {
			return err
		}
	}
	for _, cmd := range []string{"NOOP", "FETCH 1:* (UID)"} { // the others may still change things: numbers must fit all the same
		if err := run(cmd); err != nil {
			return err
		}
	}
	return nil
}

// TestLargeMessage streams a message much larger than any buffer, whole and in
// parts, without holding it.
func TestLargeMessage(t *testing.T) {
	_, addr := start(t, Options{AllowPlaintextLogin: true})
	c := connect(t, addr, nil)
	var b strings.Builder
	b.WriteString("Subject: large\r\n\r\n")
	for i := 0; b.Len() < 8<<20; i++ {
		fmt.Fprintf(&b, "line %d\r\n", i)
	}
	msg := b.String()
	put(t, c, "INBOX", msg)
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	for _, part := range []*goimap.SectionPartial{nil, {Offset: 5 << 20, Size: 1 << 20}} {
		want := msg
		if part != nil {
			want = msg[part.Offset : part.Offset+part.Size]
		}
		msgs, err := c.Fetch(goimap.SeqSetNum(1), &goimap.FetchOptions{BodySection: []*goimap.FetchItemBodySection{{Peek: true, Partial: part}}}).Collect()
		if err != nil || len(msgs) != 1 || string(msgs[0].BodySection[0].Bytes) != want {
			t.Fatalf("%v: %d messages, %v", part, len(msgs), err)
		}
	}
}

// TestStoreErrors: what the store says becomes a code, and nothing of its inner
// words.
func TestStoreErrors(t *testing.T) {
	s := &session{srv: New2(t, Options{Store: openStore(t)})}
	defer s.srv.Shutdown(context.Background())
	if err := s.fail("x", errors.New("secret: disk 7")); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if s.fail("x", nil) != nil {
		t.Error("nil is no failure")
	}
}
