package report

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

const (
	postTimeout = 30 * time.Second
	maxReply    = 16 << 10
)

// poster posts TLS reports (RFC 8460 section 5.4). The address is a stranger's choice, so it reaches nobody whom a stranger must not
// make us talk to (DRILLS E5.3): it connects to port 443 of addresses of the Internet alone, checks the address once more on the
// socket, follows no redirection, knows no proxy and believes certificates of public authorities alone.
type poster struct {
	dns    resolver.Lookup
	rules  mx.Rules
	port   uint16 // the one that may be connected to; tests have another
	client *http.Client
}

func newPoster(dns resolver.Lookup, rules mx.Rules) *poster {
	p := &poster{dns: dns, rules: rules, port: 443}
	p.client = &http.Client{
		Timeout: postTimeout,
		Transport: &http.Transport{
			DialContext: p.dial, DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: maxReply,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// send posts a packed report.
func (p *poster) send(ctx context.Context, url string, packed []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("post the report: %w", err)
	}
	r.Header.Set("Content-Type", "application/tlsrpt+gzip")
	r.Header.Set("User-Agent", "sluice")
	answer, err := p.client.Do(r)
	if err != nil {
		return fmt.Errorf("post the report: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxReply) // what it says is nobody's business
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("post the report: the server answered %d", answer.StatusCode)
	}
	return nil
}

// dial connects to one of the host's addresses that may be connected to.
func (p *poster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || uint16(port) != p.port {
		return nil, fmt.Errorf("port %s is not one that reports are posted to", portText)
	}
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else if addrs, err = p.dns.LookupIP(ctx, "ip", host); err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 10 * time.Second, Control: p.control}
	last := errors.New("it has no address")
	for _, addr := range addrs[:min(len(addrs), 4)] {
		at := netip.AddrPortFrom(addr.Unmap(), uint16(port))
		if last = p.rules.Check(at); last != nil {
			continue
		}
		conn, err := dialer.DialContext(ctx, network, at.String())
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}

// control looks at the address once more, on the socket.
func (p *poster) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return p.rules.Check(at)
}
