package authenticate

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/arc"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// KeyRing says with which keys a domain signs: those for which DNS has a record. An error means that there should be some,
// and they cannot be had. It is called from many goroutines.
type KeyRing interface {
	Signers(domain string) ([]*dkim.Signer, error)
}

// SealerOptions is what NewSealer needs.
type SealerOptions struct {
	Keys     KeyRing
	Domain   func(name string) (Signing, bool) // of a domain of ours, in A-labels; false: it is none
	Hostname string                            // our name in Authentication-Results
	Now      func() time.Time
}

// Sealer implements pipeline.Sealer: the last thing that happens to a message before Commit (RULES A6).
//
// What our users, our hosts and we ourselves write gets a DKIM signature for the domain of each author that is ours, with
// each of its active keys; a domain without keys is signed for by the nearest domain above it that is ours and has some.
// Other people's mail that leaves again gets an ARC seal of the domain that received it, and never a signature, whatever
// stands in From: whoever forges our domain would get one by writing to one of our aliases.
//
// What our own people send leaves without our Authentication-Results: the account's name in it is nobody's business there.
type Sealer struct{ SealerOptions }

var _ pipeline.Sealer = (*Sealer)(nil)

// NewSealer returns a sealer. Now may be nil.
func NewSealer(o SealerOptions) *Sealer {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Hostname = strings.ToLower(strings.TrimSuffix(o.Hostname, "."))
	return &Sealer{o}
}

// Seal implements pipeline.Sealer. After an error nothing has changed.
func (s *Sealer) Seal(ctx context.Context, m *pipeline.Message) error {
	own := m.Origin == sdk.Login || m.Origin == sdk.Trusted || m.Origin == sdk.Generated
	versions, of := m.Versions()
	next := make([]*pipeline.Version, len(versions))
	var changes []string
	for i, v := range versions {
		leaving := remoteDomains(m, of, i)
		if !own && len(leaving) == 0 {
			continue
		}
		w := &sealing{Sealer: s, ctx: ctx, m: m, version: v}
		if err := w.all(own, leaving); err != nil {
			return err
		}
		next[i] = w.version
		for _, c := range w.changes {
			if !contains(changes, c) {
				changes = append(changes, c)
			}
		}
	}
	for i, r := range m.Recipients {
		if of[i] >= 0 && next[of[i]] != nil {
			r.Version = next[of[i]]
		}
	}
	if len(changes) > 0 && m.Trace != nil {
		m.Trace.Add(trace.Event{At: s.Now(), Stage: pipeline.StageAuthenticate, Action: sdk.Accept.String(), Changes: changes})
	}
	return nil
}

// remoteDomains returns the domains to which a version was addressed before it leaves us again, be it when it is released
// from quarantine; none if it does not.
func remoteDomains(m *pipeline.Message, of []int, version int) []string {
	var domains []string
	for i, r := range m.Recipients {
		if of[i] != version {
			continue
		}
		leaves := r.Leaves
		for k := 0; k < len(r.Hops) && !leaves; k++ {
			leaves = r.Hops[k].Kind == pipeline.HopRemote
		}
		if _, domain := splitAddress(r.Address); leaves && !contains(domains, domain) {
			domains = append(domains, domain)
		}
	}
	return domains
}

// sealing is the work on one version.
type sealing struct {
	*Sealer
	ctx     context.Context
	m       *pipeline.Message
	version *pipeline.Version
	hashed  bool
	body    dkim.Sum
	changes []string
}

func (w *sealing) all(own bool, leaving []string) error {
	signed := false
	if own {
		if len(leaving) > 0 {
			w.version, _ = w.version.Without(w.ours)
		}
		for _, domain := range signable(w.version) {
			done, err := w.sign(domain)
			if err != nil {
				return err
			}
			signed = signed || done
		}
	}
	if signed || len(leaving) == 0 || w.m.Auth == nil || w.m.Auth.ARC == "" {
		return nil
	}
	return w.arc(leaving)
}

// ours reports whether a field is Authentication-Results with our name.
func (w *sealing) ours(f pipeline.Field) bool {
	if !strings.EqualFold(f.Name, resultsField) {
		return false
	}
	id, ok := authservID(f.Value())
	return ok && sameAuthserv(id, w.Hostname)
}

