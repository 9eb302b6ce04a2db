package pluginhost

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// TestLinkIsOver: a question that is put on a link whose reader has gone is not sent, and goes by the lane's stream.
func TestLinkIsOver(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Lanes = 1 })
	h.ready(t)
	proc := h.proc(t)
	stale := proc.link()
	proc.cut(t)
	eventually(t, "it is over", time.Second, stale.over.Load)
	l := proc.free.try()
	s := &small{lane: l, link: stale, ctx: t.Context(), content: &content{}}
	ask, err := newAsk(t.Context(), message("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if sent, err := s.send(ask); sent || !errors.Is(err, errOver) {
		t.Errorf("sent %v, %v", sent, err)
	}
	proc.free.put(l)
	if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
		t.Errorf("%+v %q", v, kind)
	}
}

// TestExpiredBeforeSent: the deadline of a question strikes while its content is read: the plugin never sees it, and its slot is not
// lost until the plugin answers.
func TestExpiredBeforeSent(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Lanes, c.Timeout = 1, units.Of(100*time.Millisecond) })
	h.ready(t)
	proc := h.proc(t)
	q := message("hello")
	q.Open = func() (io.Reader, error) { return slowReader{}, nil }
	if _, kind := h.ask(t, q); kind != Timeout {
		t.Errorf("%q", kind)
	}
	eventually(t, "the lane comes back", 3*time.Second, func() bool { return proc.free.taken() == 0 && proc.lost.Load() == 0 })
	if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
		t.Errorf("%+v %q", v, kind)
	}
}

// slowReader is a disk that is asleep.
type slowReader struct{}

func (slowReader) Read(p []byte) (int, error) {
	time.Sleep(1300 * time.Millisecond)
	return 1, nil
}
