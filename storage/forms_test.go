package storage

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
)

// TestStoredForms holds what is on the disks of format 1 (FORMAT.md): a change here is a new format.
func TestStoredForms(t *testing.T) {
	r := exampleRecord()
	b := box{log: 3, Mailbox: Mailbox{
		Name: "Größe/x", Use: UseSent, UIDValidity: 1 << 31, Created: time.Unix(1e9, 0).UTC(), Keywords: []string{"$Label", "b"},
		UIDNext: 300, HighestModSeq: 1 << 40, Exists: 200, Unseen: 100, Deleted: 1, Size: 1 << 33, ExpungeFloor: 7,
	}}
	n := numbers{nextBox: 300, uidValidity: 1 << 31, seqFloor: 1 << 40}
	s := openMemory(t, func(o *Options) { o.Clock = func() time.Time { return time.UnixMilli(1) } })
	p := put(t, s, "Message-ID: <a@b>\r\nReferences: <c@d>\r\nSubject: s\r\n\r\nbody\r\n")
	for name, c := range map[string]struct {
		value []byte
		want  string
		read  func([]byte) error
	}{
		"message":  {r.appendTo(nil), "01114d02000380a8d6b907ab0280d0acf30e8020010000000000000000000303000000000000000000020000000000000000001152657475726e2d506174683a203c3e0d0a6c61746572", func(v []byte) error { return decodeRecord(v, &r) }},
		"mailbox":  {b.appendStatic(nil), "0101808080800880a8d6b907094772c3b6c39f652f780206244c6162656c0162", b.decodeStatic},
		"state":    {b.appendState(nil), "01ac02808080808020c801640180808080200703", b.decodeState},
		"numbers":  {n.appendTo(nil), "01ac028080808008808080808020", n.decode},
		"expunged": {appendRanges(nil, []UIDRange{{1, 4}, {300, 1 << 31}}), "01020103a802d4fdffff07", func(v []byte) error { _, err := decodeRanges(v); return err }},
		"content":  {p.record, "01013a000104010000003a027508d8b5018ea640e1528246de926aed32010100003a0a00017300000000000000053c6140623e010363406400047465787405706c61696e00000034060104626f6479", func(v []byte) error { _, err := decodeContent(p.id, v, 0); return err }},
		"lesson": {(&Lesson{Kind: LessonHam, Account: ID{1}, Content: ID{2}, Variant: 15}).appendTo(nil), "010201000000000000000000020000000000000000000f", func(v []byte) error {
			_, err := decodeLesson((&Lesson{Pupil: "p"}).appendKey(nil), v)
			return err
		}},
		"file":    {blob.Ref{Kind: blob.File, Name: "0123456789abcdef0123456789ab", Size: 1 << 40}.AppendBinary(nil), "038080808080201c30313233343536373839616263646566303132333435363738396162", func(v []byte) error { d := codec.New(v); blob.ReadRef(&d); return d.End("reference") }},
		"variant": {blob.Variant{Front: []byte("X: y\r\n"), Edits: []blob.Edit{{Off: 3, Len: 4, With: []byte("z")}, {Off: 300, Len: 1}}}.AppendBinary(nil), "010006583a20790d0a020304017aa5020100", func(v []byte) error { _, err := blob.DecodeVariant(v); return err }},
	} {
		if got := hex.EncodeToString(c.value); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if err := c.read(c.value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
