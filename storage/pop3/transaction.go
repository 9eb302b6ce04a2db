package pop3

import (
	"context"
	"errors"
	"strconv"
	"time"
)

const (
	readWait   = 30 * time.Second // for the store to open a message
	removeWait = 2 * time.Minute  // for the removal at QUIT, all of it durable
)

// handleTransaction answers the commands of the TRANSACTION state.
func (s *session) handleTransaction(c command) error {
	switch c.verb {
	case "RETR":
		return s.retr(c)
	case "TOP":
		return s.top(c)
	case "LIST":
		return s.list(c, func(line []byte, m message) []byte { return strconv.AppendInt(line, m.size, 10) })
	case "UIDL":
		return s.list(c, func(line []byte, m message) []byte { return append(line, m.uidl...) })
	case "DELE":
		return s.dele(c)
	case "STAT", "NOOP", "RSET":
		if c.arg != "" {
			return s.bad(errTextBadArgument)
		}
		switch c.verb {
		case "STAT":
			s.stat()
		case "NOOP":
			s.ok("")
		case "RSET":
			clear(s.deleted)
			s.marked = 0
			s.ok("nothing is deleted")
		}
		return nil
	case "USER", "PASS", "AUTH", "STLS":
		return s.bad(errTextState)
	}
	return s.bad(errTextUnknown)
}

// stat answers STAT: messages and octets that are not deleted (RFC 1939 section
// 5).
func (s *session) stat() {
	var octets int64
	for i, m := range s.drop.messages() {
		if !s.deleted[i] {
			octets += m.size
		}
	}
	line := append(s.w.AvailableBuffer(), "+OK "...)
	line = strconv.AppendInt(line, int64(len(s.deleted)-s.marked), 10)
	line = append(line, ' ')
	line = strconv.AppendInt(line, octets, 10)
	s.w.Write(append(line, "\r\n"...))
}

// list answers LIST and UIDL, for one message or for all.
func (s *session) list(c command, value func(line []byte, m message) []byte) error {
	messages := s.drop.messages()
	args := c.fields()
	switch len(args) {
	case 0:
	case 1:
		i, ok := s.number(args[0])
		if !ok {
			return nil
		}
		line := append(s.w.AvailableBuffer(), "+OK "...)
		s.w.Write(append(value(listingNumber(line, i), messages[i]), "\r\n"...))
		return nil
	default:
		return s.bad(errTextBadArgument)
	}
	s.ok("")
	for i, m := range messages {
		if s.deleted[i] {
			continue
		}
		line := listingNumber(s.w.AvailableBuffer(), i)
		if _, err := s.w.Write(append(value(line, m), "\r\n"...)); err != nil {
			return err
		}
	}
	_, err := s.w.WriteString(".\r\n")
	return err
}

func listingNumber(line []byte, i int) []byte {
	return append(strconv.AppendInt(line, int64(i)+1, 10), ' ')
}

// number reads a message number and returns the message's index. If it names
// none, the client was told so.
func (s *session) number(arg string) (int, bool) {
	n, ok := parseNumber(arg)
	switch {
	case !ok || n < 1 || n > len(s.deleted):
		s.err(errTextNoMessage)
		return 0, false
	case s.deleted[n-1]:
		s.err(errTextDeleted)
		return 0, false
	}
	return n - 1, true
}

func (s *session) dele(c command) error {
	args := c.fields()
	if len(args) != 1 {
		return s.bad(errTextBadArgument)
	}
	i, ok := s.number(args[0])
	if !ok {
		return nil
	}
	s.deleted[i] = true
	s.marked++
	s.ok("")
	return nil
}

func (s *session) retr(c command) error {
	args := c.fields()
	if len(args) != 1 {
		return s.bad(errTextBadArgument)
	}
	if i, ok := s.number(args[0]); ok {
		return s.send(i, nil)
	}
	return nil
}

// top answers TOP: the header, the empty line and some lines of the body (RFC
// 1939 section 7).
func (s *session) top(c command) error {
	args := c.fields()
	if len(args) != 2 {
		return s.bad(errTextBadArgument)
	}
	lines, ok := parseNumber(args[1])
	if !ok {
		return s.bad(errTextBadArgument)
	}
	if i, ok := s.number(args[0]); ok {
		return s.send(i, &topCutter{lines: lines})
	}
	return nil
}

// send writes a message or its top. When reading fails half way the connection
// ends, because only the final dot says that a message is whole.
func (s *session) send(i int, cutter *topCutter) error {
	ctx, cancel := context.WithTimeout(s.srv.ctx, readWait)
	c, err := s.drop.open(ctx, i)
	cancel()
	switch {
	case errors.Is(err, errGone):
		s.err(errTextGone)
		return nil
	case err != nil:
		s.log.Error("pop3: open a message", "uidl", s.drop.messages()[i].uidl, "why", err)
		s.err(errTextTrouble)
		return nil
	}
	defer c.Close()
	s.ok("")
	if err := sendContent(s.w, c, cutter, s.bufs.piece); err != nil {
		if errors.Is(err, errReadContent) {
			s.log.Error("pop3: send a message", "uidl", s.drop.messages()[i].uidl, "why", err)
		}
		return err
	}
	return nil
}

// quit ends the session; in the TRANSACTION state it first removes what was
// deleted (RFC 1939 section 6, the UPDATE state).
func (s *session) quit() error {
	if s.drop == nil {
		s.ok("bye")
		return errQuit
	}
	err := s.removeDeleted()
	s.closeDrop() // before the answer, so that the client may come back at once
	if err != nil {
		s.log.Error("pop3: remove deleted messages", "why", err)
		s.err(errTextNotRemoved)
		return errQuit
	}
	s.ok("bye")
	return errQuit
}

func (s *session) removeDeleted() error {
	if s.marked == 0 {
		return nil
	}
	which := make([]int, 0, s.marked)
	for i, deleted := range s.deleted {
		if deleted {
			which = append(which, i)
		}
	}
	ctx, cancel := context.WithTimeout(s.srv.ctx, removeWait)
	defer cancel()
	if err := s.drop.remove(ctx, which); err != nil {
		return err
	}
	s.log.Info("pop3: removed", "action", "expunge", "messages", len(which))
	return nil
}

func delaySeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
