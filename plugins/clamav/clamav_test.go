package clamav

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/sdktest"
)

// fake is a clamd that reads a stream and answers what it is told to.
type fake struct {
	address string
	answer  string        // with its NUL
	early   int           // answers and closes after so many pieces; 0: at the end
	wait    time.Duration // before the answer

	mu      sync.Mutex
	streams [][]byte
}

func startFake(t *testing.T, f *fake) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f.address = "tcp:" + l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	command := make([]byte, 0, 16)
	for !bytes.HasSuffix(command, []byte{0}) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		command = append(command, b...)
	}
	if string(command) == "zVERSION\x00" {
		_, _ = io.WriteString(c, "ClamAV 1.4.6/27800/Fri Nov 20 09:30:00 2026\x00")
		return
	}
	var all []byte
	for piece := 1; ; piece++ {
		var size uint32
		if binary.Read(c, binary.BigEndian, &size) != nil {
			return
		}
		if size == 0 {
			break
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		all = append(all, b...)
		if piece == f.early {
			break
		}
	}
	f.mu.Lock()
	f.streams = append(f.streams, all)
	f.mu.Unlock()
	time.Sleep(f.wait)
	_, _ = io.WriteString(c, f.answer)
}

func start(t *testing.T, f *fake, config map[string]any) *plugin {
	t.Helper()
	p := New().(*plugin)
	p.now = func() time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC) }
	if config == nil {
		config = map[string]any{}
	}
	config["address"] = f.address
	if err := p.Configure(context.Background(), sdk.Settings{Config: config}); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer     string
		action     sdk.Action
		detections string
		failure    string
	}{
		"clean":          {"stream: OK\x00", sdk.Accept, "", ""},
		"a virus":        {"stream: Win.Test.EICAR_HDB-1 FOUND\x00", sdk.Reject, "Win.Test.EICAR_HDB-1", ""},
		"unwanted":       {"stream: PUA.Win.Packer FOUND\x00", sdk.Quarantine, "", ""},
		"heuristic":      {"stream: Heuristics.Phishing.Email FOUND\x00", sdk.Reject, "Heuristics.Phishing.Email", ""},
		"over limits":    {"stream: Heuristics.Limits.Exceeded.MaxFiles FOUND\x00", sdk.Quarantine, "", ""},
		"hostile name":   {"stream: a\r\nX-Evil: b FOUND\x00", sdk.Reject, "a  X-Evil: b", ""},
		"no name":        {"stream:  FOUND\x00", sdk.Accept, "", "is none"},
		"an error":       {"stream: Can't allocate memory ERROR\x00", sdk.Accept, "", "Can't allocate memory"},
		"too large":      {"INSTREAM size limit exceeded. ERROR\x00", sdk.Accept, "", "StreamMaxLength"},
		"nothing":        {"", sdk.Accept, "", "EOF"},
		"half a line":    {"stream: O", sdk.Accept, "", "EOF"},
		"another thing":  {"HTTP/1.1 400 Bad Request\r\n\x00", sdk.Accept, "", "is none"},
		"an OK inside":   {"stream: not OK\x00", sdk.Accept, "", "is none"},
		"without an end": {strings.Repeat("x", 10000), sdk.Accept, "", "longer than"},
	} {
		p := start(t, startFake(t, &fake{answer: c.answer}), nil)
		v, err := p.Ask(context.Background(), sdktest.Mail("Subject: x\n\nhello\n"))
		if c.failure != "" {
			if err == nil || !strings.Contains(err.Error(), c.failure) {
				t.Errorf("%s: %+v %v, want %q", name, v, err, c.failure)
			}
			continue
		}
		if err != nil || v.Action != c.action || strings.Join(v.Detections, " ") != c.detections {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		if (v.Action == sdk.Reject) != (v.Reply != nil && v.Reply.Code == 550) {
			t.Errorf("%s: reply %+v", name, v.Reply)
		}
	}
}

