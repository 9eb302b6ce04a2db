package interop

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// scribeProgram is built without the race detector, like mischiefProgram.
var scribeProgram = sync.OnceValues(func() (string, error) {
	return build("scribe", "github.com/sluicemail/sluice/cmd/internal/interop/testdata/scribe")
})

const scribeConfig = `
[plugin.scribe]
command = [%q]

[pipeline.inbound.anti-spam]
plugins = ["scribe"]

[listener.admin]
protocol = "admin"
address = "127.0.0.1:0"
`

// newScribeSite makes a site whose plugin writes down its events.
func newScribeSite(t *testing.T) *site {
	t.Helper()
	program, err := scribeProgram()
	if err != nil {
		t.Fatal(err)
	}
	return newSite(t, fmt.Sprintf(scribeConfig, program))
}

func (s *site) scribeFile(name string) string {
	return filepath.Join(s.dir, "data", "plugin", "scribe", name)
}

// events returns what the plugin has written down.
func (s *site) events() []string {
	text, err := os.ReadFile(s.scribeFile("events"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// waitEvent waits until a line matches.
func (s *site) waitEvent(pattern string) {
	s.t.Helper()
	re := regexp.MustCompile("^" + pattern)
	found := func() bool {
		for _, line := range s.events() {
			if re.MatchString(line) {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(10 * time.Second); !found(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("no event %s among\n%s", pattern, strings.Join(s.events(), "\n"))
		}
	}
}

func (s *site) countEvents(prefix string) (n int) {
	for _, line := range s.events() {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// scribeMail sends a message to alice that the plugin shall treat so, and returns the reply.
func (s *site) scribeMail(id, word string) (string, error) {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	var fields []string
	if word != "" {
		fields = append(fields, "X-Scribe: "+word)
	}
	return c.send(stranger, []string{alice}, letter(id, "scribe", 1500, fields...))
}

// moveMail moves alice's message with that Message-ID from one mailbox to another.
func (s *site) moveMail(id, from, to string) error {
	s.t.Helper()
	all, _, err := s.list(alice, from)
	if err != nil {
		return err
	}
	c, err := s.imapLogin(alice)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Select(from, nil).Wait(); err != nil {
		return err
	}
	for _, m := range all {
		if m.id == id {
			_, err := c.Move(imap.UIDSetNum(m.uid), to).Wait()
			return err
		}
	}
	return fmt.Errorf("%s has no <%s>", from, id)
}

func (s *site) fetchAdmin(path string) (int, string) {
	s.t.Helper()
	resp, err := http.Get("http://" + s.addr("admin") + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestEvents: what becomes of messages, and what their reader teaches, reaches a plugin; an administrator talks to it, and
// reads the numbers.
func TestEvents(t *testing.T) {
	s := newScribeSite(t)
	s.start()
	for word, code := range map[string]int{"": 0, "junk": 0, "quarantine": 0, "discard": 0, "reject": 550, "defer": 451, "alert": 0} {
		id := "scribe." + word + "@example.org"
		if _, err := s.scribeMail(id, word); replyCode(err) != code || code == 0 && err != nil {
			t.Fatalf("%q: %v", word, err)
		}
	}
	s.waitEvent(`quarantined [0-9A-Z]{16} ` + alice)
	s.waitEvent(`discarded [0-9A-Z]{16} ` + alice)
	s.waitEvent(`refused [0-9A-Z]{16}  550`)
	s.waitEvent(`refused [0-9A-Z]{16}  451`)
	s.waitEvent(`delivered [0-9A-Z]{16} ` + alice + ` .*INBOX, UID`)
	s.waitEvent(`delivered [0-9A-Z]{16} ` + alice + ` .*Junk, UID`)
	id := regexp.MustCompile(`quarantined ([0-9A-Z]{16})`).FindStringSubmatch(strings.Join(s.events(), "\n"))[1]
	s.sluice("", "quarantine", "release", id)
	s.waitEvent("released " + id)
	s.waitEvent("delivered " + id)

	if s.countEvents("learn") > 0 { // the server's own delivery into Junk teaches nothing
		t.Errorf("the server teaches:\n%s", strings.Join(s.events(), "\n"))
	}
	for _, move := range [][3]string{{"scribe.@example.org", "INBOX", "Junk"}, {"scribe.junk@example.org", "Junk", "INBOX"}} {
		if err := s.moveMail(move[0], move[1], move[2]); err != nil {
			t.Fatal(err)
		}
	}
	s.waitEvent("learn-spam scribe.@example.org " + alice)
	s.waitEvent("learn-ham scribe.junk@example.org " + alice)

	s.teachByFlags()

	// The alert of a plugin: a message to postmaster, who is alice, without a sender and without having met a plugin.
	var text string
	eventually(t, 10*time.Second, "the letter to postmaster", func() bool {
		text = s.letterToPostmaster("account " + alice)
		return text != ""
	})
	for _, want := range []string{"Return-Path: <>", "Auto-Submitted: auto-generated", "hijacked: \u00e4\u00f6\u00fc"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "X-Sluice") {
		t.Errorf("a filter saw it:\n%s", text)
	}
	s.tellScribe()
	s.readMetrics()
	s.stop()
}

// teachByFlags teaches by the other ways: keywords, COPY and APPEND.
func (s *site) teachByFlags() {
	t := s.t
	t.Helper()
	c, err := s.wireLogin(alice)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	all, _, err := s.list(alice, "Junk")
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	before := s.countEvents("learn")
	text := "Message-ID: <appended@example.org>\r\n\r\nspam\r\n"
	for _, step := range []struct{ command, event string }{
		{"SELECT Junk", ""},
		{fmt.Sprintf("UID STORE %d +FLAGS ($NotJunk)", all[0].uid), "learn-ham scribe.@example.org"},
		{fmt.Sprintf("UID STORE %d FLAGS ($Junk)", all[0].uid), "learn-spam scribe.@example.org"},
		{fmt.Sprintf("UID COPY %d INBOX", all[0].uid), "learn-ham scribe.@example.org"},
		{fmt.Sprintf("UID COPY %d Trash", all[0].uid), ""},
		{fmt.Sprintf("APPEND Junk {%d+}\r\n%s", len(text), text), "learn-spam appended@example.org"},
	} {
		if _, err := c.do("%s", step.command); err != nil {
			t.Fatal(err)
		}
		if step.event != "" {
			before++
			s.waitEvent(step.event)
		}
		eventually(t, 5*time.Second, step.command, func() bool { return s.countEvents("learn") == before })
	}
}

// letterToPostmaster returns alice's message whose subject has that key, or "".
func (s *site) letterToPostmaster(key string) string {
	s.t.Helper()
	c, err := s.imapLogin(alice)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		s.t.Fatal(err)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "Alert of"}}, Text: []string{key}}, nil).Wait()
	if err != nil || len(found.AllUIDs()) == 0 {
		return ""
	}
	section := &imap.FetchItemBodySection{Peek: true}
	all, err := c.Fetch(imap.UIDSetNum(found.AllUIDs()...), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil || len(all) != 1 {
		s.t.Fatalf("%d letters: %v", len(all), err)
	}
	return string(all[0].FindBodySection(section))
}

func (s *site) tellScribe() {
	t := s.t
	t.Helper()
	if out := s.sluice("", "plugin", "tell", "scribe", "train", "now please"); out != "train|now please\n2 words\n" {
		t.Errorf("plugin tell: %q", out)
	}
	for _, c := range []struct{ name, word, want string }{
		{"scribe", "fail", "I was told to fail"}, {"nobody", "x", "there are scribe"},
	} {
		if out, err := s.trySluice("", "plugin", "tell", c.name, c.word); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("plugin tell %s %s: %v %s", c.name, c.word, err, out)
		}
	}
}

func (s *site) readMetrics() {
	t := s.t
	t.Helper()
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "sluice_build_info"} {
		if code, text := s.fetchAdmin(path); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %.200s", path, code, text)
		}
	}
	out := s.sluice("", "metrics")
	for _, want := range []string{
		`sluice_stage_messages_total{action="reject",pipeline="inbound",stage="anti-spam"} 1`,
		`sluice_plugin_answers_total{action="junk",phase="content",plugin="scribe",stage="anti-spam"} 1`,
		`sluice_lessons_total{result="learnt"} 6`, `sluice_alerts_total{plugin="scribe"} 1`,
		`sluice_recipients_total{outcome="quarantined"} 1`, `sluice_recipients_total{outcome="released"} 1`,
		`sluice_plugin_up{plugin="scribe"} 1`, `sluice_events_total{kind="refused"} 2`, `sluice_connections{listener="mx"}`, `sluice_store_free_bytes `,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, secret := range []string{alice, "example.org", password, s.dir} {
		if strings.Contains(out, secret) {
			t.Errorf("the metrics know %q", secret)
		}
	}
	if out := s.sluice("", "metrics", "--json"); !strings.Contains(out, `{"name":"sluice_queue_entries","value":`) {
		t.Errorf("metrics --json: %.300s", out)
	}
}

// TestLessonsSurviveKills: a reader moves mail into Junk while the server is killed again and again, the plugin learning or
// refusing to. Every move that was acknowledged is learnt in the end.
func TestLessonsSurviveKills(t *testing.T) {
	s := newScribeSite(t)
	s.start()
	const messages = 60
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for n := range messages {
		if _, err := c.send(stranger, []string{alice}, letter(fmt.Sprintf("lesson.%d@example.org", n), "lesson", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	c.close()
	s.waitMail(alice, "INBOX", fmt.Sprintf("lesson.%d@example.org", messages-1))
	acknowledged := make(map[string]bool)
	for round := range 4 {
		closed := s.scribeFile("closed")
		if round%2 == 0 {
			if err := os.WriteFile(closed, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			os.Remove(closed)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.moveAll(acknowledged)
		}()
		time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond)
		s.crash()
		<-done
		s.start()
	}
	os.Remove(s.scribeFile("closed"))
	s.moveAll(acknowledged)
	if len(acknowledged) < messages/2 {
		t.Fatalf("only %d moves were acknowledged", len(acknowledged))
	}
	learnt := func() map[string]bool {
		have := make(map[string]bool)
		for _, line := range s.events() {
			if rest, ok := strings.CutPrefix(line, "learn-spam "); ok {
				have[strings.Fields(rest)[0]] = true
			}
		}
		return have
	}
	var missing []string
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		have := learnt()
		missing = missing[:0]
		for id := range acknowledged {
			if !have[id] {
				missing = append(missing, id)
			}
		}
		if len(missing) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d lessons are lost: %v\n%s", len(missing), len(acknowledged), missing, s.sluice("", "metrics"))
		}
	}
	t.Logf("%d moves acknowledged, %d lessons told", len(acknowledged), s.countEvents("learn-spam"))
	s.stop()
}

// moveAll moves what is in INBOX into Junk, one message after the other, until there is nothing or the connection ends.
func (s *site) moveAll(acknowledged map[string]bool) {
	all, _, err := s.list(alice, "INBOX")
	if err != nil {
		return
	}
	c, err := s.wireLogin(alice)
	if err != nil {
		return
	}
	defer c.conn.Close()
	if _, err := c.do("SELECT INBOX"); err != nil {
		return
	}
	for _, m := range all {
		if _, err := c.do("UID MOVE %d Junk", m.uid); err != nil {
			return
		}
		acknowledged[m.id] = true
		time.Sleep(8 * time.Millisecond) // so that a kill comes between
	}
}

// TestAlwaysFailingScanner (DRILLS E6.2): a virus scanner that always fails. Mail is treated as configured, the metric
// rises, and the administrator knows within a minute.
func TestAlwaysFailingScanner(t *testing.T) {
	for policy, want := range map[string]int{"defer": 451, "accept": 0} {
		t.Run(policy, func(t *testing.T) {
			s := newMischiefSite(t, "anti-virus")
			text, err := os.ReadFile(s.config)
			if err != nil {
				t.Fatal(err)
			}
			s.writeFile("sluice.toml", strings.Replace(string(text), "lanes = 4", "lanes = 4\non_failure = \""+policy+"\"", 1)+"\n[alerts]\nafter = \"2s\"\n")
			s.start()
			begin := time.Now()
			n := 0
			alert := ""
			for alert == "" {
				n++
				c, err := dialSMTP(s.addr("mx"), time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.send(stranger, []string{bob}, letter(fmt.Sprintf("av.%d@example.org", n), "av", 1000, "X-Mischief: error"))
				c.close()
				if replyCode(err) != want || want == 0 && err != nil {
					t.Fatalf("message %d: %v", n, err)
				}
				alert = s.letterToPostmaster("plugin mischief")
				if time.Since(begin) > time.Minute {
					t.Fatal("nobody was told within a minute")
				}
				time.Sleep(300 * time.Millisecond)
			}
			t.Logf("told after %v and %d messages", time.Since(begin).Round(100*time.Millisecond), n)
			if !strings.Contains(alert, "plugin mischief has failed") {
				t.Errorf("the letter:\n%s", alert)
			}
			if log := s.logText(); !strings.Contains(log, "msg=alert") || !strings.Contains(log, "plugin=mischief") {
				t.Error("no alert in the log")
			}
			out := s.sluice("", "metrics")
			if !regexp.MustCompile(`(?m)^sluice_plugin_failures_total\{kind="error",plugin="mischief",stage="anti-virus"\} [1-9]`).MatchString(out) {
				t.Error("the failures are not counted")
			}
			if unscanned := strings.Contains(out, `sluice_unscanned_total{plugin="mischief",stage="anti-virus"} `); unscanned != (want == 0) {
				t.Errorf("unscanned mail in the metrics: %v", unscanned)
			}
			s.stop()
		})
	}
}
