package rspamd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

const (
	connectLimit = 5 * time.Second
	maxBody      = 4 << 20  // octets of an answer
	maxReplay    = 64 << 10 // octets of a message that are kept for a second try
)

// client talks to one worker.
type client struct {
	at        endpoint
	password  string
	transport *http.Transport
}

// newClient connects to nothing yet. At most lanes connections are kept; rspamd's own
// workers close each after its answer, a proxy between may not.
func newClient(at endpoint, password string, lanes int) *client {
	dialer := &net.Dialer{Timeout: connectLimit}
	dialContext := dialer.DialContext
	if at.unix != nil {
		dialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return at.unix.Dial(ctx, connectLimit) }
	}
	return &client{at: at, password: password, transport: &http.Transport{
		DialContext:            dialContext, // and no Proxy: the place in the settings is the place
		TLSHandshakeTimeout:    connectLimit,
		MaxIdleConnsPerHost:    max(1, lanes),
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// status is what the first line of an answer says.
type status struct {
	code int
	line string // "200 OK"
}

// explain says what went wrong, for a person.
func (s status) explain(body []byte) string {
	if text := errorText(body); text != "" {
		return plain.Line(fmt.Sprintf("%d: %s", s.code, text), maxText)
	}
	return plain.Line(s.line, maxText)
}

// post sends a message. Redirects are not followed. When a connection that was kept turns out
// to be dead before anything came back, and the message is still at hand, it is sent once more.
func (c *client) post(ctx context.Context, path string, header http.Header, m *sdk.Message) (status, []byte, error) {
	content := dial.NewReplay(io.LimitReader(m.Content, m.Size), maxReplay)
	defer content.Stop() // the transport may still be reading when it has an answer
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.at.url+path, io.NopCloser(content))
		if err != nil {
			return status{}, nil, fmt.Errorf("ask %s: %w", c.at, err)
		}
		req.Header = header
		req.ContentLength = m.Size
		if m.Size == 0 {
			req.Body = http.NoBody
		}
		s, body, stale, err := c.do(req)
		if err == nil {
			return s, body, nil
		}
		if try > 1 || !stale || ctx.Err() != nil || !content.Rewind() {
			return status{}, nil, fmt.Errorf("ask %s: %w", c.at, err)
		}
		c.transport.CloseIdleConnections() // they are no younger
	}
}

// get asks for a page without a message.
func (c *client) get(ctx context.Context, path string) (status, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.at.url+path, nil)
	if err != nil {
		return status{}, nil, err
	}
	s, body, _, err := c.do(req)
	return s, body, err
}

// do sends a request and reads the whole answer. stale says that it failed on a connection
// that was used before, and that nothing came back on it.
func (c *client) do(req *http.Request) (s status, body []byte, stale bool, err error) {
	var reused, answered atomic.Bool
	trace := &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { reused.Store(i.Reused) },
		GotFirstResponseByte: func() { answered.Store(true) },
	}
	if c.password != "" {
		req.Header.Set("Password", c.password)
	}
	resp, err := c.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		return status{}, nil, reused.Load() && !answered.Load(), err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return status{}, nil, false, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxBody {
		return status{}, nil, false, errors.New("the answer is larger than 4 MiB")
	}
	return status{resp.StatusCode, resp.Status}, body, false, nil
}
