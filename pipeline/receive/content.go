package receive

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

var (
	errIncomplete = errors.New("the content did not arrive as a whole")
	errEnough     = errors.New("the content is too large to be read to its end")
	endOfData     = []byte(".\r\n")
)

// Data receives the content of a message, of DATA or BDAT, and has the pipeline decide about it.
func (s *session) Data(r io.Reader) error {
	_, result := s.receive(r)
	return smtpError(result.Reply) // the library writes its code whatever it is; so the 250 can name the queue ID
}

// LMTPData is Data with a reply for each recipient (RFC 2033 section 4.2).
func (s *session) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	tx, result := s.receive(r)
	if tx != nil && len(result.Each) == len(tx.keys) {
		for i, key := range tx.keys {
			status.SetStatus(key, smtpError(result.Each[i]))
		}
		return smtpError(pipeline.ReplyTryLater) // for recipients without a status: there is none
	}
	return smtpError(result.Reply)
}

// receive spools the content, looks at what scan found, and submits the message.
func (s *session) receive(r io.Reader) (*transaction, pipeline.Result) {
	tx := s.current()
	if tx == nil {
		return nil, pipeline.Result{Reply: replyNoMessage}
	}
	g, m := s.gate, tx.message
	spool := s.newSpool(tx)
	sc := g.server.newScan(m.Origin)
	var err error
	if tx.chunked {
		sc.dots = false
		err = g.readChunks(r, &sc, spool)
	} else {
		tx.content = true
		err = g.readContent(&sc, spool)
		// The library's reader sees the end of data and nothing else: the content is ours.
		_, _ = io.Copy(io.Discard, r)
	}
	switch {
	case err == nil, errors.Is(err, errEnough): // which has a flaw of its own
	case tx.tooLarge.Load():
		sc.flag(flawSize)
	default:
		sc.flaw = flawIncomplete
	}
	if sc.flaw != flawNone {
		spool.Discard()
		return nil, s.unfit(m, &sc)
	}
	draft, err := spool.Finish()
	if err != nil {
		sc.flaw, sc.err = flawSpool, err
		return nil, s.unfit(m, &sc)
	}
	if err := m.SetContent(draft); err != nil {
		draft.Discard()
		sc.flaw, sc.err = flawSpool, err
		return nil, s.unfit(m, &sc)
	}
	return tx, s.submit(m)
}

// newScan returns a scan with the limits of the configuration and the rules for the origin (RULES A5). NUL is refused from
// strangers and kept, octet for octet, from our own people and from LMTP.
func (s *Server) newScan(origin sdk.Origin) scan {
	c := &s.options.Config
	return scan{
		dots:    true,
		repair:  origin != sdk.Stranger,
		refuse0: origin == sdk.Stranger,
		limits: scanLimits{
			size: c.MaxSize.Int64(), header: c.MaxHeader.Int64(), line: c.MaxLine.Int64(),
			fields: c.MaxHeaderFields, received: c.MaxReceived,
		},
	}
}

// unfit logs why content is not taken, has the pipeline keep its trace, and returns the answer. What did not arrive as a
// whole leaves none: there was no answer that the peer could have understood.
func (s *session) unfit(m *pipeline.Message, sc *scan) pipeline.Result {
	reply, why := replies[sc.flaw], whys[sc.flaw]
	s.gate.server.counts.unfit.Add(1)
	switch sc.flaw {
	case flawIncomplete:
		s.gate.log("message", "id", m.ID.String(), "action", "abandoned", "why", why, "from", m.Sender, "size", sc.size)
		return pipeline.Result{Reply: reply}
	case flawSpool:
		s.gate.server.options.Logger.Error("message", "id", m.ID.String(), "session", s.gate.id, "stage", pipeline.StageReceive,
			"action", "defer", "why", sc.err, "from", m.Sender, "size", sc.size)
		if errors.Is(sc.err, syscall.ENOSPC) || errors.Is(sc.err, syscall.EDQUOT) {
			reply = pipeline.ReplyDiskFull
		}
		why += ": " + sc.err.Error()
	default:
		s.gate.log("message", "id", m.ID.String(), "action", sdk.Reject.String(), "why", why, "from", m.Sender, "size", sc.size)
	}
	return s.refuse(m, pipeline.Unfit{Reply: reply, Why: why, Size: sc.size})
}

// traceTime is how long a peer waits, at most, for the trace of what is refused.
const traceTime = 5 * time.Second

// refuse has the pipeline keep the trace of a message that is not submitted, and returns the answer. Whether the peer
// still waits for it does not matter: what it sent is known.
func (s *session) refuse(m *pipeline.Message, u pipeline.Unfit) pipeline.Result {
	if l := s.name; l != nil {
		select {
		case <-l.done:
			m.Peer.Reverse, m.Peer.Name = l.result, l.name
		default: // not worth a wait
		}
	}
	ctx, cancel := context.WithTimeout(s.gate.server.base, traceTime)
	defer cancel()
	s.gate.server.options.Pipeline.Refuse(ctx, m, u)
	return pipeline.Result{Reply: u.Reply}
}

// readContent reads what follows DATA up to the final dot, straight from the gate's buffer.
func (g *gate) readContent(sc *scan, spool *blob.Spool) error {
	c := &g.server.options.Config
	g.until = time.Now().Add(c.TransactionTimeout.Std())
	for {
		n, end := sc.next(g.buf[g.r:g.w], spool, false)
		g.r += n
		if end {
			g.line = endOfData
			return nil
		}
		if sc.size > 2*c.MaxSize.Int64() { // read to be polite, but not for ever
			g.die("552 5.3.4 The message is too large; closing instead of reading it")
			return errEnough
		}
		if err := g.fill(c.DataTimeout.Std(), g.until); err != nil {
			return errIncomplete
		}
	}
}

// readChunks reads what the library passes on from BDAT. The library takes the end of input inside a chunk for the end of
// the chunk; the gate knows better.
func (g *gate) readChunks(r io.Reader, sc *scan, spool *blob.Spool) error {
	buf := g.server.buffers.Get().(*[largeBuffer]byte)
	defer g.server.buffers.Put(buf)
	for have := 0; ; {
		n, err := r.Read(buf[have:])
		have += n
		used, _ := sc.next(buf[:have], spool, err == io.EOF)
		have = copy(buf[:], buf[used:have])
		switch {
		case err == io.EOF && !g.dead:
			return nil
		case err != nil:
			return errIncomplete
		}
	}
}
