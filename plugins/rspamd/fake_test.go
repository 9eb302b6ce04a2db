package rspamd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// fake is a rspamd that says what a test wants. Each connection is handed to serve.
type fake struct {
	url string

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

// startFake serves connections with script until the test ends.
func startFake(t *testing.T, script func(f *fake, c net.Conn)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{url: "http://" + l.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				script(f, c)
			})
		}
	})
	return f
}

// read reads one request; false when there is none.
func (f *fake) read(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(req.Body)
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.bodies = append(f.bodies, string(body))
	f.mu.Unlock()
	return err == nil
}

// always answers every request of a connection in the same way.
func always(response string) func(*fake, net.Conn) {
	return func(f *fake, c net.Conn) {
		for r := bufio.NewReader(c); f.read(r); {
			if _, err := io.WriteString(c, response); err != nil {
				return
			}
		}
	}
}

// ok is a whole answer over HTTP.
func ok(body string) string { return respond("200 OK", body) }

func respond(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func (f *fake) last() (*http.Request, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		return &http.Request{Header: http.Header{}}, ""
	}
	return f.requests[len(f.requests)-1], f.bodies[len(f.bodies)-1]
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

const clean1 = `{"is_skipped":false,"score":-0.5,"required_score":15.0,"action":"no action","symbols":{` +
	`"MIME_GOOD":{"name":"MIME_GOOD","score":-0.1,"metric_score":-0.1,"description":"Known content-type","options":["text/plain"]},` +
	`"R_SPF_ALLOW":{"name":"R_SPF_ALLOW","score":-0.4,"description":"SPF verification allows sending","options":["+ip4:192.0.2.1","x\ty"]},` +
	`"ARC_NA":{"name":"ARC_NA","score":0.0,"description":"ARC signature absent"}},"messages":{},"message-id":"a@b","time_real":0.01}`

const letter = "From: a@example.org\nSubject: hello\n\nbody\n"

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
