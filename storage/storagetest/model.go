package storagetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// modelMessage is what the model knows of a message.
type modelMessage struct {
	seq      storage.ModSeq
	system   storage.System
	keywords []string // lower case, sorted
	content  storage.ContentID
	instance storage.ID
	size     int64
}

// modelBox is a mailbox in the model.
type modelBox struct {
	id       storage.MailboxID
	validity uint32
	next     storage.UID
	highest  storage.ModSeq
	messages map[storage.UID]modelMessage
}

// session is a client that follows a mailbox by Changes only.
type session struct {
	box      storage.MailboxID
	known    storage.ModSeq
	messages map[storage.UID]storage.ModSeq
}

// model is one account in memory, and the store that it is compared with.
type model struct {
	*bench
	rng      *rand.Rand
	account  storage.AccountID
	boxes    map[string]*modelBox
	gone     map[uint32]bool // UIDVALIDITYs that were used
	sessions []*session
	shared   storage.ContentInfo
	steps    []string
}

// testModel does random operations and compares.
func testModel(t *testing.T, place Place) {
	steps := 400
	if testing.Short() {
		steps = 120
	}
	seed := uint64(time.Now().UnixNano())
	b := newBench(t, place)
	b.config.CacheAccounts = 1 // other accounts push this one out
	b.reopen()
	m := &model{bench: b, rng: rand.New(rand.NewPCG(seed, 0)), boxes: map[string]*modelBox{}, gone: map[uint32]bool{}}
	m.account = b.create("model@example.test", 0).ID
	other := b.create("other@example.test", 0).ID
	m.shared = b.queued(text("shared@x", "", "x"), "queue/1").Info(0)
	b.view(m.account, func(v *storage.View) error {
		for _, box := range v.Mailboxes() {
			m.boxes[box.Name] = &modelBox{id: box.ID, validity: box.UIDValidity, next: 1, highest: box.HighestModSeq, messages: map[storage.UID]modelMessage{}}
			m.gone[box.UIDValidity] = true
		}
		return nil
	})
	for i := range steps {
		m.step(i)
		switch {
		case m.rng.IntN(10) == 0:
			b.mailbox(other, "INBOX")
		case m.rng.IntN(40) == 0:
			b.reopen()
		case m.rng.IntN(3) == 0:
			m.compare()
		}
		if t.Failed() {
			t.Fatalf("seed %d, steps:\n%s", seed, strings.Join(m.steps, "\n"))
		}
	}
	m.compare()
	b.reopen()
	m.compare()
	b.settle()
	b.verify()
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
}

func (m *model) note(format string, args ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, args...))
}

// pick returns a random mailbox.
func (m *model) pick() (string, *modelBox) {
	all := slices.Sorted(maps.Keys(m.boxes))
	name := all[m.rng.IntN(len(all))]
	if m.rng.IntN(2) == 0 {
		name = "INBOX" // so that some mailbox is busy
	}
	return name, m.boxes[name]
}

// some returns random UIDs of a mailbox, and perhaps one that does not exist.
func (m *model) some(box *modelBox) []storage.UID {
	var out []storage.UID
	share := 1 + m.rng.IntN(4)
	for uid := range box.messages {
		if m.rng.IntN(share) == 0 {
			out = append(out, uid)
		}
	}
	if m.rng.IntN(4) == 0 {
		out = append(out, box.next+storage.UID(m.rng.IntN(5)))
	}
	slices.Sort(out)
	return out
}

func (m *model) flags() storage.Flags {
	f := storage.Flags{System: storage.System(m.rng.IntN(32))}
	for _, k := range []string{"Work", "home", "$Junk", "x"} {
		if m.rng.IntN(4) == 0 {
			if m.rng.IntN(2) == 0 {
				k = strings.ToUpper(k)
			}
			f.Keywords = append(f.Keywords, k)
		}
	}
	return f
}

func lower(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, strings.ToLower(w))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// step does one random operation in both worlds; some steps do several in one update.
func (m *model) step(i int) {
	m.clock.Add(time.Duration(m.rng.IntN(2000)) * time.Millisecond)
	m.update(m.account, func(tx *storage.Tx) error {
		touched := map[*modelBox]bool{}
		for range 1 + m.rng.IntN(3)/2 {
			if err := m.operation(tx, touched); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		}
		m.settleSeqs(tx, touched)
		return nil
	})
	m.fixSeqs()
}

