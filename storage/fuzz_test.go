package storage

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
)

func exampleRecord() record {
	return record{
		system: Seen | Draft, keywords: []byte{0, 3}, seq: 77, internal: time.Unix(1e9, 0).In(time.FixedZone("", -9000)),
		saved: 2e9, size: 4096, content: ID{1}, variant: 3, thread: ID{2}, instance: ID{3},
		front: []byte("Return-Path: <>\r\n"), ext: []byte("later"),
	}
}

// FuzzValues reads every kind of value from hostile octets, and writes what it read again: a second reading gives the same.
func FuzzValues(f *testing.F) {
	r := exampleRecord()
	f.Add(r.appendTo(nil))
	b := box{Mailbox: Mailbox{Name: "INBOX", Use: UseSent, UIDValidity: 9, Created: time.Unix(5, 0).UTC(), Keywords: []string{"a", "b"}, UIDNext: 4, Exists: 3}}
	f.Add(b.appendStatic(nil))
	f.Add(b.appendState(nil))
	n := numbers{nextBox: 3, uidValidity: 4, seqFloor: 5}
	f.Add(n.appendTo(nil))
	f.Add(appendRanges(nil, []UIDRange{{1, 4}, {6, 6}}))
	f.Fuzz(func(t *testing.T, value []byte) {
		var r, r2 record
		if decodeRecord(value, &r) == nil {
			enc := r.appendTo(nil)
			if err := decodeRecord(enc, &r2); err != nil || !bytes.Equal(r2.appendTo(nil), enc) {
				t.Errorf("message %v comes back as %v, %v", r, r2, err)
			}
			var m Message
			r.message(&m, &box{Mailbox: Mailbox{Keywords: []string{"x"}}}, 1)
			m.Clone()
		}
		var b, b2 box
		if b.decodeStatic(value) == nil {
			if err := b2.decodeStatic(b.appendStatic(nil)); err != nil || !reflect.DeepEqual(b, b2) {
				t.Errorf("mailbox %+v comes back as %+v, %v", b, b2, err)
			}
		}
		b, b2 = box{}, box{}
		if b.decodeState(value) == nil {
			if err := b2.decodeState(b.appendState(nil)); err != nil || !reflect.DeepEqual(b, b2) {
				t.Errorf("state %+v comes back as %+v, %v", b, b2, err)
			}
		}
		var n, n2 numbers
		if n.decode(value) == nil && (n2.decode(n.appendTo(nil)) != nil || n != n2) {
			t.Errorf("numbers %+v come back as %+v", n, n2)
		}
		if list, err := decodeRanges(value); err == nil {
			again, err := decodeRanges(appendRanges(nil, list))
			if err != nil || !slices.Equal(again, list) {
				t.Errorf("ranges %v come back as %v, %v", list, again, err)
			}
		}
	})
}

// FuzzContent reads content records from hostile octets.
func FuzzContent(f *testing.F) {
	rec := append([]byte{recordVersion}, blob.Ref{Kind: blob.Inline, Size: 10}.AppendBinary(nil)...)
	rec = append(rec, 1)
	rec = codec.AppendBytes(rec, blob.Variant{Front: []byte("X: y\r\n")}.AppendBinary(nil))
	rec = append(rec, 16, 1, 0, 0, 0, 0, 0, 0, 0, 9)
	rec = codec.AppendBytes(rec, nil)
	f.Add(rec)
	f.Fuzz(func(t *testing.T, value []byte) {
		for i := range maxVariants {
			if rec, err := decodeContent(ID{1}, value, i); err == nil && (rec.info.Variant != i || rec.variants <= i) {
				t.Errorf("variant %d: %+v", i, rec)
			}
		}
		largeSummaries(value)
	})
}

func FuzzCleanName(f *testing.F) {
	for _, s := range []string{"inbox/x", "a/b/", "u\u0308", "..", "a//b", "İnbox", "INBOX", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := CleanName(name)
		if err != nil {
			return
		}
		if again, err := CleanName(got); err != nil || again != got {
			t.Errorf("%q becomes %q and then %q, %v", name, got, again, err)
		}
		if len(got) > maxNameSize {
			t.Errorf("%q is too long", got)
		}
	})
}
