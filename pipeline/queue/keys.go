package queue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// Keys. The owner is "queue/0": there is one shard.
//
//	queue/0/entry/ID              the entry (10 octets)
//	queue/0/entry/ID/N            one recipient's state; N in 4 octets
//	queue/0/due/MINUTE/HOP/ID/N   when it is due: minutes since 1970 in 4 octets; the value is a note
//	queue/0/quarantine/ID/N       a recipient's copy is in quarantine; no value
//	queue/0/told/ALIAS            when the owner of an alias was told last that a forward had failed
//	queue/0/low                   MINUTE before which nothing is due
//	queue/0/low/local             MINUTE before which nothing is due for the HOP "local"
//
// HOP is "local", or "@DOMAIN" for mail that leaves, with ">VIA" behind it where somebody fixed the next
// hop. It has no slash, so that all keys of a minute and a hop are one range.
//
// A note says what the ID does not: whether its sender was told that it is late, and since when its time counts. So who looks for
// those that are late reads keys and notes alone.
//
// A due key counts only if the recipient is there. That of a local recipient is not deleted when it is
// settled: finished minutes go as a range, and the low-water mark keeps scans away from where they stood
// (RULES B8). That of a remote one is: minutes may be kept for days by a destination that is down, and nobody
// shall read all that others have settled since.
const (
	entryPrefix      = "queue/0/entry/"
	duePrefix        = "queue/0/due/"
	quarantinePrefix = "queue/0/quarantine/"
	toldPrefix       = "queue/0/told/"
	lowKey           = "queue/0/low"
	lowLocalKey      = "queue/0/low/local"
)

// localHop is the HOP of mailboxes, bounces and whatever else leaves no host.
const localHop = "local"

const (
	idSize  = len(storage.ID{})
	maxHop  = 400 // octets of HOP; a key has 1 KiB
	dueTail = 1 + idSize + 1 + 4
)

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
	k := placeKey(hop, place{minute, id})
	return binary.BigEndian.AppendUint32(append(k, '/'), number)
}

func dueBound(minute uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte(duePrefix), minute)
}

// placeKey is where the due keys of an entry stand in a minute of a hop.
func placeKey(hop string, p place) []byte {
	k := append(make([]byte, 0, len(duePrefix)+4+1+len(hop)+dueTail), duePrefix...)
	k = append(binary.BigEndian.AppendUint32(k, p.minute), '/')
	return append(append(append(k, hop...), '/'), p.id[:]...)
}

// groupEnd is behind all keys of a minute and a hop.
func groupEnd(minute uint32, hop string) []byte {
	k := append(make([]byte, 0, len(duePrefix)+4+1+len(hop)+1), duePrefix...)
	k = append(binary.BigEndian.AppendUint32(k, minute), '/')
	return append(append(k, hop...), '/'+1)
}

// parseDue reads a due key; ok is false for one that is malformed.
func parseDue(key []byte) (hop string, p place, number uint32, ok bool) {
	if len(key) < len(duePrefix)+4+1+dueTail {
		return "", p, 0, false
	}
	p.minute = binary.BigEndian.Uint32(key[len(duePrefix):])
	end := key[len(key)-dueTail:]
	copy(p.id[:], end[1:])
	hop = string(key[len(duePrefix)+5 : len(key)-dueTail])
	return hop, p, binary.BigEndian.Uint32(end[dueTail-4:]), end[0] == '/' && !strings.Contains(hop, "/")
}

// place is a position among the due keys of one hop, which are in order of minute and ID.
type place struct {
	minute uint32
	id     storage.ID
}

// nowhere is behind every place.
var nowhere = place{minute: ^uint32(0)}

func (p place) before(o place) bool {
	if p.minute != o.minute {
		return p.minute < o.minute
	}
	return bytes.Compare(p.id[:], o.id[:]) < 0
}

func earlier(a, b place) place {
	if b.before(a) {
		return b
	}
	return a
}

// hopOf returns the HOP of a recipient's due keys.
func hopOf(h *pipeline.Hop) string {
	if h.Kind != pipeline.HopRemote {
		return localHop
	}
	hop := "@" + domainOf(h.Address)
	if h.Via != "" {
		hop += ">" + h.Via
	}
	if len(hop) > maxHop {
		sum := sha256.Sum256([]byte(hop)) // two of them are never one
		hop = hop[:maxHop-2*len(sum)] + hex.EncodeToString(sum[:])
	}
	return strings.ReplaceAll(hop, "/", "|")
}

// domainOf returns the domain of an address in A-labels and lower case.
func domainOf(address string) string {
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	for i := range len(domain) {
		if domain[i] >= utf8.RuneSelf {
			if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
				return ascii
			}
			break
		}
	}
	return domain
}

func minuteOf(t time.Time) uint32 { return uint32(max(t.Unix(), 0) / 60) }

// useOf names the queue's use of a content.
func useOf(id storage.ID) string { return "queue/" + string(id[:]) }

// note is the value of a due key: empty, or one octet, 1 if the sender was told that it is late, and the minute in which its
// time began in 4 octets, 0 if its ID says that. Earlier versions wrote none.
type note struct {
	warned bool
	since  uint32
}

func (r *Recipient) note() []byte {
	if !r.Warned && r.Since.IsZero() {
		return nil
	}
	b := []byte{0}
	if r.Warned {
		b[0] = 1
	}
	since := uint32(0)
	if !r.Since.IsZero() {
		since = minuteOf(r.Since)
	}
	return binary.BigEndian.AppendUint32(b, since)
}

// parseNote reads the value of a due key. One that is malformed says nothing: then the record is asked.
func parseNote(b []byte) (n note) {
	if len(b) == 5 {
		n.warned, n.since = b[0]&1 != 0, binary.BigEndian.Uint32(b[1:])
	}
	return n
}

// began is when the time of an entry began as far as its due key says so.
func (n note) began(id storage.ID) time.Time {
	if n.since != 0 {
		return time.Unix(int64(n.since)*60, 0)
	}
	return id.Time()
}
