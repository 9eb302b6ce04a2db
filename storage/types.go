package storage

import (
	"errors"
	"time"

	"github.com/sluicemail/sluice/storage/id"
)

// ID names an account, a content or the instance of a message. String gives 16 characters of Crockford's base32.
type ID = id.ID

// Names for what an ID stands for.
type (
	AccountID = ID
	ContentID = ID
)

// ParseID reads what ID.String wrote.
func ParseID(s string) (ID, error) { return id.Parse(s) }

// MailboxID names a mailbox within its account; it is never used twice there and does not change when the mailbox is
// renamed. Zero names nothing.
type MailboxID uint32

// UID is a message's number within its mailbox (RFC 9051 section 2.3.1.1).
type UID uint32

// ModSeq is a modification sequence (RFC 7162). All mailboxes of an account draw from one sequence.
type ModSeq uint64

// Errors that callers tell apart with errors.Is.
var (
	ErrUnknownAccount  = errors.New("no such account")
	ErrAccountExists   = errors.New("the account exists already")
	ErrAccountHasMail  = errors.New("the account has mail")
	ErrNoMailbox       = errors.New("no such mailbox")
	ErrMailboxExists   = errors.New("the mailbox exists already")
	ErrMailboxName     = errors.New("this is not a possible mailbox name")
	ErrInbox           = errors.New("INBOX cannot be removed")
	ErrNoMessage       = errors.New("no such message")
	ErrNoContent       = errors.New("no such content")
	ErrOverQuota       = errors.New("the quota of the account is used up")
	ErrKeyword         = errors.New("this is not a possible keyword")
	ErrTooManyKeywords = errors.New("too many different keywords")
	ErrTooManyMail     = errors.New("the mailbox has no UID left")
	ErrTooManyBoxes    = errors.New("too many mailboxes")
	ErrTooLarge        = errors.New("too much for one change; do it in smaller steps")
	ErrClosed          = errors.New("the store is closed")
)

// System is a set of system flags.
type System uint8

// The system flags of RFC 9051 section 2.3.2. (\Recent is not kept: it is a property of sessions.)
const (
	Seen System = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// Flags are a message's flags. Keywords are in their first spelling in the mailbox, sorted without case, each once.
type Flags struct {
	System   System
	Keywords []string
}

// SpecialUse is a set of the attributes of RFC 6154.
type SpecialUse uint8

// Special uses. A mailbox has at most one of them here, and an account at most one mailbox for each.
const (
	UseSent SpecialUse = 1 << iota
	UseDrafts
	UseJunk
	UseTrash
	UseArchive
)

// Mailbox describes a mailbox as it was at one moment.
type Mailbox struct {
	ID          MailboxID
	Name        string // UTF-8, NFC, levels divided by '/', INBOX in upper case
	Use         SpecialUse
	UIDValidity uint32
	Subscribed  bool
	Created     time.Time

	UIDNext       UID
	HighestModSeq ModSeq
	Exists        uint32
	Unseen        uint32
	Deleted       uint32
	Size          int64    // octets of all messages
	ExpungeFloor  ModSeq   // what was expunged at or before this is forgotten
	Keywords      []string // every keyword that was used in the mailbox; do not change
}

// Message is one message in a mailbox.
type Message struct {
	Mailbox      MailboxID
	UID          UID
	ModSeq       ModSeq
	Flags        Flags
	InternalDate time.Time // with the zone that it was given in, to the second
	SaveDate     time.Time // when it came into this mailbox (RFC 8514), UTC, to the second
	Size         int64     // RFC822.SIZE: Front and the variant
	ContentID    ContentID
	Variant      int
	ThreadID     ID
	Instance     ID     // the identity of this copy: kept by MOVE, new on COPY
	Front        []byte // fields in front of the variant: Return-Path, Delivered-To

	ext []byte // extensions that this version does not know, kept when the record is written again
}

// EmailID returns the EMAILID of RFC 8474: the same for all copies of a variant of a content.
func (m *Message) EmailID() EmailID { return EmailID{m.ContentID, uint8(m.Variant)} }

// UIDL returns the unique id that POP3 shows (RFC 1939 section 7).
func (m *Message) UIDL() string { return m.Instance.String() }

// Clone returns a deep copy.
func (m *Message) Clone() *Message {
	c := *m
	c.Front = append([]byte(nil), m.Front...)
	c.Flags.Keywords = append([]string(nil), m.Flags.Keywords...)
	c.ext = append([]byte(nil), m.ext...)
	return &c
}

// EmailID identifies the immutable octets of a message.
type EmailID struct {
	Content ContentID
	Variant uint8
}

// String returns "M", the content's ID, and for variants other than the first "-N".
func (e EmailID) String() string {
	s := "M" + e.Content.String()
	if e.Variant != 0 {
		s += "-" + itoa(int(e.Variant))
	}
	return s
}

// UIDRange is a range of UIDs, both ends included.
type UIDRange struct{ First, Last UID }

// Quota says how much of an account's storage is used.
type Quota struct {
	Used  int64 // octets of all messages in all mailboxes
	Limit int64 // 0: none
	Count int64 // messages
}
