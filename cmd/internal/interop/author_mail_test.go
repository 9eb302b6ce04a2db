package interop

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authorSite is a server whose listeners mx, py and js have pipelines with a plugin in Go, Python and JavaScript each.
func authorSite(t *testing.T) *site {
	t.Helper()
	needPython(t)
	python, javascript := examplePath(t, "python"), javascriptPath(t)
	return newSite(t, fmt.Sprintf(`
[listener.py]
protocol = "smtp"
address = "127.0.0.1:0"
pipeline = "py"

[listener.js]
protocol = "smtp"
address = "127.0.0.1:0"
pipeline = "js"

[plugin.python-scanner]
command = [%q, "-B", %q]
read = [%q]
[plugin.python-scanner.config]
words = ["lottery"]

[plugin.javascript-scanner]
command = ["node", %q]
read = [%q]
[plugin.javascript-scanner.config]
words = ["lottery"]

[pipeline.inbound.anti-spam]
plugins = ["gtube"]
[pipeline.py.anti-spam]
plugins = ["python-scanner"]
[pipeline.js.anti-virus]
plugins = ["javascript-scanner"]
`, debianPython, filepath.Join(python, "scanner.py"), python, filepath.Join(javascript, "scanner.js"), javascript))
}

const (
	authorSpam = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE" + "-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
	oddWords   = "X-Odd: lottery " + authorSpam // what each of the three plugins refuses, in the header
)

