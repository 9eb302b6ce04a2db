package tlspolicy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"time"
)

// seen remembers for a while how certificates did, so that to look at the same ones again costs digests, not signatures: for
// each message on a kept connection, and where the result decides nothing and is reported only. A handshake is always verified.
type seen struct {
	mu      sync.Mutex
	results map[sightingKey]sighting
}

// sightingKey is a digest of the certificates and of all that they were held against.
type sightingKey [sha256.Size]byte

type sighting struct {
	err   error
	until time.Time
}

const (
	maxSeen  = 5000
	seenTime = time.Hour
)

func (s *seen) init() { s.results = make(map[sightingKey]sighting) }

func (s *seen) recall(key sightingKey, now time.Time) (err error, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.results[key]
	if !ok || !now.Before(found.until) {
		return nil, false
	}
	return found.err, true
}

// remember keeps a result, no longer than the certificates are valid.
func (s *seen) remember(key sightingKey, certs []*x509.Certificate, err error, now time.Time) {
	until := now.Add(seenTime)
	for _, c := range certs {
		if c.NotAfter.After(now) && c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.results) >= maxSeen {
		clear(s.results)
	}
	s.results[key] = sighting{err, until}
}

// sightingKey makes the key for the certificates under the policy.
func (p *Policy) sightingKey(certs []*x509.Certificate) sightingKey {
	if p.Level == DANE {
		parts := [][]byte{{byte(DANE)}}
		for _, t := range p.records.Usable {
			parts = append(parts, []byte{t.Usage, t.Selector, t.Matching}, t.Data)
		}
		for _, name := range p.names() {
			parts = append(parts, []byte(name))
		}
		return digest(certs, parts...)
	}
	return digest(certs, []byte{byte(Verify)}, []byte(p.reference()))
}

// digest is of each part with its length in front.
func digest(certs []*x509.Certificate, parts ...[]byte) sightingKey {
	h := sha256.New()
	var length [4]byte
	add := func(b []byte) {
		binary.BigEndian.PutUint32(length[:], uint32(len(b)))
		h.Write(length[:])
		h.Write(b)
	}
	for _, part := range parts {
		add(part)
	}
	for _, c := range certs {
		add(c.Raw)
	}
	return sightingKey(h.Sum(nil))
}

// check is pkix, from memory if it can be.
func (p *Policies) check(certs []*x509.Certificate, name string) error {
	key := digest(certs, []byte{byte(Verify)}, []byte(name))
	now := p.options.Now()
	if err, known := p.seen.recall(key, now); known {
		return err
	}
	err := p.pkix(certs, name)
	p.seen.remember(key, certs, err, now)
	return err
}
