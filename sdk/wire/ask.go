package wire

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// This file is the short cut for Ask, as codec.go has them for Chunk and End: written and read field by field, without the
// tables and the reflection of package proto, which took a sixth of all that a small question costs. Whatever it does not
// know goes the long way; TestAskHasAllFields fails when plugin.proto has a field more than this file.

const tagAsk = 1<<3 | 2 // in HostFrame

// appendAsk appends a HostFrame with an Ask; ok is false, and b as it was, if that is to go the long way.
func appendAsk(b []byte, a *Ask) (out []byte, ok bool) {
	if a == nil || a.Event != nil || len(a.unknownFields) > 0 {
		return b, false
	}
	f := fields{b: b}
	frame := f.begin(1)
	f.number(1, a.Id)
	f.number(2, uint64(a.Phase))
	if a.Envelope != nil {
		envelope := f.begin(3)
		f.envelope(a.Envelope)
		f.end(envelope)
	}
	f.number(4, uint64(a.Size))
	f.number(5, uint64(a.DeadlineUnixNano))
	f.end(frame)
	if f.unknown {
		return b, false
	}
	return f.b, true
}

func (f *fields) envelope(e *Envelope) {
	f.unknown = f.unknown || len(e.unknownFields) > 0
	f.text(1, e.Id)
	f.text(2, e.Origin)
	f.number(3, uint64(e.ReceivedUnixNano))
	f.text(4, e.Listener)
	f.text(5, e.ClientAddr)
	f.text(6, e.ClientName)
	f.text(7, e.Helo)
	f.text(8, e.Tls)
	f.text(9, e.Login)
	f.text(10, e.Sender)
	for _, r := range e.Recipients {
		start := f.begin(11)
		f.recipient(r)
		f.end(start)
	}
	f.texts(12, e.Tags)
	f.text(13, e.Session)
	f.text(14, e.Server)
	f.text(15, e.Pipeline)
	f.number(16, uint64(e.ClientPort))
	f.flag(17, e.Esmtp)
	f.text(18, e.Cipher)
	f.texts(19, e.Auth)
	f.real(20, e.Score)
	f.number(21, uint64(e.DeclaredSize))
	f.text(22, e.Body)
	f.flag(23, e.Smtputf8)
	f.text(24, e.EnvId)
	f.text(25, e.Ret)
}

func (f *fields) recipient(r *Recipient) {
	f.unknown = f.unknown || len(r.unknownFields) > 0
	f.text(1, r.Address)
	f.list(2, r.Accounts)
	f.list(3, r.Notify)
	f.text(4, r.Orcpt)
	f.list(5, r.Hops)
}

// parseAsk reads a HostFrame that has an Ask and nothing else; false sends it the long way. All texts share
// the memory of one.
func parseAsk(b []byte, frame *HostFrame) bool {
	if len(b) == 0 || b[0] != tagAsk {
		return false
	}
	inner, n := protowire.ConsumeBytes(b[1:])
	if n != len(b)-1 {
		return false
	}
	x := &struct {
		wrapper  HostFrame_Ask
		ask      Ask
		envelope Envelope
	}{}
	a := &x.ask
	ok := message{inner, string(inner)}.each(func(f field) bool {
		switch f.key {
		case 1<<3 | varint:
			a.Id = f.number
		case 2<<3 | varint:
			a.Phase = Phase(int32(f.number))
		case 3<<3 | octets:
			if a.Envelope != nil {
				return false // to be merged
			}
			a.Envelope = &x.envelope
			return a.Envelope.parse(f.message)
		case 4<<3 | varint:
			a.Size = int64(f.number)
		case 5<<3 | varint:
			a.DeadlineUnixNano = int64(f.number)
		default:
			return false
		}
		return true
	})
	if !ok {
		return false
	}
	x.wrapper.Ask = a
	frame.Reset()
	frame.Frame = &x.wrapper
	return true
}

func (e *Envelope) parse(m message) bool {
	return m.each(func(f field) bool {
		if to := e.text(f.key); to != nil {
			return f.text(to)
		}
		switch f.key {
		case 3<<3 | varint:
			e.ReceivedUnixNano = int64(f.number)
		case 11<<3 | octets:
			r := new(Recipient)
			e.Recipients = append(e.Recipients, r)
			return r.parse(f.message)
		case 12<<3 | octets:
			return f.pair(&e.Tags)
		case 16<<3 | varint:
			e.ClientPort = uint32(f.number)
		case 17<<3 | varint:
			e.Esmtp = f.number != 0
		case 19<<3 | octets:
			return f.pair(&e.Auth)
		case 20<<3 | fixed64:
			e.Score = math.Float64frombits(f.number)
		case 21<<3 | varint:
			e.DeclaredSize = int64(f.number)
		case 23<<3 | varint:
			e.Smtputf8 = f.number != 0
		default:
			return false
		}
		return true
	})
}

// text returns the field of that key if it is a single text.
func (e *Envelope) text(key uint64) *string {
	switch key {
	case 1<<3 | octets:
		return &e.Id
	case 2<<3 | octets:
		return &e.Origin
	case 4<<3 | octets:
		return &e.Listener
	case 5<<3 | octets:
		return &e.ClientAddr
	case 6<<3 | octets:
		return &e.ClientName
	case 7<<3 | octets:
		return &e.Helo
	case 8<<3 | octets:
		return &e.Tls
	case 9<<3 | octets:
		return &e.Login
	case 10<<3 | octets:
		return &e.Sender
	case 13<<3 | octets:
		return &e.Session
	case 14<<3 | octets:
		return &e.Server
	case 15<<3 | octets:
		return &e.Pipeline
	case 18<<3 | octets:
		return &e.Cipher
	case 22<<3 | octets:
		return &e.Body
	case 24<<3 | octets:
		return &e.EnvId
	case 25<<3 | octets:
		return &e.Ret
	}
	return nil
}

func (r *Recipient) parse(m message) bool {
	return m.each(func(f field) bool {
		switch f.key {
		case 1<<3 | octets:
			return f.text(&r.Address)
		case 2<<3 | octets:
			return f.more(&r.Accounts)
		case 3<<3 | octets:
			return f.more(&r.Notify)
		case 4<<3 | octets:
			return f.text(&r.Orcpt)
		case 5<<3 | octets:
			return f.more(&r.Hops)
		}
		return false
	})
}
