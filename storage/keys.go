package storage

import (
	"encoding/binary"

	"github.com/sluicemail/sluice/storage/id"
)

// Owners: the first octets of every key (FORMAT.md).
const (
	ownerAccount = "account/" // ID kind ...
	ownerContent = "content/" // kind ID
	ownerRef     = "ref/"     // CONTENT USE
	ownerGC      = "gc/"      // CONTENT ID(10)
	ownerSystem  = "system/"
	ownerLesson  = "lesson/" // PUPIL / LESSON

	keyFormat      = ownerSystem + "format"
	keyUIDValidity = ownerSystem + "uidvalidity"
	keyPurge       = ownerSystem + "purge/" // ACCOUNT [MAILBOX]
)

// Kinds of keys of an account. 'a' and 'c' belong to storage/account.
const (
	kindNumbers = 'n'
	kindBox     = 'b' // MAILBOX(4)
	kindState   = 's' // MAILBOX(4)
	kindMessage = 'm' // MAILBOX(4) UID(4)
	kindExpunge = 'e' // MAILBOX(4) MODSEQ(8)
	kindThread  = 't' // HASH(8)
	kindSub     = 'u' // NAME
)

// Kinds of keys of content.
const (
	contentRecord  = 'r'
	contentBody    = 'b'
	contentParts   = 'p' // NUMBER(1): a body in place of the one that arrived, inline
	contentSummary = 's' // VARIANT(1): a summary that is too large for the record
)

// useMessage begins the use of a content by a message: 'm' ACCOUNT(10) MAILBOX(4) UID(4).
const (
	useMessage     = 'm'
	useMessageSize = 1 + id.Size + 4 + 4
)

func appendAccountKey(b []byte, a AccountID, kind byte) []byte {
	b = append(b, ownerAccount...)
	b = append(b, a[:]...)
	return append(b, kind)
}

func appendBoxKey(b []byte, a AccountID, kind byte, box MailboxID) []byte {
	return binary.BigEndian.AppendUint32(appendAccountKey(b, a, kind), uint32(box))
}

func appendMessageKey(b []byte, a AccountID, box MailboxID, uid UID) []byte {
	return binary.BigEndian.AppendUint32(appendBoxKey(b, a, kindMessage, box), uint32(uid))
}

func appendExpungeKey(b []byte, a AccountID, box MailboxID, seq ModSeq) []byte {
	return binary.BigEndian.AppendUint64(appendBoxKey(b, a, kindExpunge, box), uint64(seq))
}

func appendThreadKey(b []byte, a AccountID, hash uint64) []byte {
	return binary.BigEndian.AppendUint64(appendAccountKey(b, a, kindThread), hash)
}

func appendMessageUse(b []byte, a AccountID, box MailboxID, uid UID) []byte {
	b = append(b, useMessage)
	b = append(b, a[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(box))
	return binary.BigEndian.AppendUint32(b, uint32(uid))
}

func contentKey(kind byte, c ContentID) []byte {
	b := make([]byte, 0, len(ownerContent)+1+id.Size)
	b = append(b, ownerContent...)
	b = append(b, kind)
	return append(b, c[:]...)
}

func bodyKey(c ContentID, number uint8) []byte { return append(contentKey(contentParts, c), number) }

func appendRefKey(b []byte, c ContentID, use string) []byte {
	b = append(b, ownerRef...)
	b = append(b, c[:]...)
	return append(b, use...)
}

// appendGCKey has an ID of its own in it, which is also its time: the collector's deletion of one entry never meets another.
func appendGCKey(b []byte, c ContentID, at ID) []byte {
	b = append(b, ownerGC...)
	b = append(b, c[:]...)
	return append(b, at[:]...)
}

func appendPurgeKey(b []byte, a AccountID, box MailboxID) []byte {
	b = append(b, keyPurge...)
	b = append(b, a[:]...)
	if box != 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(box))
	}
	return b
}

// prefixEnd returns the first key after all that begin with prefix, or nil for none.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// tailUID reads the UID or any other 32 bits at the end of a key.
func tailUID(key []byte) UID { return UID(binary.BigEndian.Uint32(key[len(key)-4:])) }

// boxOf reads the mailbox from the key of a message.
func boxOf(key []byte) MailboxID { return MailboxID(binary.BigEndian.Uint32(key[len(key)-8:])) }
