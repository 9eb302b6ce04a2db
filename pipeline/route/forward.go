package route

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// This file is what a forward needs beside a target: a sender for which SPF holds at the next server, and a mark by which the
// message is known when it comes back.

// Forward is [forward].
type Forward struct {
	SRSDomain  string   `toml:"srs_domain" doc:"one of our domains under which the sender of forwarded mail is rewritten (SRS), so that SPF holds at the next server; empty: the sender stays"`
	SRSSecrets []string `toml:"srs_secrets" sluice:"secret" doc:"one secret, or two while they are changed: the first signs, both are taken"`
}

const minSecret = 16

// Validate returns all problems as joined *pipeline.FieldError. Whether the domain is ours is seen elsewhere.
func (f *Forward) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	switch n := len(f.SRSSecrets); {
	case f.SRSDomain == "" && n > 0:
		bad("srs_secrets", "means nothing without srs_domain, expected one of our domains there")
	case f.SRSDomain != "" && (n == 0 || n > 2):
		bad("srs_secrets", "has %d entries, expected one secret, or two while they are changed", n)
	}
	for _, s := range f.SRSSecrets {
		if len(s) < minSecret {
			bad("srs_secrets", "has one of %d characters, which can be guessed; expected %d or more", len(s), minSecret)
		}
	}
	return errors.Join(problems...)
}

// rewrite returns what takes the place of MAIL FROM on a forward, or "" where it stays: it is ours, or none (RULES A9). An
// error says why it stays although it should not.
func (t *Table) rewrite(sender string) (string, error) {
	if t.srs == nil || sender == "" {
		return "", nil
	}
	local, name, err := apart(sender)
	switch {
	case err != nil:
		return "", err
	case t.ours(name):
		return "", nil
	}
	made, err := t.srs.Forward(local, name)
	if err != nil {
		return "", err
	}
	return quote(made) + "@" + t.srs.Domain(), nil
}

// apart divides a sender: the local part without quotes, the domain folded.
func apart(sender string) (local, name string, err error) {
	at := strings.LastIndexByte(sender, '@')
	if at <= 0 {
		return "", "", ErrBadAddress
	}
	local, ok := plainLocal(sender[:at])
	if !ok {
		return "", "", ErrBadAddress
	}
	name, err = foldDomain(sender[at+1:])
	return local, name, err
}

// lending is what a forward of a stranger's mail would lend our name to; zero: nothing.
type lending struct {
	why   string // why the mail gets no sender of ours
	waits bool   // it does not leave at all
}

// lends looks at mail that claims to be from a domain of ours, and is not, by that domain's own record. Forwarded, it would
// come from a server that the record names: SPF would pass at the next server for a sender or a greeting of ours, and with it
// DMARC for a From of ours (RFC 7489 section 3.1.2). So SRS is not for such mail; and where MAIL FROM is ours already, or is
// null, so that our greeting stands for it (RFC 7208 section 2.4), it waits in quarantine.
func (t *Table) lends(m *pipeline.Message) lending {
	if m.Origin != sdk.Stranger || m.Auth == nil {
		return lending{}
	}
	claims := t.falseAuthor(m.Auth)
	if m.Sender == "" {
		return lending{claims, claims != ""}
	}
	_, name, err := apart(m.Sender)
	if err != nil || !t.ours(name) || m.Auth.SenderVerified {
		return lending{why: claims}
	}
	switch m.Auth.SPF {
	case "fail", "softfail", "neutral": // there is a record, and it does not name who sent this
		return lending{"its sender claims to be from " + name + ", whose SPF record says that it is not", true}
	}
	return lending{claims, claims != ""}
}

// falseAuthor says which of the authors may pass for one of ours at the next server and failed here, or is not known for
// certain: with several From fields, or none, each server chooses for itself. "" if there is none.
func (t *Table) falseAuthor(a *pipeline.Auth) string {
	for _, domain := range a.DMARCFailed {
		if t.related(domain) {
			return "its author claims to be from " + domain + ", and is not"
		}
	}
	if a.DMARC == "permerror" {
		return "its From field names no author for certain"
	}
	return ""
}

// related reports whether SPF of a sender of ours, or of our greeting, may be aligned with a domain.
func (t *Table) related(domain string) bool {
	if t.ours(domain) {
		return true
	}
	org := organization(domain)
	return t.srs != nil && org == organization(t.srs.Domain()) || org == organization(strings.ToLower(t.hostname))
}

// organization returns the domain that somebody registered (RFC 7489 section 3.2).
func organization(domain string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return org
	}
	return domain
}

// Owner returns who is told that forwards of an address of ours fail (RULES A7): owner-NAME where there is such an alias beside
// NAME, the domain's postmaster where there is one, else the server's; "" for nobody.
func (t *Table) Owner(address string) string {
	local, name, err := split(address)
	if err != nil {
		return t.postmaster
	}
	d := t.domains[name]
	base, _ := d.withoutDetail(local)
	for _, who := range []string{"owner-" + local, "owner-" + base, "postmaster"} {
		if len(d.aliases[who]) > 0 {
			return who + "@" + name
		}
	}
	return t.postmaster
}

