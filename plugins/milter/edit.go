package milter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// maxEdits is how many modifications a milter may ask for, pieces of a body not counted: as many as
// a verdict can carry.
const maxEdits = 200

// edit is what a milter wants changed. The header is kept as the milter believes it to be, so that what it
// says later about fields that it added itself is understood; verdict then says how to get there.
// New fields can only go in front: those that are inserted between others or added at the end, as Sendmail would,
// come in front too, among themselves in the order that they would have had.
type edit struct {
	settings *Settings
	m        *sdk.Message
	o        *opinion
	count    int

	header     []entry
	body       spool
	replaced   bool
	added      []string // recipients
	removed    []string
	sender     *string
	quarantine bool
	forged     []string // names of which nothing that arrived may stay
	simple     bool     // a signature was added that cannot hold
}

// entry is a field of the header as it shall be.
type entry struct {
	name    string
	value   string // if fresh or changed
	index   int    // among those of its name that arrived, from 1
	fresh   bool
	changed bool
	gone    bool
	forged  bool
	bogus   bool
}

func newEdit(s *Settings, m *sdk.Message, fields []field, o *opinion) *edit {
	e := &edit{settings: s, m: m, o: o, header: make([]entry, len(fields))}
	e.body.max = int64(s.MaxBody)
	count := make(map[string]int)
	for i := range fields {
		key := strings.ToLower(fields[i].name)
		if !fields[i].bogus {
			count[key]++
		}
		e.header[i] = entry{name: fields[i].name, index: count[key], bogus: fields[i].bogus}
	}
	return e
}

// codes not named by go-milter.
const addRcptPar = '2' // SMFIR_ADDRCPT_PAR

var needs = map[byte]milter.OptAction{
	addRcptPar: milter.OptAddRcptWithArgs, byte(milter.ActAddRcpt): milter.OptAddRcpt, byte(milter.ActDelRcpt): milter.OptRemoveRcpt, byte(milter.ActReplBody): milter.OptChangeBody,
	byte(milter.ActAddHeader): milter.OptAddHeader, byte(milter.ActInsertHeader): milter.OptAddHeader,
	byte(milter.ActChangeHeader): milter.OptChangeHeader, byte(milter.ActChangeFrom): milter.OptChangeFrom, byte(milter.ActQuarantine): milter.OptQuarantine,
}

// take obeys a frame if it asks for a modification; asked says whether it does. What the milter has not
// announced in the negotiation breaks the protocol.
func (e *edit) take(announced milter.OptAction, code byte, data []byte) (asked bool, err error) {
	need, asked := needs[code]
	if !asked {
		return false, nil
	}
	what := words(uint32(need), actionWords)
	if announced&need == 0 {
		return true, fmt.Errorf("it wants to %s, which it has not announced", what)
	}
	if milter.ModifyActCode(code) == milter.ActReplBody {
		e.replaced = true
		return true, e.body.write(data)
	}
	if e.count++; e.count > maxEdits {
		return true, fmt.Errorf("it wants more than %d modifications", maxEdits)
	}
	if err := e.obey(milter.ModifyActCode(code), data); err != nil {
		return true, fmt.Errorf("it wants to %s: %w", what, err)
	}
	return true, nil
}

func (e *edit) obey(code milter.ModifyActCode, data []byte) error {
	index := 0
	if code == milter.ActInsertHeader || code == milter.ActChangeHeader {
		if len(data) < 4 {
			return errors.New("no index")
		}
		index = int(min(binary.BigEndian.Uint32(data), 1<<30))
		data = data[4:]
	}
	least, most := 1, 1
	switch code {
	case milter.ActChangeFrom, addRcptPar:
		most = 50 // parameters behind the address
	case milter.ActAddHeader, milter.ActInsertHeader, milter.ActChangeHeader:
		least, most = 2, 2
	}
	args, err := texts(data, least, most)
	if err != nil {
		return err
	}
	switch code {
	case milter.ActAddHeader:
		return e.insert(len(e.header), args[0], args[1])
	case milter.ActInsertHeader:
		return e.insert(e.place(index), args[0], args[1])
	case milter.ActChangeHeader:
		return e.change(index, args[0], args[1])
	case milter.ActAddRcpt, addRcptPar:
		if len(args) > 1 {
			e.o.note("MILTER_IGNORED", "parameters of the new recipient: %s", strings.Join(args[1:], " "))
		}
		return e.addRecipient(args[0])
	case milter.ActDelRcpt:
		e.removeRecipient(args[0])
	case milter.ActChangeFrom:
		return e.changeSender(args)
	case milter.ActQuarantine:
		e.quarantine = true
		e.o.note("MILTER_QUARANTINE", "the milter quarantines it: %s", args[0])
	}
	return nil
}

