package resolver

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/units"
)

// TestTruncatedAndNoMore (DRILLS E5.4): an answer that was cut short, of a server that cannot be reached by TCP, or goes away
// there, is a failure for now; what there is of it, or that there is nothing, is not taken for the whole.
func TestTruncatedAndNoMore(t *testing.T) {
	for _, how := range []string{"refused", "closed", "half"} {
		for _, records := range []int{0, 1} {
			t.Run(fmt.Sprint(how, " ", records), func(t *testing.T) {
				addr := cutShort(t, how, records)
				config := DefaultConfig()
				config.Servers, config.Timeout, config.Deadline = []string{addr}, units.Of(300*time.Millisecond), units.Of(time.Second)
				r, err := New(config, Options{})
				if err != nil {
					t.Fatal(err)
				}
				got, err := r.LookupMX(t.Context(), "example.test")
				var e *net.DNSError
				if !errors.As(err, &e) || !e.IsTemporary || e.IsNotFound || len(got) > 0 {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
	}
}

// cutShort is a server that answers by UDP with TC and so many records.
func cutShort(t *testing.T, how string, records int) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		t.Skip(err) // somebody has that port
	}
	t.Cleanup(func() { packets.Close(); listener.Close() })
	if how == "refused" {
		listener.Close()
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if how == "half" {
				_, _ = conn.Write([]byte{0xff, 0xff, 1, 2, 3})
			}
			conn.Close()
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			query := new(dns.Msg)
			if query.Unpack(buf[:n]) != nil {
				continue
			}
			m := new(dns.Msg).SetReply(query)
			m.Truncated = true
			for range records {
				m.Answer = append(m.Answer, record(t, "example.test. 300 MX 10 mx.example.test."))
			}
			if wire, err := m.Pack(); err == nil {
				_, _ = packets.WriteTo(wire, peer)
			}
		}
	}()
	return packets.LocalAddr().String()
}

// TestHeavyAnswers (DRILLS E5.4, CVE-2023-50387): keys and signatures that a validator would try one with each other, and chains of
// aliases, cost us no more than to read them. We do not validate, and what nobody vouches for is not secure.
func TestHeavyAnswers(t *testing.T) {
	asked := 0
	r := respondWith(t, func(query *dns.Msg) *dns.Msg {
		asked++
		m := new(dns.Msg).SetReply(query)
		name := query.Question[0].Name
		switch {
		case strings.HasPrefix(name, "keytrap"): // each signature may be of each key
			for range 120 {
				m.Answer = append(m.Answer, &dns.DNSKEY{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60},
					Flags: 257, Protocol: 3, Algorithm: 14, PublicKey: strings.Repeat("AAAA", 64)})
				m.Answer = append(m.Answer, &dns.RRSIG{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: 60},
					TypeCovered: dns.TypeA, Algorithm: 14, Labels: 2, OrigTtl: 60, KeyTag: 7, SignerName: name, Signature: strings.Repeat("AAAA", 32)})
			}
			m.Answer = append(m.Answer, record(t, name+" 60 A 192.0.2.1"))
		case strings.HasPrefix(name, "nsec3"): // CVE-2023-50868: the most iterations
			for i := range 100 {
				m.Ns = append(m.Ns, &dns.NSEC3{Hdr: dns.RR_Header{Name: fmt.Sprintf("%032d.test.", i), Rrtype: dns.TypeNSEC3, Class: dns.ClassINET, Ttl: 60},
					Hash: 1, Iterations: 65535, SaltLength: 4, Salt: "aabbccdd", HashLength: 20, NextDomain: strings.Repeat("0", 32)})
			}
			m.Rcode = dns.RcodeNameError
		case strings.HasPrefix(name, "aliases"): // all in one answer, the first at the end
			for i := 1000; i > 0; i-- {
				m.Answer = append(m.Answer, record(t, fmt.Sprintf("x%d.test. 60 CNAME x%d.test.", i, i+1)))
			}
			m.Answer = append(m.Answer, record(t, name+" 60 CNAME x1.test."))
		default: // and of one to the next
			m.Answer = append(m.Answer, record(t, name+" 0 CNAME x"+name))
		}
		return m
	})
	for name, most := range map[string]int{"keytrap.test": 1, "nsec3.test": 1, "aliases.test": 12, "endless.test": 12} {
		asked = 0
		start := time.Now()
		a, err := r.SecureIP(t.Context(), "ip4", name)
		if (err == nil) != (name == "keytrap.test") || a.Secure || asked > most {
			t.Errorf("%s: %+v, %v, asked %d times", name, a, err, asked)
		}
		if took := time.Since(start); took > 2*time.Second { // milliseconds, but for the race detector
			t.Errorf("%s took %v", name, took)
		}
	}
}