// TestSizes: what clamd gets of a message, exactly.
func TestSizes(t *testing.T) {
	octets := bytes.Repeat([]byte("0123456789\x00\xff\r\n"), 20000) // 280,000
	for name, c := range map[string]struct {
		config map[string]any
		sent   int // -1: nothing
		symbol string
		fails  bool
	}{
		"whole":            {map[string]any{}, len(octets), "", false},
		"exactly the most": {map[string]any{"max_size": int64(len(octets))}, len(octets), "", false},
		"the first":        {map[string]any{"max_size": "100KB"}, 100 << 10, "CLAMAV_PARTIAL", false},
		"skipped":          {map[string]any{"max_size": "100KB", "larger": "skip"}, -1, "CLAMAV_SKIPPED_SIZE", false},
		"failed":           {map[string]any{"max_size": "100KB", "larger": "fail"}, -1, "", true},
	} {
		f := startFake(t, &fake{answer: "stream: OK\x00"})
		m := sdktest.Mail("")
		m.Size, m.Content = int64(len(octets)), iotest.HalfReader(bytes.NewReader(octets))
		v, err := start(t, f, c.config).Ask(context.Background(), m)
		if (err != nil) != c.fails {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		if got := len(v.Reasons) > 0 && v.Reasons[0].Symbol == c.symbol; got != (c.symbol != "") {
			t.Errorf("%s: %+v", name, v.Reasons)
		}
		if c.sent < 0 && len(f.streams) > 0 || c.sent >= 0 && (len(f.streams) != 1 || !bytes.Equal(f.streams[0], octets[:c.sent])) {
			t.Errorf("%s: %d streams", name, len(f.streams))
		}
	}
}

// TestEarly: clamd answers and closes while it is still being sent to.
func TestEarly(t *testing.T) {
	for answer, want := range map[string]string{
		"INSTREAM size limit exceeded. ERROR\x00": "StreamMaxLength", "": "clamd",
	} {
		f := startFake(t, &fake{answer: answer, early: 1})
		m := sdktest.Mail("")
		m.Size, m.Content = 20<<20, io.LimitReader(zeros{}, 20<<20)
		v, err := start(t, f, nil).Ask(context.Background(), m)
		if err == nil || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q: %+v %v, want %q", answer, v, err, want)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestHalfAMessage: no verdict comes of a message that could not be read to its end.
func TestHalfAMessage(t *testing.T) {
	f := startFake(t, &fake{answer: "stream: OK\x00"})
	m := sdktest.Mail("")
	lost := errors.New("lost")
	m.Size, m.Content = 1000, io.MultiReader(strings.NewReader("Subject: x\r\n"), iotest.ErrReader(lost))
	if v, err := start(t, f, nil).Ask(context.Background(), m); !errors.Is(err, lost) {
		t.Errorf("%+v %v", v, err)
	}
}

func TestSlowAndDown(t *testing.T) {
	p := start(t, startFake(t, &fake{answer: "stream: OK\x00", wait: 5 * time.Second}), nil)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if v, err := p.Ask(ctx, sdktest.Mail("x")); err == nil || time.Since(begin) > 3*time.Second {
		t.Errorf("%+v %v after %s", v, err, time.Since(begin))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p = start(t, &fake{address: "tcp:" + l.Addr().String()}, nil)
	if v, err := p.Ask(context.Background(), sdktest.Mail("x")); err == nil {
		t.Errorf("%+v from nobody", v)
	}
}

func TestOldDatabase(t *testing.T) {
	f := startFake(t, &fake{answer: "stream: OK\x00"})
	p := start(t, f, nil)
	ask := func() int {
		v, err := p.Ask(context.Background(), sdktest.Mail("x"))
		if err != nil {
			t.Fatal(err)
		}
		return len(v.Alerts)
	}
	if n := ask(); n != 0 {
		t.Errorf("%d alerts about a database of yesterday", n)
	}
	p.now = func() time.Time { return time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC) }
	if n := ask(); n != 1 {
		t.Errorf("%d alerts about a database of nine days ago", n)
	}
	if v, err := p.Ask(context.Background(), sdktest.Command("version")); err != nil || !strings.HasPrefix(v.Reasons[0].Text, "ClamAV 1.4.6/27800") {
		t.Errorf("%+v %v", v, err)
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, value := range map[string]any{
		"address": "localhost:3310", "connections": int64(0), "max_size": int64(1), "larger": "half", "actions": map[string]any{"": "reject"}, "database_age": "-1h", "adress": "x",
	} {
		err := New().Configure(context.Background(), sdk.Settings{Config: map[string]any{key: value}})
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("stream: OK")
	f.Add("stream: X FOUND")
	f.Add("stream: \x00\n ERROR")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := parseAnswer(line)
		if err != nil && a.virus != "" || len(a.virus) > 200 || strings.ContainsAny(a.virus, "\r\n\x00") {
			t.Errorf("%q: %+v %v", line, a, err)
		}
		if err == nil && a.virus == "" && strings.TrimSpace(line) != "stream: OK" {
			t.Errorf("%q counts as clean", line)
		}
		_, _ = databaseTime(line)
	})
}
