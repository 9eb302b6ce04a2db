package pipeline

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// changer is an Asker that may do everything, and sends a body in small pieces.
type changer struct {
	plugin
	body  string
	piece int                        // octets at a time; 0 is all at once
	per   func(to string) (n string) // a body for each question, by its first recipient; nil: body

	mu  sync.Mutex
	saw []string // octets, and for whom
}

func all() []sdk.ChangeKind {
	return []sdk.ChangeKind{
		sdk.AddField, sdk.ReplaceField, sdk.RemoveField, sdk.ReplaceBody, sdk.AddRecipient, sdk.RemoveRecipient, sdk.ChangeSender,
	}
}

func (c *changer) Ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := q.Message.Open(q.Version)
	if err != nil {
		return sdk.Verdict{}, err
	}
	octets, err := io.ReadAll(r.Section(0, r.Size()))
	if err != nil {
		return sdk.Verdict{}, err
	}
	saw := "<" + q.Envelope().Sender + ">"
	for _, to := range q.Envelope().Recipients {
		saw += " " + to.Address
	}
	c.saw = append(c.saw, saw+"\n"+string(octets))
	body := c.body
	if c.per != nil {
		body = c.per(q.Envelope().Recipients[0].Address)
	}
	if wants(c.verdict) {
		w, err := q.NewBody()
		if err != nil {
			return sdk.Verdict{}, err
		}
		piece := c.piece
		if piece == 0 {
			piece = max(len(body), 1)
		}
		for p := range slices.Chunk([]byte(body), piece) {
			if _, err := w.Write(p); err != nil {
				return sdk.Verdict{}, &Failure{FailInvalid, err}
			}
		}
	}
	return c.plugin.Ask(ctx, q)
}

func wants(v sdk.Verdict) bool {
	body := func(c sdk.Change) bool { return c.Kind == sdk.ReplaceBody }
	found := slices.ContainsFunc(v.Changes, body)
	for _, r := range v.Recipients {
		found = found || slices.ContainsFunc(r.Changes, body)
	}
	return found
}

// staged is a stage that asks plugins and obeys them, as anti-spam does.
func staged(name string, askers ...Asker) Stage {
	p := &Panel{Stage: name, Askers: askers, Default: sdk.Defer}
	return stageFunc(func(ctx context.Context, m *Message) error {
		answers := p.Ask(ctx, m)
		p.Settle(m, answers)
		for i := range answers {
			a := &answers[i]
			for _, at := range a.Recipients {
				r := m.Recipients[at]
				if a.Failure != nil {
					r.Take(p.Policy(a))
					continue
				}
				r.Take(p.Opinion(a, a.For(r.Address)))
			}
		}
		return nil
	})
}

