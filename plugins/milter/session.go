package milter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/sdk"
)

const (
	newestVersion = 6
	oldestVersion = 2 // Sendmail 8.11; what was before has another frame for headers
	dataVersion   = 4 // the first that knows DATA
)

// offeredActions is everything that a milter may ask for: all of the protocol, because libmilter ends the session
// of a milter whose flags have one that was not offered. Parameters of recipients (SMFIF_ADDRCPT_PAR) are dropped, as those of
// senders are, and lists of macros (SMFIF_SETSYMLIST) need no obedience: it gets all that there are.
const offeredActions = milter.OptAddHeader | milter.OptChangeBody | milter.OptAddRcpt | milter.OptRemoveRcpt |
	milter.OptChangeHeader | milter.OptQuarantine | milter.OptChangeFrom | milter.OptAddRcptWithArgs | milter.OptSetSymList

// noReplies are the steps to which the milter may send no reply.
const noReplies = milter.OptNoHeaderReply | milter.OptNoConnReply | milter.OptNoHeloReply | milter.OptNoMailReply | milter.OptNoRcptReply |
	milter.OptNoDataReply | milter.OptNoUnknownReply | milter.OptNoEOHReply | milter.OptNoBodyReply

// offeredSteps is what the milter may leave out. Never SMFIP_SKIP: it would let the rest of a
// body by. Nor SMFIP_RCPT_REJ: recipients that the server refused are not in the question.
const offeredSteps = noReplies | milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom | milter.OptNoRcptTo | milter.OptNoBody |
	milter.OptNoHeaders | milter.OptNoEOH | milter.OptNoUnknown | milter.OptNoData | milter.OptHeaderLeadingSpace

// session is one replay of an SMTP session to a milter.
type session struct {
	*link
	settings *Settings
	version  uint32
	actions  milter.OptAction
	without  milter.OptProtocol // steps and replies that it does not want

	macros pairs // of steps that were left out: the next one takes them along
	over   bool  // it said the last word; nothing is to be aborted
	inside bool  // a message has begun
}

func newSession(c io.ReadWriter, s *Settings) *session {
	return &session{link: newLink(c), settings: s}
}

// negotiate agrees on a version, actions and steps.
func (s *session) negotiate() error {
	offer := make([]byte, 0, 12)
	offer = binary.BigEndian.AppendUint32(offer, newestVersion)
	offer = binary.BigEndian.AppendUint32(offer, uint32(offeredActions))
	offer = binary.BigEndian.AppendUint32(offer, uint32(offeredSteps))
	if err := s.send(milter.CodeOptNeg, offer); err != nil {
		return err
	}
	code, data, err := s.receive()
	if err != nil {
		return err
	}
	if milter.Code(code) != milter.CodeOptNeg || len(data) < 12 {
		return fmt.Errorf("it answers the negotiation with %q and %d octets: this is no milter", code, len(data))
	}
	s.version = binary.BigEndian.Uint32(data)
	s.actions = milter.OptAction(binary.BigEndian.Uint32(data[4:]))
	s.without = milter.OptProtocol(binary.BigEndian.Uint32(data[8:]))
	switch {
	case s.version < oldestVersion || s.version > newestVersion:
		return fmt.Errorf("it speaks version %d of the protocol, expected %d to %d", s.version, oldestVersion, newestVersion)
	case s.actions&^offeredActions != 0:
		return fmt.Errorf("it wants to %s, which we do not offer", words(uint32(s.actions&^offeredActions), actionWords))
	case s.without&^offeredSteps != 0:
		return fmt.Errorf("it wants the protocol steps %s, which we do not offer", words(uint32(s.without&^offeredSteps), stepWords))
	}
	return nil
}

// step sends one step with its macros, and returns what the milter says; "go on" if it does not want
// the step, or does not answer it.
func (s *session) step(code milter.Code, unwanted, silent milter.OptProtocol, macros pairs, data []byte) (answer, error) {
	if s.without&unwanted != 0 {
		if code != milter.CodeRcpt { // each would replace the one before, and those of hundreds are more than a frame can hold
			s.macros = append(s.macros, macros...)
		}
		return goOn, nil
	}
	if err := s.define(code, macros); err != nil {
		return answer{}, err
	}
	if err := s.send(code, data); err != nil {
		return answer{}, err
	}
	if s.without&silent != 0 {
		return goOn, nil
	}
	reply, frame, err := s.receive()
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(reply, frame)
}

// define sends the macros for a step, and those of steps that were left out.
func (s *session) define(code milter.Code, macros pairs) error {
	macros = append(s.macros, macros...)
	s.macros = nil
	if len(macros) == 0 {
		return nil
	}
	data := []byte{byte(code)}
	for _, text := range macros {
		data = appendText(data, text)
	}
	return s.send(milter.CodeMacro, data)
}

// quit ends the session in order. The opinion is there already, so a failure is of no interest.
func (s *session) quit() {
	if s.inside && !s.over {
		_ = s.send(milter.CodeAbort, nil)
	}
	_ = s.send(milter.CodeQuit, nil)
	_ = s.flush()
}

