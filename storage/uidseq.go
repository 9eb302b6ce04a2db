package storage

import (
	"slices"
	"strconv"
)

// UIDSequence is the immutable ascending list of a mailbox's UIDs at one moment. Sessions share it: do not change what
// Slice returns.
type UIDSequence struct{ uids []UID }

// Len returns the number of messages.
func (s *UIDSequence) Len() int { return len(s.uids) }

// At returns the UID of the message with sequence number i+1.
func (s *UIDSequence) At(i int) UID { return s.uids[i] }

// Index returns the place of uid counted from 0, or where it would be, and whether it is there.
func (s *UIDSequence) Index(uid UID) (int, bool) { return slices.BinarySearch(s.uids, uid) }

// Slice returns the UIDs in [first, last].
func (s *UIDSequence) Slice(first, last UID) []UID {
	i, _ := s.Index(first)
	j, found := s.Index(last)
	if found {
		j++
	}
	if i >= j {
		return nil
	}
	return s.uids[i:j:j]
}

// All returns all UIDs.
func (s *UIDSequence) All() []UID { return s.uids[:len(s.uids):len(s.uids)] }

func itoa(n int) string { return strconv.Itoa(n) }