// TestAuthorPlugins: plugins in Python and JavaScript in a server's pipeline. What they refuse is refused, what they do not is
// delivered, and the trace says who said what.
func TestAuthorPlugins(t *testing.T) {
	t.Parallel()
	s := authorSite(t)
	s.start()
	for listener, plugin := range map[string]string{"py": "python-scanner", "js": "javascript-scanner"} {
		hidden := "Content-Transfer-Encoding: base64\r\n\r\nVGhlIGxvdHRlcnkgaXMgeW91cnMuCg==\r\n"
		for name, c := range map[string]struct {
			message string
			code    int // 0: accepted
		}{
			"plain":  {letter("plain."+listener+"@example.org", "Lunch", 2000), 0},
			"word":   {letter("word."+listener+"@example.org", "You won the lottery", 2000), 550},
			"hidden": {"From: <" + stranger + ">\r\nMIME-Version: 1.0\r\nMessage-ID: <hidden." + listener + "@example.org>\r\n" + hidden, 550},
		} {
			client, err := dialSMTP(s.addr(listener), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.send(stranger, []string{alice}, c.message)
			client.close()
			if code := replyCode(err); code != c.code || code == 0 && err != nil {
				t.Errorf("%s, %s: %v, expected %d", listener, name, err, c.code)
			}
			trace := s.sluice("", "trace", name+"."+listener+"@example.org", "--json")
			if !strings.Contains(trace, plugin) || c.code != 0 && !strings.Contains(trace, "it has the word lottery") {
				t.Errorf("%s, %s: the trace does not say what %s said:\n%s", listener, name, plugin, trace)
			}
		}
	}
	s.stop()
}

// TestAuthorEarly: a plugin that answers at once to 50 MB on every lane stalls nothing, in Go, Python and JavaScript.
func TestAuthorEarly(t *testing.T) {
	s := authorSite(t)
	s.start()
	large := letter("large@example.org", "large", 49<<20, oddWords)
	for _, listener := range []string{"mx", "py", "js"} {
		begin := time.Now()
		var all sync.WaitGroup
		for range 8 { // as many as there are lanes
			all.Go(func() {
				if err := s.sendLarge(listener, large); replyCode(err) != 550 {
					t.Errorf("%s: 49 MB that are refused at once: %v", listener, err)
				}
			})
		}
		all.Wait()
		took := time.Since(begin)
		for i := range 16 { // each lane twice, at least
			client, err := dialSMTP(s.addr(listener), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if _, err = client.send(stranger, []string{alice}, letter(fmt.Sprintf("after.%d@example.org", i), "after", 4000)); err != nil {
				t.Errorf("%s: an ordinary message afterwards: %v", listener, err)
			}
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("%s: an ordinary message afterwards took %s", listener, d)
			}
			client.close()
		}
		t.Logf("%s: 8 times 49 MB in %s", listener, took.Round(10*time.Millisecond))
	}
	if log := s.logText(); strings.Contains(log, "lane was reset") || strings.Contains(log, "hang") {
		t.Error("a lane was lost")
	}
	s.stop()
}

// sendLarge sends a message without copying it.
func (s *site) sendLarge(listener, message string) error {
	c, err := dialSMTP(s.addr(listener), 2*time.Minute)
	if err != nil {
		return err
	}
	defer c.close()
	for _, step := range []struct {
		code int
		line string
	}{{250, "MAIL FROM:<" + stranger + ">"}, {250, "RCPT TO:<" + alice + ">"}, {354, "DATA"}} {
		if _, err := c.command(step.code, "%s", step.line); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c.conn, message); err != nil {
		return err
	}
	_, err = c.command(250, ".")
	return err
}

// TestAuthorAsk: one plugin is asked about a file, a folder and an mbox, beside a running server.
func TestAuthorAsk(t *testing.T) {
	t.Parallel()
	s := newSite(t, "[pipeline.inbound.anti-spam]\nplugins = [\"gtube\"]\n")
	s.start()
	spam := "From: <a@example.org>\n\n" + authorSpam + "\n"
	ham := s.writeFile("ham.eml", "From: <a@example.org>\nSubject: Lunch\n\nHello\n")
	if err := os.MkdirAll(filepath.Join(s.dir, "folder/cur"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.writeFile("folder/cur/1", spam)
	s.writeFile("folder/2.eml", "Subject: x\n\ny\n")
	var mbox strings.Builder
	for i := range 300 {
		fmt.Fprintf(&mbox, "From a@example.org Thu Jan  1 12:00:00 2026\nSubject: %d\n\n>From here\n", i)
		if i%3 == 0 {
			mbox.WriteString(authorSpam + "\n")
		}
		mbox.WriteString("\n")
	}
	archive := s.writeFile("archive.mbox", mbox.String())
	if out := s.sluice("", "plugin", "ask", "gtube", ham); !strings.Contains(out, "accept") || !strings.Contains(out, "1 asked, 1 accept") {
		t.Error(out)
	}
	if out := s.sluice("", "plugin", "ask", "gtube", filepath.Join(s.dir, "folder")); !strings.Contains(out, "GTUBE") || !strings.Contains(out, "2 asked") {
		t.Error(out)
	}
	lines := strings.Split(strings.TrimSpace(s.sluice("", "plugin", "ask", "gtube", archive, "--json")), "\n")
	if len(lines) != 301 {
		t.Fatalf("%d lines about 300 messages", len(lines))
	}
	found := 0
	for i, line := range lines[:300] {
		var a struct {
			Source  string
			Verdict struct{ Reasons []struct{ Symbol string } }
		}
		if err := json.Unmarshal([]byte(line), &a); err != nil || !strings.HasSuffix(a.Source, fmt.Sprintf("archive.mbox:%d", i+1)) {
			t.Fatalf("line %d: %v %s", i+1, err, line)
		}
		if len(a.Verdict.Reasons) > 0 {
			found++
		}
	}
	if found != 100 || !strings.Contains(lines[300], `"asked":300`) {
		t.Errorf("found %d of 100; %s", found, lines[300])
	}
	for want, args := range map[string][]string{
		"no such file":       {"gtube", filepath.Join(s.dir, "absent")},
		"there is no plugin": {"gtub", ham},
		"takes no part":      {"gtube", ham, "--phase", "route"},
		"expected connect":   {"gtube", ham, "--phase", "lunch"},
		"an IP address":      {"gtube", ham, "--client", "localhost"},
	} {
		out, err := s.trySluice("", append([]string{"plugin", "ask"}, args...)...)
		if exitStatus(err) != 2 || !strings.Contains(out, want) {
			t.Errorf("ask %q: %v %s", args, err, out)
		}
	}
	s.stop()
}
