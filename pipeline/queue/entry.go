package queue

import (
	"encoding/binary"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/codec"
)

// Entry is what the queue keeps of a message for all of its recipients.
type Entry struct {
	ID       storage.ID            `json:"id"`
	Origin   sdk.Origin            `json:"origin"`
	Pipeline string                `json:"pipeline"` // a name: its settings are those of the moment
	Received time.Time             `json:"received"`
	Sender   string                `json:"sender"`
	Params   pipeline.SenderParams `json:"params"`
	Content  storage.ContentID     `json:"-"`
	Size     int64                 `json:"size"`            // octets as they arrived
	Verified bool                  `json:"verified"`        // a stranger's sender that SPF or DKIM vouch for (RULES A7)
	Login    string                `json:"login,omitempty"` // the account that handed it in
}

// Recipient is one hop of one recipient, with how it went so far.
type Recipient struct {
	Number   uint32                   `json:"number"` // within the entry
	Address  string                   `json:"address"`
	Params   pipeline.RecipientParams `json:"params"`
	Hop      pipeline.Hop             `json:"-"`
	Variant  int                      `json:"variant"`
	Attempts int                      `json:"attempts"`
	Next     time.Time                `json:"next"` // due; zero: held
	Last     string                   `json:"last,omitempty"`
	Warned   bool                     `json:"warned"`            // the sender was told that it is late
	Since    time.Time                `json:"since,omitzero"`    // its time counts from here on, not from when the message came
	Added    string                   `json:"added,omitempty"`   // the plugin that added it: the sender does not know of it
	Instead  []string                 `json:"instead,omitempty"` // addresses that the sender knows, in whose place it was added

	// In memory alone.
	hop    string            // hopOf(&Hop)
	at     uint32            // the minute in which its due key stands
	unsure bool              // a batch about it failed, and may be there all the same
	ended  *pipeline.Outcome // how it went with the peer, where that is not in the store yet
}

// The forms of records. Form 2 of an entry has REQUIRETLS, Verified and Login; form 2 of a recipient has
// Hop.Via and Hop.Sender, form 3 Since, Added and Instead. All are read. A recipient with none of those three is written in
// form 2, so that what waits can still be read by who goes back a version.
const (
	entryForm     = 2
	recipientForm = 3
	maxVariants   = 16 // of a message (RULES A4)
)

// record returns a decoder for a record of one of the forms up to newest, and its form.
func record(b []byte, newest byte) (codec.Decoder, byte) {
	form := newest
	if len(b) > 0 && b[0] >= 1 && b[0] < newest {
		form = b[0]
	}
	return codec.Record(b, form), form
}

func (e *Entry) append(b []byte) []byte {
	b = append(append(b, entryForm), e.ID[:]...)
	b = codec.AppendString(b, string(e.Origin))
	b = codec.AppendString(b, e.Pipeline)
	b = codec.AppendTime(b, e.Received)
	b = codec.AppendString(b, e.Sender)
	b = binary.AppendVarint(b, e.Params.Size)
	b = codec.AppendString(b, e.Params.Body)
	b = codec.AppendBool(b, e.Params.SMTPUTF8)
	b = codec.AppendString(b, e.Params.Ret)
	b = codec.AppendString(b, e.Params.EnvID)
	b = append(b, e.Content[:]...)
	b = binary.AppendVarint(b, e.Size)
	b = codec.AppendBool(b, e.Params.TLS)
	b = codec.AppendBool(b, e.Verified)
	return codec.AppendString(b, e.Login)
}

func decodeEntry(b []byte) (Entry, error) {
	d, form := record(b, entryForm)
	e := Entry{
		ID: readID(&d), Origin: sdk.Origin(d.String()), Pipeline: d.String(),
		Received: d.Time(), Sender: d.String(),
	}
	e.Params = pipeline.SenderParams{
		Size: d.Int(), Body: d.String(), SMTPUTF8: d.Bool(), Ret: d.String(), EnvID: d.String(),
	}
	e.Content = readID(&d)
	e.Size = d.Int()
	if form >= 2 {
		e.Params.TLS, e.Verified, e.Login = d.Bool(), d.Bool(), d.String()
	}
	return e, d.End("queue entry")
}

func readID(d *codec.Decoder) (i storage.ID) {
	copy(i[:], d.Take(len(i)))
	return i
}

func (r *Recipient) append(b []byte) []byte {
	form := byte(recipientForm)
	if r.Since.IsZero() && r.Added == "" && len(r.Instead) == 0 {
		form = 2
	}
	b = binary.AppendVarint(append(b, form), int64(r.Number))
	b = codec.AppendString(b, r.Address)
	b = codec.AppendStrings(b, r.Params.Notify)
	b = codec.AppendString(b, r.Params.ORcpt)
	b = append(b, byte(r.Hop.Kind))
	b = append(b, r.Hop.Account[:]...)
	b = codec.AppendString(b, r.Hop.Address)
	b = codec.AppendBool(b, r.Hop.Junk)
	b = codec.AppendString(b, r.Hop.Why)
	b = binary.AppendVarint(b, int64(r.Variant))
	b = binary.AppendVarint(b, int64(r.Attempts))
	b = codec.AppendTime(b, r.Next)
	b = codec.AppendString(b, r.Last)
	b = codec.AppendBool(b, r.Warned)
	b = codec.AppendString(b, r.Hop.Via)
	b = codec.AppendString(b, r.Hop.Sender)
	if form == 2 {
		return b
	}
	b = codec.AppendTime(b, r.Since)
	b = codec.AppendString(b, r.Added)
	return codec.AppendStrings(b, r.Instead)
}

func decodeRecipient(b []byte) (Recipient, error) {
	d, form := record(b, recipientForm)
	r := Recipient{Number: uint32(d.Int()), Address: d.String()}
	r.Params = pipeline.RecipientParams{Notify: d.Strings(), ORcpt: d.String()}
	r.Hop = pipeline.Hop{
		Kind: pipeline.HopKind(d.Octet()), Account: readID(&d),
		Address: d.String(), Junk: d.Bool(), Why: d.String(),
	}
	r.Variant = int(d.Int())
	r.Attempts = int(d.Int())
	r.Next = d.Time()
	r.Last = d.String()
	r.Warned = d.Bool()
	if form >= 2 {
		r.Hop.Via, r.Hop.Sender = d.String(), d.String()
	}
	if form >= 3 {
		r.Since, r.Added, r.Instead = d.Time(), d.String(), d.Strings()
	}
	if r.Variant < 0 || r.Variant >= maxVariants || r.Attempts < 0 {
		d.Fail()
	}
	return r, d.End("recipient of a queue entry")
}

// began is when a recipient's time began: after warn_after its sender is told, after give_up_after it fails. That of what was
// released by hand begins with the release.
func (e *Entry) began(r *Recipient) time.Time {
	if !r.Since.IsZero() {
		return r.Since
	}
	return e.Received
}
