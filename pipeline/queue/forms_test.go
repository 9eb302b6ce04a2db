package queue

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

func sampleEntry() Entry {
	return Entry{
		ID: storage.ID{1}, Origin: sdk.Login, Pipeline: "outbound", Received: time.Unix(1e9, 1).UTC(), Sender: "a@example.test",
		Params:  pipeline.SenderParams{Size: 300, Body: "8BITMIME", SMTPUTF8: true, Ret: "HDRS", EnvID: "e", TLS: true},
		Content: storage.ContentID{2}, Size: 1 << 40, Verified: true, Login: "c@example.test",
	}
}

func sampleRecipient() Recipient {
	return Recipient{
		Number: 300, Address: "b@example.test", Params: pipeline.RecipientParams{Notify: []string{"DELAY", "FAILURE"}, ORcpt: "rfc822;b"},
		Hop:     pipeline.Hop{Kind: pipeline.HopMailbox, Account: storage.AccountID{3}, Address: "c@example.test", Junk: true, Why: "GTUBE", Via: "smtp://h:25", Sender: "s@example.test"},
		Variant: 2, Attempts: 3, Next: time.Unix(2e9, 0).UTC(), Last: "451", Warned: true,
	}
}

// Of form 1, which is still read.
const (
	entryForm1     = "0101000000000000000000056c6f67696e086f7574626f756e648280a0f6f4acdbe01b0e61406578616d706c652e74657374d80408384249544d494d45010448445253016502000000000000000000808080808040"
	recipientForm1 = "01d8040e62406578616d706c652e74657374020544454c4159074641494c555245087266633832323b6201030000000000000000000e63406578616d706c652e746573740105475455424504068080c0ece9d9b6c1370334353101"
)

// TestFormsOnDisk holds what is on the disks of format 1 (storage/FORMAT.md): a change here is a new form.
func TestFormsOnDisk(t *testing.T) {
	e, r := sampleEntry(), sampleRecipient()
	for name, c := range map[string]struct {
		value []byte
		want  string
	}{
		"entry":     {e.append(nil), "02" + entryForm1[2:] + "01010e63406578616d706c652e74657374"},
		"recipient": {r.append(nil), "02" + recipientForm1[2:] + "0b736d74703a2f2f683a32350e73406578616d706c652e74657374"},
	} {
		if got := hex.EncodeToString(c.value); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got, err := decodeEntry(e.append(nil)); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("the entry comes back as %+v, %v", got, err)
	}
	if got, err := decodeRecipient(r.append(nil)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("the recipient comes back as %+v, %v", got, err)
	}
}

// TestNewestForm: what has more to say is written in form 3, the rest as it was.
func TestNewestForm(t *testing.T) {
	r := sampleRecipient()
	r.Since, r.Added, r.Instead = time.Unix(3e9, 5).UTC(), "journal", []string{"x@example.test", "y@example.test"}
	const more = "8a80e0e2de8692a25307" + "6a6f75726e616c" + "02" + "0e78406578616d706c652e74657374" + "0e79406578616d706c652e74657374"
	if got, want := hex.EncodeToString(r.append(nil)), "03"+recipientForm1[2:]+"0b736d74703a2f2f683a32350e73406578616d706c652e74657374"+more; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, err := decodeRecipient(r.append(nil)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("it comes back as %+v, %v", got, err)
	}
}

// TestNotes: what a due key says beside.
func TestNotes(t *testing.T) {
	at := time.Unix(6e7, 0)
	for _, c := range []struct {
		r    Recipient
		want string
	}{
		{Recipient{}, ""}, {Recipient{Warned: true}, "0100000000"}, {Recipient{Since: at}, "00000f4240"}, {Recipient{Since: at, Warned: true}, "01000f4240"},
	} {
		got := c.r.note()
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%+v: %x", c.r, got)
		}
		n := parseNote(got)
		if n.warned != c.r.Warned || !c.r.Since.IsZero() && !n.began(storage.ID{}).Equal(at) {
			t.Errorf("%x is read as %+v", got, n)
		}
	}
	if n := parseNote([]byte("nonsense")); n != (note{}) {
		t.Errorf("%+v", n)
	}
}

// TestOlderForms: what an earlier version wrote is read.
func TestOlderForms(t *testing.T) {
	octets := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	e, r := sampleEntry(), sampleRecipient()
	e.Params.TLS, e.Verified, e.Login = false, false, ""
	r.Hop.Via, r.Hop.Sender = "", ""
	if got, err := decodeEntry(octets(entryForm1)); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("the entry comes back as %+v, %v", got, err)
	}
	if got, err := decodeRecipient(octets(recipientForm1)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("the recipient comes back as %+v, %v", got, err)
	}
	for _, form := range []byte{0, entryForm + 1} {
		if _, err := decodeEntry(append([]byte{form}, octets(entryForm1)[1:]...)); err == nil {
			t.Errorf("form %d is read", form)
		}
	}
}

// FuzzDecode reads entries, recipients and due keys from hostile octets: what comes back can be worked with, and written again.
func FuzzDecode(f *testing.F) {
	e, r := sampleEntry(), sampleRecipient()
	f.Add(e.append(nil))
	f.Add(r.append(nil))
	f.Add(dueKey(7, localHop, e.ID, 9))
	r.Since, r.Added, r.Instead = r.Next, "journal", []string{"x@example.test"}
	f.Add(r.append(nil))
	f.Add(append([]byte{recipientForm}, make([]byte, 60)...))
	f.Add(append([]byte{1}, make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEntry(b); err == nil {
			if again, err := decodeEntry(e.append(nil)); err != nil || !reflect.DeepEqual(again, e) {
				t.Errorf("%+v comes back as %+v, %v", e, again, err)
			}
		}
		if r, err := decodeRecipient(b); err == nil {
			if again, err := decodeRecipient(r.append(nil)); err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%+v comes back as %+v, %v", r, again, err)
			}
			if r.Variant < 0 || r.Variant >= 16 || r.Attempts < 0 {
				t.Errorf("variant %d, %d attempts", r.Variant, r.Attempts)
			}
		}
		parseDue(b)
		parseNote(b)
	})
}

// TestRecipientsThatCannotBe: a damaged number asks for no memory and is no place in a list.
func TestRecipientsThatCannotBe(t *testing.T) {
	for _, change := range []func(*Recipient){
		func(r *Recipient) { r.Variant = 1 << 40 }, func(r *Recipient) { r.Variant = -1 }, func(r *Recipient) { r.Attempts = -1 },
	} {
		r := sampleRecipient()
		change(&r)
		if got, err := decodeRecipient(r.append(nil)); err == nil {
			t.Errorf("read as %+v", got)
		}
	}
}