// signers returns the keys for a domain: its own, or those of the nearest domain above that is ours.
func (w *sealing) signers(domain string) (Signing, []*dkim.Signer, error) {
	for name := domain; name != ""; {
		if c, ok := w.Domain(name); ok {
			if c.Sign == SignOff {
				return c, nil, nil
			}
			signers, err := w.Keys.Signers(name)
			if err != nil {
				return c, nil, fmt.Errorf("sign for %s: %w", name, err)
			}
			if len(signers) == 0 && c.Sign == SignRequire {
				return c, nil, fmt.Errorf("sign for %s: there is no active key, and dkim.sign is \"require\"; sluice dkim new %s makes one", name, name)
			}
			if len(signers) > 0 {
				return c, signers, nil
			}
		}
		_, name, _ = strings.Cut(name, ".")
	}
	return Signing{}, nil, nil
}

// sign puts the signatures for an author's domain on top.
func (w *sealing) sign(domain string) (bool, error) {
	c, signers, err := w.signers(domain)
	if err != nil || len(signers) == 0 {
		return false, err
	}
	if err := w.hashBody(); err != nil {
		return false, err
	}
	h := dkim.NewHeader(w.version.Fields())
	names := dkim.Names(h)
	fields, now := dkim.Hash(h, names), w.Now()
	change := ""
	for i := len(signers) - 1; i >= 0; i-- { // the first ends up on top
		signer := *signers[i]
		signer.Expire = c.Expire.Std()
		raw, err := signer.Sign(fields, names, w.body, now)
		if err != nil {
			return false, err
		}
		w.version = w.version.Front(raw)
		change = " " + signer.Selector + change
	}
	w.changes = append(w.changes, "DKIM signature of "+signers[0].Domain+":"+change)
	return true, nil
}

// arc puts an ARC set on top, with the key of a domain that received the message, else of the host's.
func (w *sealing) arc(received []string) error {
	var signer *dkim.Signer
	for _, domain := range append(received, w.Hostname) {
		name, _ := asciiDomain(domain)
		c, signers, err := w.signers(name)
		if err != nil {
			return err
		}
		if c.ARC && len(signers) > 0 {
			signer = signers[0]
			break
		}
	}
	if signer == nil {
		return nil
	}
	if err := w.hashBody(); err != nil {
		return err
	}
	seal := arc.Seal{
		Header: dkim.NewHeader(w.version.Fields()), Chain: arc.Parse(w.version.Fields()), CV: w.m.Auth.ARC,
		Results: w.m.Auth.Results, Signer: signer, Body: w.body, Now: w.Now(),
	}
	fields, err := seal.Make()
	if err != nil {
		return err
	}
	for i := len(fields) - 1; i >= 0; i-- {
		w.version = w.version.Front(fields[i])
	}
	if len(fields) > 0 {
		w.changes = append(w.changes, fmt.Sprintf("ARC seal %d of %s: %s", seal.Chain.Highest+1, signer.Domain, signer.Selector))
	}
	return nil
}

// hashBody hashes the version's body, once.
func (w *sealing) hashBody() error {
	if w.hashed {
		return nil
	}
	r, err := w.m.Open(w.version)
	if err != nil {
		return fmt.Errorf("sign: open the message: %w", err)
	}
	var body dkim.Body
	body.Want(true)
	if err := readBody(w.ctx, &body, r, min(w.version.HeaderSize(), r.Size()), r.Size()); err != nil {
		return fmt.Errorf("sign: read the message: %w", err)
	}
	w.body, _, _ = body.Sum(true)
	w.hashed = true
	return nil
}

// readPiece is how many octets of a body are read at once.
const readPiece = 32 << 10

// readBody gives the octets from off to size to body and closes it.
func readBody(ctx context.Context, body *dkim.Body, r io.ReaderAt, off, size int64) error {
	if off < size {
		buf := make([]byte, min(size-off, readPiece))
		for off < size {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := r.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
			_, _ = body.Write(buf[:n])
			if off += int64(n); n == 0 || err != nil && off < size {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
	}
	body.Close()
	return nil
}