func read(t *testing.T, m *Message, v *Version) string {
	t.Helper()
	r, err := m.Open(v)
	if err != nil {
		t.Fatal(err)
	}
	octets, err := io.ReadAll(r.Section(0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(octets)
}

// peek keeps what the recipients would have, at the end of the stages.
func peek(t *testing.T, into map[string]string) Stage {
	return stageFunc(func(_ context.Context, m *Message) error {
		for _, r := range m.Recipients {
			into[r.Address] = read(t, m, r.Version)
		}
		return nil
	})
}

func events(m *Message) (list []string) {
	for _, e := range m.Trace.Events() {
		if e.Plugin != "" {
			list = append(list, strings.TrimRight(fmt.Sprintf("%s %s %s %s %s", e.Plugin, e.Recipient, e.Action, strings.Join(e.Changes, " | "), e.Text), " "))
		}
	}
	return list
}

const header = "Subject: x\r\n\r\n"

// TestNewBody holds what a plugin may send as a new body, and what becomes of it.
func TestNewBody(t *testing.T) {
	replace := []sdk.Change{{Kind: sdk.ReplaceBody}}
	for _, c := range []struct {
		name, body, want string
		failure          string // "": none
	}{
		{"as it is", "new\r\nbody\r\n", "new\r\nbody\r\n", ""},
		{"line ends", "\na\nb\r\n\n\r\nc", "\r\na\r\nb\r\n\r\n\r\nc", ""},
		{"empty", "", "", ""},
		{"dots and NUL", ".\r\n..\r\n\x00\xff\r\n.\r\n", ".\r\n..\r\n\x00\xff\r\n.\r\n", ""},
		{"a bare CR", "a\rb\n", "", "bare CR"},
		{"CR CR LF", "a\r\r\n", "", "bare CR"},
		{"a CR at the end", "a\r", "", "bare CR"},
		{"too large", strings.Repeat("x", 1000+ownFields+1), "", "larger"},
		{"too large with its line ends", strings.Repeat("\n", 600+ownFields/2), "", "larger"},
	} {
		for _, piece := range []int{0, 1, 3} {
			if len(c.body) > 1000 && piece == 1 {
				continue
			}
			got := make(map[string]string)
			p := &changer{plugin: plugin{name: "p", changes: all(), verdict: sdk.Verdict{Changes: replace}}, body: c.body, piece: piece}
			b := newBench(t, staged(StageAntiVirus, p), peek(t, got))
			m := b.message(t, sdk.Stranger, "a@example.test")
			result := b.Submit(t.Context(), m)
			switch {
			case c.failure == "" && (!result.Committed || got["a@example.test"] != header+c.want):
				t.Errorf("%s, by %d: %v, %q", c.name, piece, result.Reply, got["a@example.test"])
			case c.failure != "" && (result.Reply.Code != 451 || !strings.Contains(strings.Join(events(m), "\n"), c.failure)):
				t.Errorf("%s, by %d: %v, %q", c.name, piece, result.Reply, events(m))
			}
		}
	}
}

// TestBodiesPerRecipient: some get the new body and others what arrived, later stages ask
// about both, and a second stage may replace it again.
func TestBodiesPerRecipient(t *testing.T) {
	replace := []sdk.Change{{Kind: sdk.ReplaceBody}, {Kind: sdk.AddField, Name: "X-New", Value: "1"}}
	first := &changer{plugin: plugin{name: "first", changes: all(), verdict: sdk.Verdict{
		Recipients: []sdk.RecipientVerdict{{Recipient: "a@example.test", Changes: replace}, {Recipient: "c@example.test", Changes: replace}},
	}}, body: "new\r\n"}
	watcher := &changer{plugin: plugin{name: "watcher"}}
	second := &changer{plugin: plugin{name: "second", changes: all(), verdict: sdk.Verdict{Changes: replace[:1]}}, per: func(to string) string { return "for " + to }}
	got := make(map[string]string)
	b := newBench(t, staged(StageAntiSpam, first), staged(StageAntiVirus, watcher), peek(t, got), staged(StageAntiVirus, second))
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test", "c@example.test")
	arrived := read(t, m, m.Arrived())
	if result := b.Submit(t.Context(), m); !result.Committed {
		t.Fatal(result.Reply)
	}
	want := "X-New: 1\r\n" + header + "new\r\n"
	if got["a@example.test"] != want || got["c@example.test"] != want || got["b@example.test"] != arrived {
		t.Errorf("%q", got)
	}
	slices.Sort(watcher.saw)
	if !slices.Equal(watcher.saw, []string{"<a@example.net> a@example.test c@example.test\n" + want, "<a@example.net> b@example.test\n" + arrived}) {
		t.Errorf("%q", watcher.saw)
	}
	if versions, of := m.Versions(); len(versions) != 2 || !slices.Equal(of, []int{0, 1, 0}) {
		t.Errorf("%d versions, %v", len(versions), of)
	}
	if len(m.bodies) != 3 {
		t.Errorf("%d bodies", len(m.bodies))
	}
}

// TestSecondBody (DRILLS E6.5): one plugin a stage replaces the body; what the other wanted beside that is done.
func TestSecondBody(t *testing.T) {
	verdict := func(field string) sdk.Verdict {
		return sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: field, Value: "1"}, {Kind: sdk.ReplaceBody}}}
	}
	seen := &counting{}
	first := &changer{plugin: plugin{name: "first", changes: all(), verdict: verdict("X-First")}, body: "first\r\n"}
	second := &changer{plugin: plugin{name: "second", changes: all(), verdict: verdict("X-Second")}, body: "second\r\n"}
	got := make(map[string]string)
	b := newBench(t, staged(StageAntiVirus, first, second), peek(t, got))
	b.Observer = seen
	m := b.message(t, sdk.Stranger, "a@example.test")
	if result := b.Submit(t.Context(), m); !result.Committed {
		t.Fatal(result.Reply)
	}
	if want := "X-Second: 1\r\nX-First: 1\r\n" + header + "first\r\n"; got["a@example.test"] != want {
		t.Errorf("%q", got)
	}
	if seen.refused != 1 || !slices.Contains(events(m), "second  accept add field X-Second | refused: replace body: plugin first has replaced it") {
		t.Errorf("%d refused, %q", seen.refused, events(m))
	}
}