func (m *model) operation(tx *storage.Tx, touched map[*modelBox]bool) error {
	name, box := m.pick()
	switch k := m.rng.IntN(20); {
	case k < 7:
		return m.deliver(tx, name, box, touched)
	case k < 11:
		return m.storeFlags(tx, name, box, touched)
	case k < 13:
		return m.transfer(tx, name, box, touched, true)
	case k < 15:
		return m.transfer(tx, name, box, touched, false)
	case k < 17:
		return m.expunge(tx, name, box, touched)
	case k < 18:
		return m.create(tx, touched)
	case k < 19:
		return m.rename(tx, name, touched)
	default:
		return m.remove(tx, name)
	}
}

// unset marks what this update gave a sequence that the model learns afterwards.
const unset = storage.ModSeq(1 << 60)

func (m *model) deliver(tx *storage.Tx, name string, box *modelBox, touched map[*modelBox]bool) error {
	f := m.flags()
	front := strings.Repeat("F: x\r\n", m.rng.IntN(3))
	uid, err := tx.Deliver(box.id, storage.Delivery{Info: m.shared, Flags: f, Front: []byte(front)})
	if err != nil {
		return err
	}
	m.note("deliver to %s: %d", name, uid)
	if uid != box.next {
		m.t.Errorf("UID %d in %s, want %d", uid, name, box.next)
	}
	msg, err := tx.Message(box.id, uid)
	if err != nil {
		return err
	}
	box.next++
	box.messages[uid] = modelMessage{
		seq: unset, system: f.System, keywords: lower(f.Keywords), content: m.shared.ID, instance: msg.Instance,
		size: m.shared.Size + int64(len(front)),
	}
	touched[box] = true
	return nil
}

func (m *model) storeFlags(tx *storage.Tx, name string, box *modelBox, touched map[*modelBox]bool) error {
	uids, f, mode := m.some(box), m.flags(), storage.FlagMode(m.rng.IntN(3))
	since := storage.Always
	if m.rng.IntN(3) == 0 {
		since = box.highest - min(box.highest, storage.ModSeq(m.rng.IntN(6)))
	}
	res, err := tx.StoreFlags(box.id, uids, mode, f, since)
	if err != nil {
		return err
	}
	m.note("flags %d of %v in %s since %d: %+v", mode, uids, name, since, res)
	var changed, modified []storage.UID
	for _, uid := range uids {
		msg, ok := box.messages[uid]
		if !ok {
			continue
		}
		if msg.seq > since {
			modified = append(modified, uid)
			continue
		}
		old := msg
		words := lower(f.Keywords)
		switch mode {
		case storage.FlagsSet:
			msg.system, msg.keywords = f.System, words
		case storage.FlagsAdd:
			msg.system |= f.System
			msg.keywords = lower(append(slices.Clone(msg.keywords), words...))
		case storage.FlagsRemove:
			msg.system &^= f.System
			msg.keywords = slices.DeleteFunc(slices.Clone(msg.keywords), func(k string) bool { return slices.Contains(words, k) })
		}
		if old.system == msg.system && slices.Equal(old.keywords, msg.keywords) {
			continue
		}
		msg.seq = unset
		box.messages[uid] = msg
		changed = append(changed, uid)
		touched[box] = true
	}
	if !slices.Equal(changed, res.Changed) || !slices.Equal(modified, res.Modified) {
		m.t.Errorf("flags in %s: %+v, want %v and %v", name, res, changed, modified)
	}
	return nil
}

func (m *model) transfer(tx *storage.Tx, name string, box *modelBox, touched map[*modelBox]bool, copied bool) error {
	toName, to := m.pick()
	uids := slices.DeleteFunc(m.some(box), func(uid storage.UID) bool { return uid >= box.next })
	op, what := tx.Move, "move"
	if copied {
		op, what = tx.Copy, "copy"
	}
	res, err := op(box.id, to.id, uids)
	if err != nil {
		return err
	}
	m.note("%s %v from %s to %s: %+v", what, uids, name, toName, res)
	var source, dest []storage.UID
	for _, uid := range uids {
		msg, ok := box.messages[uid]
		if !ok {
			continue
		}
		source, dest = append(source, uid), append(dest, to.next)
		got, err := tx.Message(to.id, to.next)
		if err != nil {
			return err
		}
		if copied == (got.Instance == msg.instance) {
			m.t.Errorf("%s: UIDL %s, was %s", what, got.Instance, msg.instance)
		}
		msg.instance, msg.seq = got.Instance, unset
		to.messages[to.next] = msg
		to.next++
		touched[to] = true
		if !copied {
			delete(box.messages, uid)
			touched[box] = true
		}
	}
	if !slices.Equal(res.Source, source) || !slices.Equal(res.Dest, dest) || res.UIDValidity != to.validity {
		m.t.Errorf("%s: %+v, want %v to %v", what, res, source, dest)
	}
	return nil
}

