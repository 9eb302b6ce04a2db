package pipeline

import (
	"errors"
	"io"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// Question is what a plugin is asked in one phase: in connect about a session, in
// sender and recipient about what is known of a message's envelope, in content and
// route about one version of a message on behalf of the recipients who share it.
type Question struct {
	Phase      sdk.Phase
	Session    *Session   // in connect, else nil
	Message    *Message   // nil in connect
	Recipient  *Recipient // in recipient: who is asked about; not among Message.Recipients yet
	Version    *Version   // nil before content
	Recipients []int      // indexes into Message.Recipients

	// NewBody returns where the plugin's new body goes, for one Ask. It is an io.Writer
	// whose error means that the body is larger than a message may be, or that there
	// is no room for it now. Where the phase allows no new body it is thrown away: the
	// change is refused, not the verdict.
	NewBody func() (io.Writer, error)

	// By is the manifest of the version that has answered, if Ask asked another one than Asker.Manifest is about: a canary.
	// Ask sets it before it returns.
	By *sdk.Manifest

	envelope *sdk.Envelope
	content  *blob.VariantReader
	broken   error // why there is no content
}

// Envelope returns what the plugin sees of the envelope: the recipients of the
// question alone, and the score so far, the least of theirs. It must not be changed:
// all plugins of the stage are given the same.
func (q *Question) Envelope() *sdk.Envelope {
	if q.envelope == nil {
		e := q.makeEnvelope()
		q.envelope = &e
	}
	return q.envelope
}

func (q *Question) makeEnvelope() sdk.Envelope {
	if q.Message == nil {
		return q.Session.envelope()
	}
	m := q.Message
	e := m.bareEnvelope()
	if q.Recipient != nil {
		e.Recipients = []sdk.Recipient{q.Recipient.shown(q.Phase)}
		return e
	}
	e.Recipients = make([]sdk.Recipient, len(q.Recipients))
	own := 0.0
	for n, i := range q.Recipients {
		r := m.Recipients[i]
		e.Recipients[n] = r.shown(q.Phase)
		if n == 0 || r.Score < own {
			own = r.Score
		}
	}
	e.Score += own
	return e
}

// Content returns the octets of the version that is asked about. All plugins of the
// stage read from the same, each a section of its own.
func (q *Question) Content() (*blob.VariantReader, error) {
	if q.content == nil && q.broken == nil {
		if q.Version == nil || q.Message.Content == nil {
			q.broken = errors.New("read the message: there is none before content")
		} else {
			q.content, q.broken = q.Message.Open(q.Version)
		}
	}
	return q.content, q.broken
}

// Parsed returns the shared parse of the version that is asked about. It is made
// at most once for each version, whoever asks (RULES C7), and must not be changed.
func (q *Question) Parsed() (*sdk.Parsed, error) {
	if q.Version == nil {
		return nil, errors.New("parse the message: there is none before content")
	}
	return q.Message.parsed(q.Version)
}

// Note adds to the trace what a shadow plugin said in a phase before content, and
// reports whether there was still time: a session's notes go into the traces of the
// messages that begin afterwards.
func (q *Question) Note(e trace.Event) bool {
	if q.Message == nil {
		return q.Session.said.note(e)
	}
	return q.Message.said.note(e)
}
