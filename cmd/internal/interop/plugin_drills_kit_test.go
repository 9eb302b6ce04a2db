package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// drilled is a shipped plugin that is drilled twice at once: as NAME-open mail goes on when it fails (on_failure = "accept"), as NAME-closed it
// waits ("defer"). Mail to the listeners NAMEopen and NAMEclosed meets it alone.
type drilled struct {
	name, builtin, stage string
	config               string
	state                string // its file, "" if it has none
	again                bool   // a message that is in the process when that dies is asked about again, so nobody hears of it
}

var drillTable = []drilled{
	{"bayes", "bayes", "anti-spam", "", "bayes.db", true},
	{"greylist", "greylist", "anti-spam", "delay = \"1s\"\nauto_allow = 0", "greylist.db", false},
	{"ratelimit", "ratelimit", "anti-spam", "", "buckets.db", false},
	{"attachments", "attachments", "anti-virus", "", "", true},
	{"links", "dnsbl", "anti-spam", "servers = [\"DNS\"]\ntimeout = \"1s\"\n[plugin.NAME.config.domains.\"bl.test\"]", "", false},
	{"clients", "dnsbl", "anti-spam", "servers = [\"DNS\"]\ntimeout = \"1s\"\n[plugin.NAME.config.addresses.\"bl.test\"]", "", false},
	{"clam", "milter", "anti-virus", "address = \"CLAM\"", "", true},
	{"rspamd", "milter", "anti-spam", "address = \"RSPAMD\"", "", true},
}

// drillTimeout is what the server waits for a plugin, and longer than what dnsbl waits for DNS.
const drillTimeout = 2 * time.Second

// drillConfig has two listeners, pipelines and plugins for each of the table. The words are replaced in it.
func drillConfig(words ...string) string {
	var b strings.Builder
	for _, d := range drillTable {
		for policy, action := range map[string]string{"open": "accept", "closed": "defer"} {
			name := d.name + "-" + policy
			fmt.Fprintf(&b, "\n[listener.%[1]s%[2]s]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.1\"]\npipeline = \"%[1]s%[2]s\"\n"+
				"[pipeline.%[1]s%[2]s.%[3]s]\nplugins = [%[4]q]\n[plugin.%[4]s]\nbuiltin = %[5]q\ntimeout = %[6]q\non_failure = %[7]q\n[plugin.%[4]s.config]\n%[8]s\n",
				d.name, policy, d.stage, name, d.builtin, drillTimeout, action, strings.ReplaceAll(d.config, "NAME", name))
		}
	}
	return strings.NewReplacer(words...).Replace(b.String())
}

// drill is a server whose plugins are being drilled, and what came of the messages so far.
type drill struct {
	*site
	clients   int
	text      map[string]string // last words to each listener's client
	unscanned map[string]int    // messages with X-Sluice-Unscanned, by plugin
}

func newDrill(s *site) *drill {
	return &drill{site: s, text: make(map[string]string), unscanned: make(map[string]int)}
}

// round sends a message to every listener, all at once, each from another client and with a link to another domain, and returns what became
// of each: "scanned", "deferred", or "unscanned FAILURE", by listener.
func (r *drill) round(name string, tables ...drilled) map[string]string {
	r.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcome := make(map[string]string)
	waiting := make(map[string]string) // accepted: listener by Message-ID
	for _, d := range tables {
		for _, policy := range []string{"open", "closed"} {
			listener, client := d.name+policy, r.clients
			r.clients++
			wg.Go(func() {
				id := fmt.Sprintf("%s.%s@example.org", strings.ReplaceAll(name, " ", "-"), listener)
				code, text := r.knock(listener, client, letter(id, name, 1000)+links(client))
				mu.Lock()
				defer mu.Unlock()
				r.text[listener] = text
				switch {
				case code == 250:
					waiting[id] = listener
				case code == 451 && d.name == "greylist" && strings.Contains(text, "Greylisted"):
					outcome[listener] = "scanned" // it has done what it is for
				case code == 451 || d.builtin == "dnsbl" && code == 421: // at connect
					outcome[listener] = "deferred"
				default:
					outcome[listener] = fmt.Sprintf("%d %s", code, text)
				}
			})
		}
	}
	wg.Wait()
	eventually(r.t, 20*time.Second, "every message that was accepted in round "+name, func() bool {
		for _, text := range r.everything(alice) {
			header, _, _ := strings.Cut(text, "\r\n\r\n")
			id := messageIDField.FindStringSubmatch(header)
			if id == nil || waiting[id[1]] == "" {
				continue
			}
			listener := waiting[id[1]]
			delete(waiting, id[1])
			outcome[listener] = "scanned"
			if m := unscannedField.FindStringSubmatch(strings.ReplaceAll(header, "\r\n ", " ")); m != nil {
				outcome[listener] = "unscanned " + m[2]
				r.unscanned[m[1]]++
			}
		}
		return len(waiting) == 0
	})
	return outcome
}