func (m *model) expunge(tx *storage.Tx, name string, box *modelBox, touched map[*modelBox]bool) error {
	var uids []storage.UID
	if m.rng.IntN(2) == 0 {
		if uids = m.some(box); uids == nil {
			uids = []storage.UID{}
		}
	}
	only := m.rng.IntN(2) == 0
	gone, err := tx.Expunge(box.id, uids, only)
	if err != nil {
		return err
	}
	m.note("expunge %v of %s, only deleted %v: %v", uids, name, only, gone)
	var want []storage.UID
	for _, uid := range slices.Sorted(maps.Keys(box.messages)) {
		if uids != nil && !slices.Contains(uids, uid) || only && box.messages[uid].system&storage.Deleted == 0 {
			continue
		}
		want = append(want, uid)
		delete(box.messages, uid)
		touched[box] = true
	}
	if !slices.Equal(gone, want) {
		m.t.Errorf("expunged %v from %s, want %v", gone, name, want)
	}
	return nil
}

func (m *model) create(tx *storage.Tx, touched map[*modelBox]bool) error {
	name := fmt.Sprintf("m%d", m.rng.IntN(6))
	if m.boxes[name] != nil {
		return nil
	}
	got, err := tx.CreateMailbox(name, 0)
	if err != nil {
		return err
	}
	m.note("create %s", name)
	m.add(got, touched)
	return nil
}

func (m *model) add(got storage.Mailbox, touched map[*modelBox]bool) {
	if m.gone[got.UIDValidity] {
		m.t.Errorf("UIDVALIDITY %d of %s was used before", got.UIDValidity, got.Name)
	}
	m.gone[got.UIDValidity] = true
	box := &modelBox{id: got.ID, validity: got.UIDValidity, next: 1, messages: map[storage.UID]modelMessage{}}
	m.boxes[got.Name] = box
	touched[box] = true
}

func (m *model) rename(tx *storage.Tx, name string, touched map[*modelBox]bool) error {
	to := fmt.Sprintf("m%d", m.rng.IntN(6))
	if m.boxes[to] != nil {
		return nil
	}
	if err := tx.RenameMailbox(name, to); err != nil {
		return err
	}
	m.note("rename %s to %s", name, to)
	m.boxes[to] = m.boxes[name]
	touched[m.boxes[to]] = true
	delete(m.boxes, name)
	if name == "INBOX" {
		got, err := tx.Mailbox("INBOX")
		if err != nil {
			return err
		}
		m.add(got, touched)
	}
	return nil
}

func (m *model) remove(tx *storage.Tx, name string) error {
	if name == "INBOX" || len(m.boxes) < 4 {
		return nil
	}
	if err := tx.DeleteMailbox(name); err != nil {
		return err
	}
	m.note("delete %s", name)
	delete(m.boxes, name)
	return nil
}

// settleSeqs notes which mailboxes changed; the sequence is known only after the update.
func (m *model) settleSeqs(_ *storage.Tx, touched map[*modelBox]bool) {
	for box := range touched {
		box.highest = unset
	}
}

// fixSeqs learns the sequence of the last update: one for all of its changes, higher than all before.
func (m *model) fixSeqs() {
	var now storage.ModSeq
	m.view(m.account, func(v *storage.View) error {
		now = v.ModSeq()
		return nil
	})
	for name, box := range m.boxes {
		if box.highest == unset {
			box.highest = now
		} else if box.highest >= now && now != box.highest {
			m.t.Errorf("%s has MODSEQ %d, above the account's %d", name, box.highest, now)
		}
		for uid, msg := range box.messages {
			if msg.seq == unset {
				msg.seq = now
				box.messages[uid] = msg
			}
		}
	}
}
