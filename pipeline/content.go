package pipeline

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/mime"
)

// MaxHeader is the largest header that is indexed, in octets; receive refuses
// larger ones.
const MaxHeader = 1 << 20

// MaxVersions is how many different versions of one message may exist (RULES A4).
const MaxVersions = 16

// maxGrowth is how much plugins may add to a header, in octets. All versions of
// a message are committed in one batch, whose size is bounded (RULES B2).
const maxGrowth = 256 << 10

// SetContent gives the message its octets and indexes the header. The message
// owns the draft from then on.
func (m *Message) SetContent(d *blob.Draft) error {
	header, err := readHeader(d)
	if err != nil {
		return fmt.Errorf("read the header of %s: %w", m.ID, err)
	}
	m.Content = d
	m.arrived = newVersion(header)
	for _, r := range m.Recipients {
		r.Version = m.arrived
	}
	return nil
}

// Size returns the octets of a version.
func (m *Message) Size(v *Version) int64 {
	if v == nil || v == m.arrived {
		return m.Content.Size()
	}
	return v.Variant(m.arrived).Size(m.Content.Size())
}

// Discard releases the content and what plugins gave; what was committed stays. Later
// calls do nothing.
func (m *Message) Discard() {
	m.Content.Discard()
	for _, d := range m.bodies {
		d.Discard()
	}
}

// Withdraw is Discard for a message that was not committed after all: it removes what
// was made durable already.
func (m *Message) Withdraw() error {
	err := m.Content.Withdraw()
	for _, d := range m.bodies {
		err = errors.Join(err, d.Withdraw())
	}
	return err
}

// readHeader returns the header with the empty line that ends it.
func readHeader(d *blob.Draft) ([]byte, error) {
	octets := d.Bytes()
	if octets == nil {
		octets = make([]byte, min(d.Size(), MaxHeader+4))
		if _, err := d.ReadAt(octets, 0); err != nil && err != io.EOF {
			return nil, err
		}
	}
	return octets[:mime.HeaderEnd(octets)], nil
}

// Arrived returns the header as it arrived.
func (m *Message) Arrived() *Version { return m.arrived }

// Change applies a change to the version of every recipient. Recipients that
// shared a version go on sharing one.
func (m *Message) Change(change func(*Version) (*Version, error)) error {
	done := make(map[*Version]*Version, 1)
	for _, r := range m.Recipients {
		next, ok := done[r.Version]
		if !ok {
			var err error
			if next, err = change(r.Version); err != nil {
				return err
			}
			done[r.Version] = next
		}
		r.Version = next
	}
	return nil
}

// Front puts a finished field on top of every recipient's version.
func (m *Message) Front(raw []byte) {
	_ = m.Change(func(v *Version) (*Version, error) { return v.Front(raw), nil })
}

// Versions returns the different versions of the message and, for each
// recipient, the index of its own; -1 where every hop discards it.
func (m *Message) Versions() (versions []*Version, of []int) {
	of = make([]int, len(m.Recipients))
	for i, r := range m.Recipients {
		of[i] = -1
		if r.discarded() {
			continue
		}
		for k, v := range versions {
			if v == r.Version {
				of[i] = k
			}
		}
		if of[i] < 0 {
			of[i] = len(versions)
			versions = append(versions, r.Version)
		}
	}
	return versions, of
}

// discarded reports whether all that is left to do for a recipient is to say so.
func (r *Recipient) discarded() bool {
	return len(r.Hops) > 0 && !slices.ContainsFunc(r.Hops, func(h Hop) bool { return h.Kind != HopDiscard })
}

// Open returns the octets of a version: what plugins are asked about, and what
// would be delivered if nothing changes it further.
func (m *Message) Open(v *Version) (*blob.VariantReader, error) {
	return v.Variant(m.arrived).Reader(m.Content, m.Content.Size())
}
