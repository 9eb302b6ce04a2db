package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

func (l *testLane) special(a *wire.Ask) {
	if a.Envelope == nil {
		a.Envelope = &wire.Envelope{}
	}
	a.Envelope.Sender = "special"
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: a}})
}

func (l *testLane) parsed(id uint64, p *sdk.Parsed) {
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Parsed{Parsed: wire.ToParsed(id, p)}})
}

// bodyAndAnswer reads Body frames up to the answer.
func (l *testLane) bodyAndAnswer(id uint64) ([]byte, int, *wire.Answer) {
	l.t.Helper()
	var body []byte
	for frames := 0; ; frames++ {
		f, err := l.Recv()
		if err != nil {
			l.t.Fatal(err)
		}
		if a := f.GetAnswer(); a != nil {
			if a.GetId() != id {
				l.t.Fatalf("an answer to %d, expected %d", a.GetId(), id)
			}
			return body, frames, a
		}
		if b := f.GetBody(); b.GetId() != id || len(b.GetData()) == 0 && frames > 0 || len(b.GetData()) > wire.MaxChunk {
			l.t.Fatalf("a body frame of %d octets for %d", len(b.GetData()), b.GetId())
		}
		body = append(body, f.GetBody().GetData()...)
	}
}

// TestPhases: every phase arrives by its name, events with what happened; what the kit does not know
// is an error answer, and the lane lives.
func TestPhases(t *testing.T) {
	var saw *sdk.Message
	p := &plugin{special: func(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
		n, err := io.Copy(io.Discard, m.Content)
		copied := *m
		saw = &copied
		return sdk.Verdict{Score: float64(n)}, err
	}}
	l := start(t, p, 1).lane()
	id := uint64(0)
	for number, want := range map[wire.Phase]sdk.Phase{1: sdk.PhaseConnect, 2: sdk.PhaseSender, 3: sdk.PhaseRecipient, 4: sdk.PhaseContent, 5: sdk.PhaseRoute} {
		id++
		l.special(&wire.Ask{Id: id, Phase: number})
		l.end(id)
		if l.answer(id).GetVerdict() == nil || saw.Phase != want || saw.Event != nil {
			t.Errorf("%d arrived as %+v", number, saw)
		}
	}
	id++
	l.special(&wire.Ask{Id: id, Phase: 6, Event: &wire.Event{Kind: 9, Account: "a@example.test", AtUnixNano: 5}})
	l.chunk(id, 10)
	l.end(id)
	if l.answer(id).GetVerdict().GetScore() != 10 || saw.Phase != sdk.PhaseEvent || saw.Event.Kind != sdk.EventLearnHam || saw.Event.Account != "a@example.test" {
		t.Errorf("%+v", saw)
	}
	saw = nil
	for _, a := range []*wire.Ask{{Phase: 0}, {Phase: 7}, {Phase: 6}, {Phase: 6, Event: &wire.Event{Kind: 11}}} {
		id++
		a.Id = id
		l.special(a)
		l.end(id)
		if l.answer(id).GetError() == nil || saw != nil {
			t.Errorf("%v was asked of the plugin: %+v", a, saw)
		}
	}
}

// TestEventLane: one lane more, if the manifest lists events.
func TestEventLane(t *testing.T) {
	for _, events := range [][]sdk.EventKind{nil, {sdk.EventCommand}} {
		c := start(t, &plugin{manifest: sdk.Manifest{Events: events}}, 2)
		for range 2 + len(events) {
			l := c.lane()
			l.ask(1, "early")
			l.answer(1)
		}
		c.lane().fails(codes.ResourceExhausted)
	}
}