// TestFieldsOfARefusedBody: what says how a body is to be read is not put over another body.
func TestFieldsOfARefusedBody(t *testing.T) {
	encoded := []sdk.Change{
		{Kind: sdk.ReplaceField, Name: "content-transfer-encoding", Value: "base64", Index: 1}, {Kind: sdk.AddField, Name: "Content-Type", Value: "text/html"},
		{Kind: sdk.ReplaceBody}, {Kind: sdk.RemoveField, Name: "Content-Language"}, {Kind: sdk.AddField, Name: "X-Second", Value: "1"},
	}
	const refused = " | refused: replace field content-transfer-encoding: the body that it describes is refused" +
		" | refused: add field Content-Type: the body that it describes is refused | refused: replace body%s" +
		" | refused: remove field Content-Language: the body that it describes is refused | add field X-Second"
	replace := sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.ReplaceBody}, {Kind: sdk.AddField, Name: "Content-Type", Value: "text/plain"}}}
	for _, c := range []struct {
		name    string
		verdict sdk.Verdict // of the second one
		changes []sdk.ChangeKind
		why     string
		want    string
	}{
		{"taken", sdk.Verdict{Changes: encoded}, all(), ": plugin first has replaced it", "X-Second: 1\r\nContent-Type: text/plain\r\n" + header + "first\r\n"},
		{"not announced", sdk.Verdict{Changes: encoded}, []sdk.ChangeKind{sdk.AddField, sdk.ReplaceField, sdk.RemoveField}, "", "X-Second: 1\r\nContent-Type: text/plain\r\n" + header + "first\r\n"},
		{"for one", sdk.Verdict{Changes: encoded[2:3], Recipients: []sdk.RecipientVerdict{{Recipient: "a@example.test", Changes: encoded[1:2]}}}, all(), "",
			"Content-Type: text/plain\r\n" + header + "first\r\n"},
	} {
		got := make(map[string]string)
		first := &changer{plugin: plugin{name: "first", changes: all(), verdict: replace}, body: "first\r\n"}
		second := &changer{plugin: plugin{name: "second", changes: c.changes, verdict: c.verdict}, body: "c2Vjb25k\r\n"}
		b := newBench(t, staged(StageAntiVirus, first, second), peek(t, got))
		m := b.message(t, sdk.Stranger, "a@example.test")
		if result := b.Submit(t.Context(), m); !result.Committed || got["a@example.test"] != c.want {
			t.Errorf("%s: %v, %q", c.name, result.Reply, got)
		}
		if want := "second  accept" + strings.TrimPrefix(fmt.Sprintf(refused, c.why), " |"); c.name != "for one" && !slices.Contains(events(m), want) {
			t.Errorf("%s: %q, expected %q", c.name, events(m), want)
		}
	}
}

// counting adds up what it is told.
type counting struct{ refused int }

func (c *counting) Stage(*StageReport)     {}
func (c *counting) Plugin(r *PluginReport) { c.refused += r.Refused }

// TestChangesAreAnnounced: what the manifest does not announce, or is the core's, is refused,
// recorded and counted, and the rest of the verdict counts.
func TestChangesAreAnnounced(t *testing.T) {
	one := func(c sdk.Change) sdk.Verdict { return sdk.Verdict{Changes: []sdk.Change{c}} }
	for _, c := range []struct {
		name    string
		may     []sdk.ChangeKind
		verdict sdk.Verdict
		want    string
	}{
		{"a field", nil, one(sdk.Change{Kind: sdk.AddField, Name: "X-A"}), "refused: add field X-A"},
		{"a body", []sdk.ChangeKind{sdk.AddField}, one(sdk.Change{Kind: sdk.ReplaceBody}), "refused: replace body"},
		{"a recipient", []sdk.ChangeKind{sdk.RemoveRecipient}, one(sdk.Change{Kind: sdk.AddRecipient, Address: "b@example.test"}), "refused: add recipient b@example.test"},
		{"a recipient less", []sdk.ChangeKind{sdk.AddRecipient}, one(sdk.Change{Kind: sdk.RemoveRecipient, Address: "a@example.test"}), "refused: remove recipient a@example.test"},
		{"a sender", []sdk.ChangeKind{sdk.AddRecipient}, one(sdk.Change{Kind: sdk.ChangeSender}), "refused: change sender <>"},
		{"our own field", all(), one(sdk.Change{Kind: sdk.RemoveField, Name: "x-sluice-score"}), "refused: remove field x-sluice-score"},
		{"results", all(), one(sdk.Change{Kind: sdk.AddField, Name: "Authentication-Results"}), "refused: add field Authentication-Results"},
		{"no field name", all(), one(sdk.Change{Kind: sdk.AddField, Name: "X A"}), "refused: add field X A"},
		{"a second line", all(), one(sdk.Change{Kind: sdk.AddField, Name: "X-A", Value: "a\r\nBcc: b"}), "refused: add field X-A"},
		{"a line that cannot be folded", all(), one(sdk.Change{Kind: sdk.AddField, Name: "X-A", Value: strings.Repeat("x", 800)}), "refused: add field X-A"},
		{"no address", all(), one(sdk.Change{Kind: sdk.AddRecipient, Address: "b"}), "refused: add recipient b: this is no address"},
		{"no sender's address", all(), one(sdk.Change{Kind: sdk.ChangeSender, Address: "a@b c"}), "refused: change sender <a@b c>: this is no address"},
		{"not there", all(), one(sdk.Change{Kind: sdk.RemoveRecipient, Address: "z@example.test"}), "refused: remove recipient z@example.test: this is no recipient"},
		{"a sender for one", all(), sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "a@example.test", Changes: []sdk.Change{{Kind: sdk.ChangeSender, Address: "b@example.net"}}}}}, "refused: change sender <b@example.net>: not for one recipient alone"},
		{"of an unknown kind", append(all(), 99), one(sdk.Change{Kind: 99}), "refused: change(99)"},
	} {
		seen, got := &counting{}, make(map[string]string)
		b := newBench(t, staged(StageAntiSpam, &changer{plugin: plugin{name: "p", changes: c.may, verdict: c.verdict}, body: "x"}), peek(t, got))
		b.Observer = seen
		m := b.message(t, sdk.Stranger, "a@example.test")
		arrived := read(t, m, m.Arrived())
		result := b.Submit(t.Context(), m)
		if !result.Committed || got["a@example.test"] != arrived || len(m.Recipients) != 1 || m.Sender != "a@example.net" {
			t.Errorf("%s: %v, %d recipients, sender %s, %.80q", c.name, result.Reply, len(m.Recipients), m.Sender, got["a@example.test"])
		}
		if want := "p  accept " + c.want; seen.refused != 1 || !slices.Contains(events(m), want) {
			t.Errorf("%s: %d refused, %q, want %q", c.name, seen.refused, events(m), want)
		}
	}
}