// replay tells the milter what has happened, until it knows enough.
func (s *session) replay(m *sdk.Message) (sdk.Verdict, error) {
	var o opinion
	a, err := s.greet(m)
	if err != nil || !a.goOn() {
		return o.verdict(a), err
	}
	last, err := s.recipients(m, &o)
	if err != nil || !last.goOn() || len(m.Recipients) > 0 && o.refused(m.Recipients) {
		return o.verdict(last), err
	}
	return s.content(m, &o)
}

// greet replays connection, HELO and MAIL FROM.
func (s *session) greet(m *sdk.Message) (answer, error) {
	a, err := s.step(milter.CodeConn, milter.OptNoConnect, milter.OptNoConnReply, s.connectMacros(m), connection(m))
	if err != nil || !a.goOn() {
		return a.at("connect"), err
	}
	if m.Helo != "" {
		a, err = s.step(milter.CodeHelo, milter.OptNoHelo, milter.OptNoHeloReply, s.heloMacros(m), appendText(nil, m.Helo))
		if err != nil || !a.goOn() {
			return a.at("HELO"), err
		}
	}
	s.inside = true
	a, err = s.step(milter.CodeMail, milter.OptNoMailFrom, milter.OptNoMailReply, s.mailMacros(m), mailArgs(m))
	return a.at("MAIL"), err
}

// recipients replays RCPT TO. A refusal is one recipient's, everything else is about the message.
func (s *session) recipients(m *sdk.Message, o *opinion) (answer, error) {
	for i := range m.Recipients {
		r := &m.Recipients[i]
		a, err := s.step(milter.CodeRcpt, milter.OptNoRcptTo, milter.OptNoRcptReply, s.rcptMacros(m, r), rcptArgs(r))
		a = a.at("RCPT")
		switch {
		case err != nil:
			return answer{}, err
		case a.goOn():
		case a.refuses():
			o.refuse(r.Address, a)
		default:
			return a, nil
		}
	}
	return goOn, nil
}

// content replays DATA, the message, and its end.
func (s *session) content(m *sdk.Message, o *opinion) (sdk.Verdict, error) {
	if s.version >= dataVersion {
		a, err := s.step(milter.CodeData, milter.OptNoData, milter.OptNoDataReply, s.idMacros(m), nil)
		if err != nil || !a.goOn() {
			return o.verdict(a.at("DATA")), err
		}
	}
	r := bufio.NewReaderSize(m.Content, 64<<10)
	fields, err := readHeader(r)
	if err != nil {
		return sdk.Verdict{}, err
	}
	a, err := s.header(fields, o)
	if err == nil && a.goOn() {
		a, err = s.step(milter.CodeEOH, milter.OptNoEOH, milter.OptNoEOHReply, s.idMacros(m), nil)
	}
	if err != nil || !a.goOn() {
		return o.verdict(a.at("header")), err
	}
	if a, err = s.body(r); err != nil || !a.goOn() {
		return o.verdict(a.at("body")), err
	}
	return s.end(m, fields, o)
}

// header sends the fields, in their order.
func (s *session) header(fields []field, o *opinion) (answer, error) {
	if s.without&milter.OptNoHeaders != 0 {
		return goOn, nil
	}
	var data []byte
	for i := range fields {
		f := &fields[i]
		data = appendText(data[:0], f.name)
		value, cut := f.sent(s.without&milter.OptHeaderLeadingSpace != 0)
		if cut {
			o.note("MILTER_PARTIAL", "the milter saw the first %d of the %d octets of a field %s", len(value), len(f.value), f.name)
		}
		a, err := s.step(milter.CodeHeader, 0, milter.OptNoHeaderReply, nil, appendText(data, value))
		if err != nil || !a.goOn() {
			return a, err
		}
	}
	return goOn, nil
}

// body sends what is behind the header, in pieces of the protocol's size.
func (s *session) body(r io.Reader) (answer, error) {
	if s.without&milter.OptNoBody != 0 {
		return goOn, nil
	}
	piece := make([]byte, milter.MaxBodyChunk)
	for {
		n, err := io.ReadFull(r, piece)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return answer{}, fmt.Errorf("read the message: %w", err)
		}
		if n > 0 {
			a, err := s.step(milter.CodeBody, 0, milter.OptNoBodyReply, nil, piece[:n])
			if err != nil || !a.goOn() {
				return a, err
			}
		}
		if last {
			return goOn, nil
		}
	}
}

// end says that this was all, and takes what the milter wants changed, up to its last word.
func (s *session) end(m *sdk.Message, fields []field, o *opinion) (v sdk.Verdict, err error) {
	if err := s.define(milter.CodeEOB, s.idMacros(m)); err != nil {
		return v, err
	}
	if err := s.send(milter.CodeEOB, nil); err != nil {
		return v, err
	}
	e := newEdit(s.settings, m, fields, o)
	defer func() {
		if err != nil {
			e.body.drop()
		}
	}()
	for {
		code, data, err := s.receive()
		if err != nil {
			return v, err
		}
		asked, err := e.take(s.actions, code, data)
		if err != nil {
			return v, err
		}
		if asked {
			continue
		}
		a, err := parseAnswer(code, data)
		if err != nil {
			return v, err
		}
		s.over = true
		return e.verdict(a.at("end"))
	}
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// xtext is text as parameters have it (RFC 3461 section 4).
func xtext(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
