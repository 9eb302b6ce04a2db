package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// Error is why a domain that says it has a policy has none that we know.
type Error struct {
	Domain string
	Type   tlsrpt.ResultType // how it is reported
	Err    error
}

func (e *Error) Error() string {
	return "fetch the MTA-STS policy of " + e.Domain + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

const (
	fetchTime      = 60 * time.Second // RFC 8461 section 3.3 suggests this
	maxHeaderBytes = 16 << 10
)

// fetch gets and reads the policy of domain (RFC 8461 section 3.3).
func (s *Store) fetch(ctx context.Context, domain string) (*Policy, error) {
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	body, err := s.get(ctx, domain)
	if err != nil {
		return nil, &Error{domain, fetchFailure(err), err}
	}
	policy, err := ParsePolicy(body)
	if err != nil {
		return nil, &Error{domain, tlsrpt.STSPolicyInvalid, fmt.Errorf("the policy %w", err)}
	}
	return policy, nil
}

// errMediaType is an answer that is no policy.
var errMediaType = errors.New("the answer's type is not text/plain")

func fetchFailure(err error) tlsrpt.ResultType {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &verification), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid):
		return tlsrpt.STSWebPKIInvalid
	case errors.Is(err, errMediaType):
		return tlsrpt.STSPolicyInvalid
	}
	return tlsrpt.STSPolicyFetchError
}

// get asks once, with a connection of its own: no redirects, no proxy, no compression, no cookies, and no address that
// mail could not go to either.
func (s *Store) get(ctx context.Context, domain string) ([]byte, error) {
	host := "mta-sts." + domain
	transport := &http.Transport{
		Proxy:                  nil, // not from the environment: the policy's authenticity hangs on this connection
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, host) },
		TLSClientConfig:        &tls.Config{RootCAs: s.options.Roots, ServerName: host, MinVersion: tls.VersionTLS12, Time: s.options.Now},
		TLSHandshakeTimeout:    s.within / 2,
		ResponseHeaderTimeout:  s.within / 2,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "Sluice")
	request.Header.Set("Accept", "text/plain")
	response, err := transport.RoundTrip(request) // which does not follow redirects: RFC 8461 section 3.3
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d, not 200", response.StatusCode)
	}
	if media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err != nil || !strings.EqualFold(media, "text/plain") {
		return nil, errMediaType
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxPolicySize+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > MaxPolicySize {
		return nil, fmt.Errorf("the answer is longer than %d octets", MaxPolicySize)
	}
	return body, nil
}

// dial connects to host where mail could go too.
func (s *Store) dial(ctx context.Context, host string) (net.Conn, error) {
	rules := s.options.Rules
	addrs, _, err := s.options.Finder.Addresses(ctx, mx.Host{Name: host, Port: s.options.Port}, rules)
	if err != nil {
		return nil, err
	}
	var last error
	for _, addr := range addrs[:min(len(addrs), 4)] {
		conn, err := mx.Dial(ctx, netip.AddrPortFrom(addr, s.options.Port), mx.DialOptions{Rules: rules, Timeout: s.within / 4})
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}