// place is where the index-th field from the top is, 0 the first, among those that are not deleted.
func (e *edit) place(index int) int {
	for i := range e.header {
		if e.header[i].gone {
			continue
		}
		if index == 0 {
			return i
		}
		index--
	}
	return len(e.header)
}

// insert puts a new field somewhere (SMFIR_INSHEADER, SMFIR_ADDHEADER), under the name that the
// administrator wants.
func (e *edit) insert(at int, name, value string) error {
	if !isFieldName(name) {
		return fmt.Errorf("%q is no name of a field", plain.Line(name, 100))
	}
	if value = unfold(value); len(value) > maxValue {
		return fmt.Errorf("the value of %s has more than %d octets", name, maxValue)
	}
	if to, listed := e.settings.Rename[strings.ToLower(name)]; listed {
		if to == "" {
			e.o.note("MILTER_FIELD", "%s: %s", name, value)
			return nil
		}
		e.forged = append(e.forged, to) // what a stranger wrote would pass for the milter's
		name = to
	}
	if strings.EqualFold(name, "DKIM-Signature") && !relaxed(value) {
		e.simple = true
	}
	e.header = slices.Insert(e.header, at, entry{name: name, value: value, fresh: true})
	return nil
}

// change replaces the index-th field of a name, or deletes it if the value is empty. An index beyond them
// adds one; 0 is the first, as in Sendmail (smfi_chgheader).
func (e *edit) change(index int, name, value string) error {
	if !isFieldName(name) {
		return fmt.Errorf("%q is no name of a field", plain.Line(name, 100))
	}
	index = max(index, 1)
	for i := range e.header {
		h := &e.header[i]
		if h.gone || h.bogus || !strings.EqualFold(h.name, name) {
			continue
		}
		if index--; index > 0 {
			continue
		}
		if value == "" {
			h.gone = true
			return nil
		}
		if value = unfold(value); len(value) > maxValue {
			return fmt.Errorf("the value of %s has more than %d octets", name, maxValue)
		}
		h.value, h.changed = value, true
		return nil
	}
	if value == "" {
		return nil
	}
	return e.insert(len(e.header), name, value)
}

// bare takes the angle brackets from an address.
func bare(address string) string {
	if inner, ok := strings.CutPrefix(address, "<"); ok {
		if inner, ok = strings.CutSuffix(inner, ">"); ok {
			return inner
		}
	}
	return address
}

// isAddress reports whether the server would take it for one (PROTOCOL.md section 11).
func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= 320 && s == plain.Line(s, 320) && !strings.ContainsAny(s, "<> \uFFFD")
}

func (e *edit) addRecipient(address string) error {
	address = bare(address)
	if !isAddress(address) {
		return fmt.Errorf("%q is no address with a domain", plain.Line(address, 100))
	}
	if at := slices.Index(e.removed, address); at >= 0 {
		e.removed = slices.Delete(e.removed, at, at+1)
		return nil
	}
	here := slices.ContainsFunc(e.m.Recipients, func(r sdk.Recipient) bool { return strings.EqualFold(r.Address, address) })
	if !here && !slices.Contains(e.added, address) {
		e.added = append(e.added, address)
	}
	return nil
}