// TestTooManyVersions: more than 16 versions of a message are a failure of the plugin.
func TestTooManyVersions(t *testing.T) {
	var v sdk.Verdict
	var to []string
	for i := range MaxVersions + 1 {
		to = append(to, fmt.Sprintf("r%d@example.test", i))
		v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: to[i], Changes: []sdk.Change{
			{Kind: sdk.ReplaceBody}, {Kind: sdk.AddField, Name: "X-To", Value: to[i]}, {Kind: sdk.RemoveRecipient, Address: to[0]},
		}})
	}
	b := newBench(t, staged(StageAntiSpam, &changer{plugin: plugin{name: "p", changes: all(), verdict: v}, body: "x"}))
	m := b.message(t, sdk.Stranger, to...)
	if result := b.Submit(t.Context(), m); result.Reply.Code != 451 || m.Recipients[0].Removed != "" || m.Recipients[0].Version != m.Arrived() {
		t.Errorf("%v %q", result.Reply, events(m))
	}
	m = b.message(t, sdk.Stranger, to[:MaxVersions]...)
	if result := b.Submit(t.Context(), m); result.Reply.Code != 451 { // a verdict for who is no recipient is the host's to refuse
		t.Log(result.Reply)
	}
}

// TestSizeAfterNewBody (DRILLS E6.5): a body that makes the message too large for its limit is refused.
func TestSizeAfterNewBody(t *testing.T) {
	p := &changer{plugin: plugin{name: "p", changes: all(), verdict: sdk.Verdict{Changes: []sdk.Change{
		{Kind: sdk.ReplaceBody}, {Kind: sdk.AddField, Name: "X-A", Value: strings.Repeat("word ", 100)},
	}}}, body: strings.Repeat("x", 1000+ownFields)}
	b := newBench(t, staged(StageAntiSpam, p))
	if result := b.Submit(t.Context(), b.message(t, sdk.Stranger, "a@example.test")); result.Reply.Code != 552 {
		t.Error(result.Reply)
	}
}

// TestLinesOfAValue: whatever a plugin may write stands in lines of at most 998 octets (RFC 5322 section 2.1.1), and what no fold
// could bring there is refused.
func TestLinesOfAValue(t *testing.T) {
	name := strings.Repeat("N", 200)
	word, spaces := strings.Repeat("w", 700), strings.Repeat(" ", 700)
	for value, want := range map[string]bool{
		"": true, "a b": true, word: true, word + " " + word: true, word + "w": false, word + " ": false,
		"a" + spaces + "b": true, "a" + spaces + " b": false, spaces[1:]: true, spaces: false, spaces[1:] + word: true,
		strings.Repeat("w ", 30000): true, strings.Repeat("w"+spaces[:600], 90): true, "a" + strings.Repeat(" ", 2000) + "b": false,
	} {
		if validValue(value) != want {
			t.Errorf("%.80q of %d octets: %v", value, len(value), !want)
		}
		if !want {
			continue
		}
		for line := range strings.SplitSeq(string(FormatField(name, value)), "\r\n") {
			if len(line) > 998 {
				t.Errorf("%.80q: a line of %d octets", value, len(line))
			}
		}
	}
}