// ours reports whether mail of a domain leaves from here by right.
func (t *Table) ours(name string) bool {
	d, ok := t.domains[name]
	return ok && !d.relay
}

// reverse follows an SRS address of ours to whom it was made for. It is taken from the null sender only: nobody else has a
// reason to write to it (RULES A9).
func (w *walk) reverse(ctx context.Context, address string, at int) error {
	local, _ := plainLocal(address[:at])
	if w.sender != "" {
		w.note(Step{Address: address, Rule: RuleSRS, Text: "SRS, which is taken from the null sender only", Key: []string{"forward", "srs_domain"}})
		return ErrSRS
	}
	original, name, err := w.table.srs.Reverse(local)
	if err != nil {
		w.note(Step{Address: address, Rule: RuleSRS, Text: err.Error(), Key: []string{"forward", "srs_domain"}})
		return fmt.Errorf("%w: %w", ErrSRS, err)
	}
	target := quote(original) + "@" + name
	w.note(Step{Address: address, Rule: RuleSRS, Text: "SRS: back to " + target, Key: []string{"forward", "srs_domain"}})
	if w.table.ours(name) {
		return w.follow(ctx, target, "", 1)
	}
	return w.leave(target, "", false)
}

// loopField is the field by which a message that we forwarded is known again. It names no address: who gets a
// forwarded copy is not to learn who else does.
const loopField = "Sluice-Loop"

// Bounds on what is read of such fields; an honest message has one for each server that forwarded it.
const (
	maxLoopFields = 64
	maxLoopSize   = 4096
)

// loopToken is what stands in the field for one address of ours.
func (t *Table) loopToken(address string) string {
	h := hmac.New(sha256.New, t.loopKey)
	h.Write([]byte(address))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:10])
}

// forwardedBefore returns the tokens in a message's fields.
func forwardedBefore(v *pipeline.Version) map[string]bool {
	var found map[string]bool
	n := 0
	for _, f := range v.Fields() {
		if len(f.Name) != len(loopField) || !strings.EqualFold(f.Name, loopField) || len(f.Raw) > maxLoopSize {
			continue
		}
		if n++; n > maxLoopFields {
			break
		}
		if found == nil {
			found = make(map[string]bool)
		}
		_, tokens, _ := strings.Cut(f.Value(), ";")
		for _, token := range strings.Fields(tokens) {
			found[token] = true
		}
	}
	return found
}

// forwarding is what the forwards of one message have in common.
type forwarding struct {
	table     *Table
	forwarded map[int]bool    // recipients whose mail is forwarded
	tokens    []string        // of theirs
	before    map[string]bool // tokens that the message had
	lending   lending
	sender    string // of those who get one of ours
	problem   error  // why there is none
}

func newForwarding(t *Table, m *pipeline.Message) *forwarding {
	f := &forwarding{table: t, forwarded: make(map[int]bool), before: forwardedBefore(m.Arrived()), lending: t.lends(m)}
	switch {
	case f.lending.why == "":
		f.sender, f.problem = t.rewrite(m.Sender)
	case !f.lending.waits:
		f.problem = fmt.Errorf("%s; a sender of ours would vouch for it", f.lending.why)
	}
	return f
}

// passes reports whether mail may be forwarded from an address of ours: it was not before.
func (f *forwarding) passes(through string) bool {
	token := f.table.loopToken(through)
	if f.before[token] {
		return false
	}
	if !slices.Contains(f.tokens, token) {
		f.tokens = append(f.tokens, token)
	}
	return true
}

// hop finishes a hop that leads away.
func (f *forwarding) hop(h *pipeline.Hop) {
	if !f.lending.waits {
		h.Sender = f.sender
		return
	}
	h.Kind, h.Why = pipeline.HopQuarantine, "it does not leave for "+h.Address+": "+f.lending.why
}

// mark puts the loop field on the versions of recipients whose mail is forwarded; those who share a version go on sharing
// one. tokens are theirs together, so that there is one version, one signature and one transaction where there can be.
func (t *Table) mark(m *pipeline.Message, forwarded map[int]bool, tokens []string) {
	field := pipeline.FormatField(loopField, t.hostname+"; "+strings.Join(tokens, " "))
	type copied struct {
		version   *pipeline.Version
		forwarded bool
	}
	versions := make(map[copied]bool)
	for i, r := range m.Recipients {
		versions[copied{r.Version, forwarded[i]}] = true
	}
	everybody := len(versions) > pipeline.MaxVersions // RULES A4: then the others have the field too
	done := make(map[*pipeline.Version]*pipeline.Version, 1)
	for i, r := range m.Recipients {
		if !forwarded[i] && !everybody || r.Version == nil {
			continue
		}
		if done[r.Version] == nil {
			done[r.Version] = r.Version.Front(field)
		}
		r.Version = done[r.Version]
	}
}

// clock is time.Now where nothing else was given.
func clock(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}