func TestParsed(t *testing.T) {
	parse := &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Type: "text/plain", Text: "hello"}}, URLs: []string{"http://a/"}}
	var first, between int
	var got *sdk.Parsed
	var after error
	p := &plugin{manifest: sdk.Manifest{Parsed: true}, special: func(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
		n, err := io.ReadFull(m.Content, make([]byte, first))
		if err != nil && first > 0 {
			return sdk.Verdict{}, err
		}
		between = n
		if got, err = m.Parsed(); err != nil {
			return sdk.Verdict{}, err
		}
		again, err := m.Parsed()
		if again != got || err != nil {
			return sdk.Verdict{}, errors.New("the second call gives another parse")
		}
		_, after = m.Content.Read(make([]byte, 1))
		return sdk.Verdict{}, nil
	}}
	l := start(t, p, 1).lane()
	const size = 40 * wire.MaxChunk // far beyond any buffer
	for id, read := range map[uint64]int{1: 0, 2: 10, 3: size} {
		first = read
		l.special(&wire.Ask{Id: id, Phase: 4})
		for range 40 {
			l.chunk(id, wire.MaxChunk)
		}
		l.parsed(id+100, &sdk.Parsed{Truncated: true}) // of another question
		l.parsed(id, parse)
		l.parsed(id, &sdk.Parsed{Truncated: true})
		l.end(id)
		if a := l.answer(id); a.GetError() != nil || between != read || got == nil || len(got.Parts) != 1 || got.Truncated {
			t.Errorf("%d octets read first: %v %+v", read, a, got)
		}
		if (read == size) != errors.Is(after, io.EOF) || after == nil {
			t.Errorf("%d octets read first, afterwards %v", read, after)
		}
	}
	first = 0
	l.special(&wire.Ask{Id: 4, Phase: 1}) // End comes, and no parse
	l.end(4)
	if text := l.answer(4).GetError().GetText(); !strings.Contains(text, "no parse") {
		t.Error(text)
	}
	l.special(&wire.Ask{Id: 5, Phase: 4})
	l.chunk(5, 10)
	l.cancel(5)
	l.end(5)
	if text := l.answer(5).GetError().GetText(); !strings.Contains(text, "canceled") {
		t.Error(text)
	}
	p.manifest.Parsed = false
	l = start(t, p, 1).lane()
	l.special(&wire.Ask{Id: 1, Phase: 4})
	l.parsed(1, parse)
	l.end(1)
	if text := l.answer(1).GetError().GetText(); !strings.Contains(text, "manifest") {
		t.Error(text)
	}
}

// reader is a new body: so many octets, then an error or panic.
type reader struct {
	left   int
	err    error
	panics bool
	closed int
	each   func()
}

func (r *reader) Read(p []byte) (int, error) {
	if r.each != nil {
		r.each()
	}
	if r.left == 0 {
		if r.panics {
			panic("in the body")
		}
		return 0, r.err
	}
	n := min(len(p), r.left)
	r.left -= n
	return n, nil
}

func (r *reader) Close() error {
	r.closed++
	return nil
}

// uncomparable readers must not end the process.
type uncomparable struct {
	io.Reader
	_ []int
}

func TestBody(t *testing.T) {
	replace := func(r io.Reader) []sdk.Change { return []sdk.Change{{Kind: sdk.ReplaceBody, Body: r}} }
	same := &reader{left: 700000, err: io.EOF}
	two := []*reader{{left: 1, err: io.EOF}, {left: 1, err: io.EOF}}
	broken := &reader{left: 300000, err: errors.New("the disk is gone")}
	panics := &reader{left: 10, panics: true}
	unwanted := &reader{left: 10, err: io.EOF}
	for id, c := range []struct {
		verdict sdk.Verdict
		err     error
		body    int
		fails   string
		readers []*reader
	}{
		{verdict: sdk.Verdict{Changes: replace(strings.NewReader("hello\r\n"))}, body: 7},
		{verdict: sdk.Verdict{Changes: replace(strings.NewReader(""))}},
		{verdict: sdk.Verdict{Changes: replace(bytes.NewReader(make([]byte, 3*wire.MaxChunk)))}, body: 3 * wire.MaxChunk},
		{verdict: sdk.Verdict{
			Changes: replace(same), Recipients: []sdk.RecipientVerdict{{Recipient: "a", Changes: replace(same)}, {Recipient: "b", Changes: replace(same)}},
		}, body: 700000, readers: []*reader{same}},
		{verdict: sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "a", Changes: replace(two[0])}, {Recipient: "b", Changes: replace(two[1])}}}, fails: "several", readers: two},
		{verdict: sdk.Verdict{Changes: append(replace(uncomparable{Reader: strings.NewReader("x")}), replace(uncomparable{Reader: strings.NewReader("x")})...)}, fails: "several"},
		{verdict: sdk.Verdict{Changes: replace(uncomparable{Reader: strings.NewReader("x")})}, body: 1},
		{verdict: sdk.Verdict{Changes: replace(nil)}, fails: "no Body"},
		{verdict: sdk.Verdict{Changes: replace(broken)}, body: 300000, fails: "the disk is gone", readers: []*reader{broken}},
		{verdict: sdk.Verdict{Changes: replace(panics)}, fails: "panic", readers: []*reader{panics}},
		{verdict: sdk.Verdict{Changes: replace(unwanted)}, err: errors.New("after all"), fails: "after all", readers: []*reader{unwanted}},
	} {
		p := &plugin{special: func(context.Context, *sdk.Message) (sdk.Verdict, error) { return c.verdict, c.err }}
		l := start(t, p, 1).lane()
		l.special(&wire.Ask{Id: 9, Phase: 4})
		for range 20 { // while the host is sending yet
			l.chunk(9, wire.MaxChunk)
		}
		body, _, a := l.bodyAndAnswer(9)
		l.end(9)
		if len(body) != c.body || !strings.Contains(a.GetError().GetText(), c.fails) || (c.fails == "") != (a.GetVerdict() != nil) {
			t.Errorf("%d: %d octets, %v; expected %d, %q", id, len(body), a, c.body, c.fails)
		}
		if n := len(a.GetVerdict().GetChanges()); c.fails == "" && n != len(c.verdict.Changes) {
			t.Errorf("%d: %d changes", id, n)
		}
		for _, r := range c.readers {
			if r.closed != 1 {
				t.Errorf("%d: closed %d times", id, r.closed)
			}
		}
	}
}

