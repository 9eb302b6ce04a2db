package tlspolicy_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// BenchmarkResumption is a handshake of both sides, in full and resumed: why there is no session cache.
func BenchmarkResumption(b *testing.B) {
	ca := policytest.NewCA("authority", time.Now())
	server := &tls.Config{Certificates: []tls.Certificate{ca.Leaf("mx.example.test").TLS()}}
	for _, c := range []struct {
		name  string
		cache tls.ClientSessionCache
	}{{"full", nil}, {"resumed", tls.NewLRUClientSessionCache(16)}} {
		client := &tls.Config{ServerName: "mx.example.test", RootCAs: ca.Pool(), ClientSessionCache: c.cache}
		b.Run(c.name, func(b *testing.B) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					raw, err := listener.Accept()
					if err != nil {
						return
					}
					conn := tls.Server(raw, server)
					_, _ = conn.Write([]byte("x"))
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				}
			}()
			before := processorTime(b)
			defer func() { b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op") }()
			for b.Loop() {
				conn, err := tls.Dial("tcp", listener.Addr().String(), client)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = conn.Read(make([]byte, 1))
				conn.Close()
			}
		})
	}
}

// BenchmarkPolicy is what a message to a domain that publishes nothing costs, with the answers in the resolver's cache.
func BenchmarkPolicy(b *testing.B) {
	dns := resolvertest.New(resolvertest.MustParse("plain.test. MX 10 mx.plain.test.\nmx.plain.test. A 203.0.113.1\n"))
	finder := mx.New(mx.Options{DNS: dns, Hostname: "us.test"})
	policies := tlspolicy.New(tlspolicy.Options{DNS: dns, Remember: true})
	b.ReportAllocs()
	for b.Loop() {
		x, err := finder.Find(b.Context(), "plain.test")
		if err != nil {
			b.Fatal(err)
		}
		d, err := policies.Domain(b.Context(), tlspolicy.Asked{Domain: "plain.test", Exchangers: x, DANE: true, MTASTS: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Host(b.Context(), x.Hosts[0]); err != nil {
			b.Fatal(err)
		}
		if _, _, err := finder.Addresses(b.Context(), x.Hosts[0], mx.Rules{}); err != nil {
			b.Fatal(err)
		}
	}
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkCheck is what a message on a kept connection costs that has to be verified.
func BenchmarkCheck(b *testing.B) {
	ca := policytest.NewCA("authority", time.Now())
	dns := resolvertest.New(resolvertest.MustParse("plain.test. MX 10 mx.plain.test.\n"))
	x, err := mx.New(mx.Options{DNS: dns}).Find(b.Context(), "plain.test")
	if err != nil {
		b.Fatal(err)
	}
	policies := tlspolicy.New(tlspolicy.Options{DNS: dns, Roots: ca.Pool()})
	d, err := policies.Domain(b.Context(), tlspolicy.Asked{Domain: "plain.test", Exchangers: x, Level: "verify"})
	if err != nil {
		b.Fatal(err)
	}
	p, err := d.Host(b.Context(), x.Hosts[0])
	if err != nil {
		b.Fatal(err)
	}
	between := ca.Intermediate("between")
	leaf := between.Leaf("mx.plain.test")
	state := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{leaf.Cert, between.Cert}}
	verify := p.Config("mx.plain.test").VerifyConnection
	b.Run("handshake", func(b *testing.B) {
		for b.Loop() {
			if err := verify(state); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kept", func(b *testing.B) {
		for b.Loop() {
			if err := p.Check(&state); err != nil {
				b.Fatal(err)
			}
		}
	})
}
