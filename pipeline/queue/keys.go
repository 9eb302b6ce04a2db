package queue

import (
	"encoding/binary"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// Keys. The owner is "queue/0": there is one shard.
//
//	queue/0/entry/ID              the entry (10 octets)
//	queue/0/entry/ID/N            one recipient's state; N in 4 octets
//	queue/0/due/MINUTE/HOP/ID/N   when it is due: minutes since 1970 in 4 octets; no value
//	queue/0/quarantine/ID/N       a recipient's copy is in quarantine; no value
//	queue/0/low                   MINUTE before which nothing is due
//
// A due key is not deleted when its recipient is settled: finished minutes go as
// a range, and the low-water mark keeps scans away from where they stood (RULES
// B8). A due key counts only if the recipient is there and due in that minute.
const (
	entryPrefix      = "queue/0/entry/"
	duePrefix        = "queue/0/due/"
	quarantinePrefix = "queue/0/quarantine/"
	lowKey           = "queue/0/low"
)

// localHop is the HOP of mailboxes, bounces and whatever else leaves no host.
const localHop = "local"

const idSize = len(storage.ID{})

func entryKey(id storage.ID) []byte {
	return append(append(make([]byte, 0, len(entryPrefix)+idSize), entryPrefix...), id[:]...)
}

func recipientKey(id storage.ID, number uint32) []byte {
	k := append(make([]byte, 0, len(entryPrefix)+idSize+5), entryPrefix...)
	return binary.BigEndian.AppendUint32(append(append(k, id[:]...), '/'), number)
}

func quarantineKey(id storage.ID, number uint32) []byte {
	k := append(make([]byte, 0, len(quarantinePrefix)+idSize+5), quarantinePrefix...)
	return binary.BigEndian.AppendUint32(append(append(k, id[:]...), '/'), number)
}

func dueKey(minute uint32, hop string, id storage.ID, number uint32) []byte {
	k := append(make([]byte, 0, len(duePrefix)+4+1+len(hop)+1+idSize+5), duePrefix...)
	k = append(binary.BigEndian.AppendUint32(k, minute), '/')
	k = append(append(append(k, hop...), '/'), id[:]...)
	return binary.BigEndian.AppendUint32(append(k, '/'), number)
}

func dueBound(minute uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte(duePrefix), minute)
}

// parseDue reads a due key; ok is false for one that is malformed.
func parseDue(key []byte) (minute uint32, id storage.ID, number uint32, ok bool) {
	const tail = 1 + len(storage.ID{}) + 1 + 4
	if len(key) < len(duePrefix)+4+1+tail {
		return 0, id, 0, false
	}
	minute = binary.BigEndian.Uint32(key[len(duePrefix):])
	end := key[len(key)-tail:]
	copy(id[:], end[1:])
	return minute, id, binary.BigEndian.Uint32(end[tail-4:]), true
}

func minuteOf(t time.Time) uint32 { return uint32(max(t.Unix(), 0) / 60) }

// useOf names the queue's use of a content.
func useOf(id storage.ID) string { return "queue/" + string(id[:]) }
