package imap

import (
	"context"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// A message with fields in front of its content, and whose content is a variant,
// is one message for the client: sizes, sections and SEARCH agree.
func TestFrontAndVariant(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	a, err := store.Accounts().Lookup(ctx, testUser)
	if err != nil {
		t.Fatal(err)
	}
	const front, added = "Return-Path: <x@y.test>\r\n", "X-Spam: no\r\n"
	base := "Subject: base\r\nX-Forged: yes\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n"
	want := front + added + strings.Replace(base, "X-Forged: yes\r\n", "", 1)
	spool := store.Blobs().NewSpool()
	io.WriteString(spool, base)
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	at := int64(strings.Index(base, "X-Forged"))
	variant := blob.Variant{Front: []byte(added), Edits: []blob.Edit{{Off: at, Len: int64(len("X-Forged: yes\r\n"))}}}
	p, err := store.Prepare(ctx, draft, []blob.Variant{{}, variant})
	if err != nil {
		t.Fatal(err)
	}
	pos, err := store.Update(ctx, a.ID, func(tx *storage.Tx) error {
		m, err := tx.Mailbox("INBOX")
		if err != nil {
			return err
		}
		p.Put(tx.Batch(), "")
		_, err = tx.Deliver(m.ID, storage.Delivery{Info: p.Info(1), Front: []byte(front)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.WaitDurable(ctx, pos); err != nil {
		t.Fatal(err)
	}
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	c := dial(t, addr).login()
	c.ok("SELECT INBOX")
	header := want[:strings.Index(want, "--b")]
	for item, text := range map[string]string{
		"BODY[]": want, "BODY[HEADER]": header, "BODY[TEXT]": want[len(header):], "BODY[1]": "one", "BODY[2]": "two",
		"BODY[HEADER.FIELDS (RETURN-PATH SUBJECT X-FORGED)]":    front + "Subject: base\r\n\r\n",
		"BODY[HEADER.FIELDS.NOT (\"Content-Type\" \"X-Spam\")]": front + "Subject: base\r\n\r\n",
	} {
		l := c.ok("FETCH 1 " + item)
		if got := strings.Join(l[1:len(l)-1], "\r\n"); got != text+")" {
			t.Errorf("%s:\n got %q\nwant %q", item, got, text)
		}
	}
	if l := c.ok("FETCH 1 RFC822.SIZE"); !strings.Contains(l[0], "RFC822.SIZE "+strconv.Itoa(len(want))+")") {
		t.Errorf("%q, want %d", l, len(want))
	}
	for cmd, hit := range map[string]string{
		"SEARCH HEADER Return-Path y.test": "* SEARCH 1", "SEARCH HEADER X-Forged \"\"": "* SEARCH", "SEARCH TEXT y.test": "* SEARCH 1", "SEARCH BODY two": "* SEARCH 1",
		"SEARCH BODY y.test": "* SEARCH",
	} {
		if l := c.ok(cmd); l[0] != hit {
			t.Errorf("%s: %q", cmd, l)
		}
	}
}
