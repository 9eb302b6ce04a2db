package storagetest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sluicemail/sluice/storage"
)

// compare holds everything that the store shows against the model.
func (m *model) compare() {
	m.t.Helper()
	m.view(m.account, func(v *storage.View) error {
		list := v.Mailboxes()
		if len(list) != len(m.boxes) {
			m.t.Errorf("mailboxes %s, want %v", names(list), slices.Sorted(maps.Keys(m.boxes)))
		}
		var used, count int64
		for _, got := range list {
			want := m.boxes[got.Name]
			if want == nil {
				m.t.Errorf("mailbox %s should not exist", got.Name)
				continue
			}
			if err := m.compareBox(v, got, want); err != nil {
				return err
			}
			used += got.Size
			count += int64(got.Exists)
		}
		if q := v.Quota(); q.Used != used || q.Count != count {
			m.t.Errorf("quota %+v, want %d and %d", q, used, count)
		}
		return m.follow(v)
	})
}

func (m *model) compareBox(v *storage.View, got storage.Mailbox, want *modelBox) error {
	var unseen, deleted uint32
	var size int64
	for _, msg := range want.messages {
		if msg.system&storage.Seen == 0 {
			unseen++
		}
		if msg.system&storage.Deleted != 0 {
			deleted++
		}
		size += msg.size
	}
	have := fmt.Sprint(got.ID, got.UIDValidity, got.UIDNext, got.HighestModSeq, got.Exists, got.Unseen, got.Deleted, got.Size)
	wish := fmt.Sprint(want.id, want.validity, want.next, want.highest, len(want.messages), unseen, deleted, size)
	if have != wish {
		m.t.Errorf("mailbox %s: id, validity, next, highest, exists, unseen, deleted, size are %s, want %s", got.Name, have, wish)
	}
	uids := slices.Sorted(maps.Keys(want.messages))
	seq, err := v.UIDs(got.ID)
	if err != nil {
		return err
	}
	if !slices.Equal(seq.All(), uids) {
		m.t.Errorf("mailbox %s: UIDs %v, want %v", got.Name, seq.All(), uids)
	}
	var seen []storage.UID
	err = v.Messages(got.ID, 1, ^storage.UID(0), func(msg *storage.Message) (bool, error) {
		seen = append(seen, msg.UID)
		m.compareMessage(got.Name, msg, want.messages[msg.UID])
		return true, nil
	})
	if err != nil {
		return err
	}
	if !slices.Equal(seen, uids) {
		m.t.Errorf("mailbox %s: messages %v, want %v", got.Name, seen, uids)
	}
	return m.compareSome(v, got, want)
}

func (m *model) compareMessage(box string, got *storage.Message, want modelMessage) {
	have := fmt.Sprint(got.ModSeq, got.Flags.System, lower(got.Flags.Keywords), got.ContentID, got.Instance, got.Size)
	wish := fmt.Sprint(want.seq, want.system, want.keywords, want.content, want.instance, want.size)
	if have != wish {
		m.t.Errorf("mailbox %s, UID %d: %s, want %s", box, got.UID, have, wish)
	}
}

// compareSome asks for single messages.
func (m *model) compareSome(v *storage.View, got storage.Mailbox, want *modelBox) error {
	uids := m.some(want)
	var seen, wish []storage.UID
	for _, uid := range uids {
		if _, ok := want.messages[uid]; ok {
			wish = append(wish, uid)
		}
	}
	err := v.MessagesOf(got.ID, uids, func(msg *storage.Message) (bool, error) {
		seen = append(seen, msg.UID)
		return true, nil
	})
	if !slices.Equal(seen, wish) {
		m.t.Errorf("mailbox %s: asked for %v, got %v, want %v", got.Name, uids, seen, wish)
	}
	return err
}

// follow has each session learn what changed, compares what it then knows with the model, and begins and ends sessions.
func (m *model) follow(v *storage.View) error {
	for i := 0; i < len(m.sessions); i++ {
		s := m.sessions[i]
		name, box := m.byID(s.box)
		if box == nil || m.rng.IntN(20) == 0 {
			m.sessions = slices.Delete(m.sessions, i, i+1)
			i--
			continue
		}
		if m.rng.IntN(2) == 0 {
			continue // it sleeps
		}
		c, err := v.Changes(s.box, s.known)
		if err != nil {
			return err
		}
		if !c.Complete || c.Now != box.highest {
			m.t.Errorf("changes of %s since %d: %+v, want %d", name, s.known, c, box.highest)
		}
		for _, r := range c.Expunged {
			maps.DeleteFunc(s.messages, func(uid storage.UID, _ storage.ModSeq) bool { return uid >= r.First && uid <= r.Last })
		}
		for _, uid := range c.Changed {
			msg, err := v.Message(s.box, uid)
			if err != nil {
				return fmt.Errorf("changed UID %d: %w", uid, err)
			}
			s.messages[uid] = msg.ModSeq
		}
		s.known = c.Now
		want := map[storage.UID]storage.ModSeq{}
		for uid, msg := range box.messages {
			want[uid] = msg.seq
		}
		if !maps.Equal(s.messages, want) {
			m.t.Errorf("a session that follows %s knows %v, want %v", name, s.messages, want)
		}
	}
	if len(m.sessions) < 5 {
		_, box := m.pick()
		s := &session{box: box.id, known: box.highest, messages: map[storage.UID]storage.ModSeq{}}
		for uid, msg := range box.messages {
			s.messages[uid] = msg.seq
		}
		m.sessions = append(m.sessions, s)
	}
	return nil
}

func (m *model) byID(id storage.MailboxID) (string, *modelBox) {
	for name, box := range m.boxes {
		if box.id == id {
			return name, box
		}
	}
	return "", nil
}