// links are to domains that no other message has.
func links(client int) string {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "http://d%d-%d.test/\r\n", client, i)
	}
	return b.String()
}

var unscannedField = regexp.MustCompile(`(?m)^X-Sluice-Unscanned: [a-z-]+; plugin=([a-z-]+); failure=([a-z]+)`)

// knock is a client from somewhere that brings one message. It returns the reply that decided.
func (r *drill) knock(listener string, client int, message string) (int, string) {
	conn, err := net.DialTimeout("tcp", r.addr(listener), 5*time.Second)
	if err != nil {
		return 0, err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "PROXY TCP4 20.%d.%d.1 127.0.0.1 40000 25\r\n", client/200, client%200)
	c := &smtpClient{conn: conn, r: bufio.NewReader(conn)}
	if _, err = c.reply(220); err == nil {
		if _, err = c.command(250, "EHLO mx.example.org"); err == nil {
			_, err = c.send(stranger, []string{alice}, message)
		}
	}
	switch code := replyCode(err); {
	case err == nil:
		return 250, ""
	case code != 0:
		return code, err.Error()
	default:
		return 0, err.Error()
	}
}

// demand sends a round and compares: those that are open with the first, closed with the second.
func (r *drill) demand(name string, open, closed string, tables ...drilled) {
	r.t.Helper()
	r.compare(name, r.round(name, tables...), open, closed, tables...)
}

// compare wants "unscanned" for any failure.
func (r *drill) compare(name string, got map[string]string, open, closed string, tables ...drilled) {
	r.t.Helper()
	for _, d := range tables {
		for policy, want := range map[string]string{"open": open, "closed": closed} {
			if have := got[d.name+policy]; have != want && (want != "unscanned" || !strings.HasPrefix(have, "unscanned ")) {
				r.t.Errorf("%s: %s-%s: %s (%s), expected %s", name, d.name, policy, have, r.text[d.name+policy], want)
			}
		}
	}
}

// back waits until everything is scanned again, with the same server.
func (r *drill) back(after string, limit time.Duration, tables ...drilled) {
	r.t.Helper()
	begin, n := time.Now(), 0
	var got map[string]string
	for end := time.Now().Add(limit); ; {
		got = r.round(fmt.Sprintf("back %s %d", after, n), tables...)
		n++
		left := 0
		for _, have := range got {
			if have != "scanned" {
				left++
			}
		}
		if left == 0 {
			r.t.Logf("back after %s: %v, %d rounds", after, time.Since(begin).Round(time.Millisecond), n)
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("after %s it is not as it was within %v: %v", after, limit, got)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// pids returns the process of each plugin, both policies'. A plugin that does not run has none.
func (r *drill) pids(tables ...drilled) map[string]int {
	r.t.Helper()
	all := make(map[string]int)
	dec := json.NewDecoder(strings.NewReader(r.sluice("", "plugin", "list", "--json")))
	for dec.More() {
		var p struct {
			Name string `json:"name"`
			PID  int    `json:"pid"`
		}
		if err := dec.Decode(&p); err != nil {
			r.t.Fatal(err)
		}
		for _, d := range tables {
			if p.PID != 0 && (p.Name == d.name+"-open" || p.Name == d.name+"-closed") {
				all[p.Name] = p.PID
			}
		}
	}
	return all
}

func signalAll(pids map[string]int, sig syscall.Signal) {
	for _, pid := range pids {
		syscall.Kill(pid, sig)
	}
}

// stateFile is where a plugin keeps what it knows.
func (r *drill) stateFile(d drilled, policy string) string {
	return filepath.Join(r.dir, "data", "plugin", d.name+"-"+policy, d.state)
}

// lock takes a plugin's file as soon as its process lets go of it, and kills that. The file is free again when unlock is called.
func (r *drill) lock(path string, pid int) (unlock func()) {
	r.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() { locked <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
	time.Sleep(50 * time.Millisecond) // it waits in the kernel then, before the next process does
	syscall.Kill(pid, syscall.SIGKILL)
	if err := <-locked; err != nil {
		r.t.Fatal(err)
	}
	return func() { f.Close() }
}

// killAgain kills the processes of a builtin as soon as they are there, until stop is called.
func (r *drill) killAgain(builtin string) (stop func()) {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for _, p := range childrenOf(r.pid) {
				if strings.Contains(p.command, "plugin run "+builtin) || strings.Contains(p.command, "plugin exec "+builtin) {
					syscall.Kill(p.pid, syscall.SIGKILL)
				}
			}
			select {
			case <-ending:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() { close(ending); <-ended }
}

// inLog waits for words in the server's log.
func (r *drill) inLog(limit time.Duration, words ...string) {
	r.t.Helper()
	for _, w := range words {
		eventually(r.t, limit, fmt.Sprintf("the log says %q", w), func() bool { return strings.Contains(r.logText(), w) })
	}
}

// spoil puts something else in the place of a plugin's file.
func (r *drill) spoil(path string, content []byte) {
	r.t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
}