// TestBodyCancelled: a body without end stops at Cancel, and the answer is an error.
func TestBodyCancelled(t *testing.T) {
	reading := make(chan struct{}, 1)
	endless := &reader{left: 1 << 60, each: func() {
		select {
		case reading <- struct{}{}:
		default:
		}
	}}
	p := &plugin{special: func(context.Context, *sdk.Message) (sdk.Verdict, error) {
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.ReplaceBody, Body: endless}}}, nil
	}}
	l := start(t, p, 1).lane()
	l.special(&wire.Ask{Id: 1, Phase: 4})
	l.end(1)
	<-reading
	l.cancel(1)
	begin := time.Now()
	_, _, a := l.bodyAndAnswer(1)
	if a.GetError() == nil || time.Since(begin) > time.Second || endless.closed != 1 {
		t.Errorf("%v after %s", a, time.Since(begin))
	}
	l.ask(2, "early")
	l.answer(2)
}

// TestSettings: what Configure is told beside the table.
func TestSettings(t *testing.T) {
	p := &plugin{}
	c := start(t, p, 0)
	if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: 7, StateDir: "/state", Dir: "/dir"}); err != nil {
		t.Fatal(err)
	}
	if s := p.settings; s.Lanes != 7 || s.StateDir != "/state" || s.Dir != "/dir" {
		t.Errorf("%+v", s)
	}
	t.Cleanup(func() { // before start's
		if p.closed.Load() != 0 {
			t.Error("closed too early")
		}
	})
}

// TestClose: Close comes once, when no Ask runs any more, and only after Configure.
func TestClose(t *testing.T) {
	p := &plugin{}
	t.Run("", func(t *testing.T) {
		l := start(t, p, 1).lane()
		l.ask(1, "slow")
		for p.running.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
	})
	if n := p.closed.Load(); n != 1 {
		t.Errorf("closed %d times", n)
	}
	p = &plugin{}
	t.Run("", func(t *testing.T) { start(t, p, 0) })
	if n := p.closed.Load(); n != 0 {
		t.Errorf("closed %d times without Configure", n)
	}
	// A question that does not end, and a Close that does not.
	p = &plugin{ended: make(chan error), release: make(chan struct{})}
	s := newServer(p, func() {})
	s.ready, s.running, s.patience = true, 1, 50*time.Millisecond
	if err := s.end(); err == nil || p.closed.Load() != 0 {
		t.Errorf("%v, closed %d times", err, p.closed.Load())
	}
	hangs := newServer(hanging{p, t.Context()}, func() {})
	hangs.ready, hangs.patience = true, 50*time.Millisecond
	if err := hangs.end(); err == nil || !strings.Contains(err.Error(), "not done") {
		t.Errorf("%v", err)
	}
}

type hanging struct {
	sdk.Plugin
	ctx context.Context
}

func (h hanging) Close() error {
	<-h.ctx.Done()
	return nil
}
