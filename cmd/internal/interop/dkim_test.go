package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

const sealConfig = `
[domain."forward.test"]
aliases = { away = "box@elsewhere.test", team = ["alice@example.test", "box@elsewhere.test"] }
[domain."must.test"]
aliases = { postmaster = "alice@example.test" }
[domain."must.test".dkim]
sign = "require"
[forward]
srs_domain = "forward.test"
srs_secrets = ["a secret of more than 16 octets"]
[relay."*"]
hosts = ["%s"]
tls = "none"
[listener.inside]
protocol = "smtp"
address = "127.0.0.1:0"
trusted = ["127.0.0.1"]
`

// sealed is a site whose mail ends in a sink, with keys for two domains.
type sealed struct {
	*site
	sink *sinkServer
}

// keyRecords is what DNS would say of the keys.
func (s *sealed) keyRecords() map[string]string {
	s.t.Helper()
	records := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(s.sluice("", "dkim", "show", "--json")), "\n") {
		var r struct{ Name, Text string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatalf("%v: %s", err, line)
		}
		records[r.Name] = r.Text
	}
	return records
}

// arrived returns the message with a mark in it that the sink got.
func (s *sealed) arrived(mark string) string {
	s.t.Helper()
	if got := s.sink.waitSunk(s.t, mark, 1); len(got) != 1 {
		s.t.Fatalf("%s arrived for %q", mark, got)
	}
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	for _, m := range s.sink.messages {
		if strings.Contains(m.content, mark) {
			return m.content
		}
	}
	return ""
}

// verified returns the domains and selectors of the signatures, all of which have to be right.
func (s *sealed) verified(raw string) string {
	s.t.Helper()
	records := s.keyRecords()
	var mu sync.Mutex // keys are asked for side by side
	var asked []string
	list, err := dkim.VerifyWithOptions(strings.NewReader(raw), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, strings.TrimSuffix(name, "._domainkey."+domain))
		return []string{records[name]}, nil
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, v := range list {
		if v.Err != nil {
			s.t.Errorf("%s: %v\n%s", v.Domain, v.Err, raw)
		}
	}
	return fmt.Sprint(len(list), " ", len(asked))
}

// TestSeal: the built program signs what users send, with two keys and after a rotation under its feet with others; seals
// what it forwards; and keeps what it cannot sign.
func TestSeal(t *testing.T) {
	t.Parallel()
	sink := startSink(t)
	s := &sealed{newSite(t, fmt.Sprintf(sealConfig, sink.addr)), sink}
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", "postmaster = \"alice@example.test\"\n"+string(text))
	for _, name := range []string{domain, "forward.test"} {
		if out := s.sluice("", "dkim", "new", name); strings.Count(out, " IN TXT ") != 2 {
			t.Fatalf("dkim new %s:\n%s", name, out)
		}
	}
	s.start()
	defer s.stop()
	const to = "box@elsewhere.test"
	write := func(mark, from string) string {
		return strings.Replace(letter(mark+"@"+domain, "sealed", 2000), stranger, from, 1)
	}

	if err := s.submit(to, write("first", alice)); err != nil {
		t.Fatal(err)
	}
	first := s.arrived("first@")
	if got := s.verified(first); got != "2 2" || strings.Contains(first, "Authentication-Results") {
		t.Errorf("%s signatures on\n%s", got, first)
	}

	s.sluice("", "dkim", "rotate", domain)
	s.sluice("", "dkim", "rotate", domain, "--activate", "--force")
	time.Sleep(2500 * time.Millisecond) // the server looks every two seconds
	if err := s.submit(to, write("second", alice)); err != nil {
		t.Fatal(err)
	}
	second := s.arrived("second@")
	if got := s.verified(second); got != "2 2" || selectorOf(second) == selectorOf(first) || selectorOf(second) == "" {
		t.Errorf("after the rotation: %s signatures, selector %s, before %s", got, selectorOf(second), selectorOf(first))
	}

	s.forwards()
	s.promised()
}

func selectorOf(raw string) string {
	if found := regexp.MustCompile(`\ss=([a-z0-9]+);`).FindStringSubmatch(raw); found != nil {
		return found[1]
	}
	return ""
}

// forwards: a stranger's message leaves by an alias with a seal and without a signature, whatever name it bears.
func (s *sealed) forwards() {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), clientTime)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{"away@forward.test"}, letter("forwarded@example.org", "x", 2000)); err != nil {
		s.t.Fatal(err)
	}
	raw := s.arrived("forwarded@")
	for _, want := range []string{"ARC-Seal: i=1; a=rsa-sha256;", "cv=none; d=forward.test", "ARC-Authentication-Results: i=1; mx.example.test;", "spf=pass"} {
		if !strings.Contains(raw, want) {
			s.t.Errorf("no %q in\n%s", want, raw)
		}
	}
	if strings.Contains(raw, "DKIM-Signature:") {
		s.t.Errorf("a signature on a stranger's message:\n%s", raw)
	}
	if out := s.sluice("", "trace", "forwarded@example.org"); !strings.Contains(out, "ARC seal 1 of forward.test") {
		s.t.Errorf("the trace does not tell of the seal:\n%s", out)
	}
}

// promised: no key where there has to be one is 451, and nothing leaves.
func (s *sealed) promised() {
	s.t.Helper()
	c, err := dialSMTP(s.addr("inside"), clientTime)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	message := strings.Replace(letter("unsigned@must.test", "x", 500), stranger, "a@must.test", 1)
	if _, err := c.send("a@must.test", []string{"box@elsewhere.test"}, message); replyCode(err) != 451 {
		s.t.Errorf("without the key that must be: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "dkim", domain, "*.pem"))
	if err != nil || len(files) != 4 {
		s.t.Fatalf("%q, %v", files, err)
	}
	for _, name := range files {
		if err := os.Remove(name); err != nil {
			s.t.Fatal(err)
		}
	}
	time.Sleep(2500 * time.Millisecond)
	if err := s.submit("box@elsewhere.test", strings.Replace(letter("unsigned2@example.test", "x", 500), stranger, alice, 1)); replyCode(err) != 451 {
		s.t.Errorf("with keys that went away: %v", err)
	}
	if got := append(s.sink.recipients("unsigned@"), s.sink.recipients("unsigned2@")...); len(got) != 0 {
		s.t.Errorf("left unsigned for %q", got)
	}
}
