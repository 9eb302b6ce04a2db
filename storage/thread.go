package storage

import "fmt"

// threadOf says which conversation the message with this hash of its Message-ID belongs to.
type threadOf struct {
	hash   uint64
	thread ID
}

// maxThreadMemory is how many message IDs an account in memory remembers.
const maxThreadMemory = 64

// threadMemory is what came into an account lately. It spares a new message without References, which most are, a read of
// the engine that would find nothing, and still brings together what comes together: the copy in Sent and the one from the
// list, an answer and the message that it overtook. After a restart or long afterwards such a pair stays apart.
type threadMemory struct {
	ring []threadOf
	next int
}

func (m *threadMemory) find(hash uint64) (ID, bool) {
	for i := range m.ring {
		if m.ring[i].hash == hash {
			return m.ring[i].thread, true
		}
	}
	return ID{}, false
}

func (m *threadMemory) add(list []threadOf) {
	for _, t := range list {
		if len(m.ring) < maxThreadMemory {
			m.ring = append(m.ring, t)
			continue
		}
		m.ring[m.next] = t
		m.next = (m.next + 1) % maxThreadMemory
	}
}

// thread finds the conversation that a message belongs to: that of a message it refers to (References, In-Reply-To), or of
// one with the same Message-ID that came lately; else it begins one (RFC 8474 section 5.2).
func (tx *Tx) thread(info *ContentInfo, instance ID) (ID, error) {
	found, at := instance, -1
	for i, hash := range info.Thread {
		if hash == 0 {
			continue
		}
		t, ok, err := tx.threadOf(hash, i > 0)
		if err != nil {
			return ID{}, err
		}
		if ok {
			found, at = t, i
			break
		}
	}
	if at == 0 {
		return found, nil
	}
	// Its own Message-ID, so that answers find it; and what it refers to, in case that comes later.
	for i, hash := range info.Thread[:min(len(info.Thread), 3)] {
		if hash == 0 || i == at {
			continue
		}
		start := len(tx.arena)
		tx.arena = appendThreadKey(tx.arena, tx.id, hash)
		mid := len(tx.arena)
		tx.arena = append(tx.arena, found[:]...)
		a := tx.arena
		tx.batch.Set(a[start:mid:mid], a[mid:len(a):len(a)])
		tx.threads = append(tx.threads, threadOf{hash, found})
	}
	return found, nil
}

// threadOf looks in this update, in memory, and if read is set in the engine.
func (tx *Tx) threadOf(hash uint64, read bool) (ID, bool, error) {
	for _, t := range tx.threads {
		if t.hash == hash {
			return t.thread, true, nil
		}
	}
	if t, ok := tx.e.threads.find(hash); ok || !read {
		return t, ok, nil
	}
	value, err := tx.get(tx.build(func(b []byte) []byte { return appendThreadKey(b, tx.id, hash) }))
	if err != nil {
		return ID{}, false, fmt.Errorf("look for the thread: %w", err)
	}
	if len(value) != len(ID{}) {
		return ID{}, false, nil
	}
	return ID(value), true, nil
}
