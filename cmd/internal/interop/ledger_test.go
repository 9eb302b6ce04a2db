package interop

import (
	"fmt"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"
)

// ledger is what the outside world knows: which messages were acknowledged, and
// what readers were told.
type ledger struct {
	mu    sync.Mutex
	acked map[string][]string            // Message-ID to recipients, for each message whose 250 was read whole
	told  map[string]map[imap.UID]string // user to UID to Message-ID
	valid map[string]uint32              // user to UIDVALIDITY
	onAck func(total int)                // called with the lock released
	notes map[string]int                 // what else happened to messages: replies, lost connections
}

func newLedger() *ledger {
	return &ledger{
		acked: make(map[string][]string), told: make(map[string]map[imap.UID]string),
		valid: make(map[string]uint32), notes: make(map[string]int),
	}
}

func (l *ledger) ack(id string, to []string) {
	l.mu.Lock()
	l.acked[id] = to
	total, call := len(l.acked), l.onAck
	l.mu.Unlock()
	if call != nil {
		call(total)
	}
}

func (l *ledger) note(what string) {
	l.mu.Lock()
	l.notes[what]++
	l.mu.Unlock()
}

func (l *ledger) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// tell notes what a reader saw in user's INBOX. It returns what is wrong with it:
// a UID that names another message than before, a UIDVALIDITY that changed, a
// message that is there twice.
func (l *ledger) tell(user string, validity uint32, seen []stored) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	if was, ok := l.valid[user]; ok && was != validity {
		wrong = append(wrong, fmt.Sprintf("UIDVALIDITY of %s was %d and is %d", user, was, validity))
	}
	l.valid[user] = validity
	if l.told[user] == nil {
		l.told[user] = make(map[imap.UID]string)
	}
	told := l.told[user]
	for _, m := range seen {
		if was, ok := told[m.uid]; ok && was != m.id {
			wrong = append(wrong, fmt.Sprintf("UID %d of %s was <%s> and is <%s>", m.uid, user, was, m.id))
		}
		told[m.uid] = m.id
	}
	return wrong
}

// audit compares the whole INBOX of user with everything that is known.
// Missing acknowledged messages may still be in the queue; the rest is wrong
// whenever it is seen.
func (l *ledger) audit(user string, validity uint32, all []stored) (wrong, missing []string) {
	wrong = l.tell(user, validity, all)
	there := make(map[imap.UID]bool, len(all))
	counts := make(map[string]int, len(all))
	for _, m := range all {
		there[m.uid] = true
		counts[m.id]++
	}
	for id, n := range counts {
		if n > 1 {
			wrong = append(wrong, fmt.Sprintf("%s has <%s> %d times", user, id, n))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, id := range l.told[user] {
		if !there[uid] {
			wrong = append(wrong, fmt.Sprintf("%s was told of UID %d, <%s>, and it is gone", user, uid, id))
		}
	}
	for id, to := range l.acked {
		if slices.Contains(to, user) && counts[id] == 0 {
			missing = append(missing, id)
		}
	}
	return wrong, missing
}

// check audits every user's INBOX, and waits for the queue to empty.
func (l *ledger) check(s *site, users ...string) {
	s.t.Helper()
	for _, user := range users {
		var missing []string
		eventually(s.t, queueLimit, "the acknowledged mail of "+user, func() bool {
			all, validity, err := s.list(user, "INBOX")
			if err != nil {
				s.t.Fatal(err)
			}
			var wrong []string
			wrong, missing = l.audit(user, validity, all)
			if len(wrong) > 0 {
				s.t.Fatalf("%d things are wrong:\n%q", len(wrong), wrong[:min(len(wrong), 20)])
			}
			return len(missing) == 0
		})
	}
}