// removeRecipient takes one of the envelope out, or one that the milter added. Others are not there
// anyway.
func (e *edit) removeRecipient(address string) {
	address = bare(address)
	if at := slices.Index(e.added, address); at >= 0 {
		e.added = slices.Delete(e.added, at, at+1)
		return
	}
	for i := range e.m.Recipients {
		if to := e.m.Recipients[i].Address; strings.EqualFold(to, address) {
			if !slices.Contains(e.removed, to) {
				e.removed = append(e.removed, to)
			}
			return
		}
	}
	e.o.note("MILTER_IGNORED", "the milter removes %s, who is no recipient", address)
}

func (e *edit) changeSender(args []string) error {
	address := bare(args[0])
	if address != "" && !isAddress(address) {
		return fmt.Errorf("%q is no address", plain.Line(address, 100))
	}
	if len(args) > 1 {
		e.o.note("MILTER_IGNORED", "parameters of the new sender: %s", strings.Join(args[1:], " "))
	}
	e.sender = &address
	return nil
}

// verdict joins the changes and the last word. A message that is refused or discarded is not changed.
func (e *edit) verdict(a answer) (sdk.Verdict, error) {
	v := e.o.verdict(a)
	if a.action != sdk.Accept {
		e.body.drop()
		return v, nil
	}
	if e.quarantine {
		v.Action = sdk.Quarantine
	}
	v.Changes = e.fields()
	for _, address := range e.removed {
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.RemoveRecipient, Address: address})
	}
	for _, address := range e.added {
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.AddRecipient, Address: address})
	}
	if e.sender != nil {
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.ChangeSender, Address: *e.sender})
	}
	if e.replaced {
		body, err := e.body.reader()
		if err != nil {
			return sdk.Verdict{}, err
		}
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.ReplaceBody, Body: body})
	}
	if len(v.Changes) > maxEdits {
		return sdk.Verdict{}, fmt.Errorf("it wants more than %d changes", maxEdits)
	}
	if e.simple {
		v.Alerts = append(v.Alerts, sdk.Alert{Key: "milter simple signature", Text: "The milter signs with simple canonicalization of the header, " +
			"which does not hold: fields that plugins add are folded anew. Let it sign with relaxed (opendkim: Canonicalization relaxed/simple)"})
	}
	return v, nil
}

// fields says how to get from the header that arrived to the one that the milter wants. Fields of
// the server's own are left alone: it has removed forged ones itself, and refuses the rest.
func (e *edit) fields() (list []sdk.Change) {
	for i := range e.header {
		if h := &e.header[i]; !h.fresh && !h.bogus && slices.ContainsFunc(e.forged, func(name string) bool { return strings.EqualFold(name, h.name) }) {
			h.gone, h.forged = true, true
		}
	}
	for i := range e.header {
		if h := &e.header[i]; h.changed && !h.fresh && !h.gone && !reserved(h.name) {
			list = append(list, sdk.Change{Kind: sdk.ReplaceField, Name: h.name, Value: h.value, Index: h.index})
		}
	}
	for i := len(e.header) - 1; i >= 0; i-- { // from below, so that indexes stay what they are
		if h := &e.header[i]; h.gone && !h.fresh && !h.forged && !reserved(h.name) {
			list = append(list, sdk.Change{Kind: sdk.RemoveField, Name: h.name, Index: h.index})
		}
	}
	for i, name := range e.forged {
		if !slices.Contains(e.forged[:i], name) {
			list = append(list, sdk.Change{Kind: sdk.RemoveField, Name: name}) // all
		}
	}
	for i := len(e.header) - 1; i >= 0; i-- { // the last first: each goes in front
		if h := &e.header[i]; h.fresh && !h.gone {
			list = append(list, sdk.Change{Kind: sdk.AddField, Name: h.name, Value: h.value})
		}
	}
	return list
}

// relaxed reports whether a DKIM signature survives that its field is folded anew: its tag c, which is
// "simple/simple" if it is missing (RFC 6376 section 3.5), begins with relaxed.
func relaxed(value string) bool {
	for tag := range strings.SplitSeq(value, ";") {
		if key, how, _ := strings.Cut(tag, "="); strings.TrimSpace(key) == "c" {
			header, _, _ := strings.Cut(strings.TrimSpace(how), "/")
			return strings.EqualFold(strings.TrimSpace(header), "relaxed")
		}
	}
	return false
}
