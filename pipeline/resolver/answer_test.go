package resolver

import (
	"context"
	"encoding/hex"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// respondWith makes a resolver whose only server answers with a message of the test's making.
func respondWith(t testing.TB, make func(query *dns.Msg) *dns.Msg) *Resolver {
	t.Helper()
	config := DefaultConfig()
	config.Servers = []string{"192.0.2.53:53"}
	r, err := New(config, Options{Exchange: func(_ context.Context, _, _ string, query *dns.Msg) (*dns.Msg, error) {
		return make(query), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func record(t testing.TB, text string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

func TestRecordsOfOtherNamesAreIgnored(t *testing.T) {
	r := respondWith(t, func(query *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(query)
		m.Answer = []dns.RR{
			record(t, "victim.test. 300 A 203.0.113.1"),
			record(t, "example.test. 300 TXT \"not asked for\""),
			record(t, "EXAMPLE.test. 300 A 192.0.2.1"),
		}
		return m
	})
	got, err := r.LookupIP(t.Context(), "ip4", "example.test")
	if err != nil || len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.LookupIP(t.Context(), "ip4", "victim.test"); err == nil && got[0].String() == "192.0.2.1" {
		t.Error("an answer leaked to another name")
	}
}

func TestManyRecordsAreCut(t *testing.T) {
	r := respondWith(t, func(query *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(query)
		for range 1000 {
			m.Answer = append(m.Answer, record(t, "example.test. 300 MX 10 mx.example.test."))
		}
		return m
	})
	got, err := r.LookupMX(t.Context(), "example.test")
	if err != nil || len(got) != maxRecords {
		t.Errorf("got %d, %v; want %d", len(got), err, maxRecords)
	}
}

func TestChainOverSeveralAnswers(t *testing.T) {
	r := respondWith(t, func(query *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(query)
		switch query.Question[0].Name {
		case "a.test.":
			m.Answer = []dns.RR{record(t, "a.test. 300 CNAME b.test.")}
		case "b.test.":
			m.Answer = []dns.RR{record(t, "b.test. 300 A 192.0.2.1")}
		case "endless.test.", "x.endless.test.":
			m.Answer = []dns.RR{record(t, query.Question[0].Name+" 300 CNAME x.endless.test.")}
		}
		return m
	})
	if got, err := r.LookupIP(t.Context(), "ip4", "a.test"); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := r.LookupIP(t.Context(), "ip4", "endless.test"); !notFound(err) {
		t.Errorf("endless chain: %v", err)
	}
}

// TestSecureOverSeveralAnswers: the AD bit is that of one answer, and the chain is as good as the worst.
func TestSecureOverSeveralAnswers(t *testing.T) {
	for _, c := range []struct{ first, second, want bool }{{true, true, true}, {false, true, false}, {true, false, false}, {false, false, false}} {
		r := respondWith(t, func(query *dns.Msg) *dns.Msg {
			m := new(dns.Msg)
			m.SetReply(query)
			switch query.Question[0].Name {
			case "a.test.":
				m.Answer, m.AuthenticatedData = []dns.RR{record(t, "a.test. 300 CNAME b.test.")}, c.first
			case "b.test.":
				m.Answer, m.AuthenticatedData = []dns.RR{record(t, "b.test. 300 A 192.0.2.1")}, c.second
			}
			return m
		})
		r.config.TrustAD = true
		if a, err := r.SecureIP(t.Context(), "ip4", "a.test"); err != nil || a.Secure != c.want || a.Name != "b.test" {
			t.Errorf("%+v: got %+v, %v", c, a, err)
		}
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	r := respondWith(t, func(query *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		if query.IsEdns0() != nil {
			m.SetRcode(query, dns.RcodeFormatError)
			return m
		}
		m.SetReply(query)
		m.Answer = []dns.RR{record(t, "old.test. 300 A 192.0.2.1")}
		return m
	})
	if got, err := r.LookupIP(t.Context(), "ip4", "old.test"); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestStrayDatagrams lets a server send rubbish, a wrong ID and a wrong question before the answer.
func TestStrayDatagrams(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			query := new(dns.Msg)
			if query.Unpack(buf[:n]) != nil {
				continue
			}
			good := new(dns.Msg)
			good.SetReply(query)
			good.Answer = []dns.RR{record(t, "example.test. 300 A 192.0.2.1")}
			wrongID, wrongName := good.Copy(), good.Copy()
			wrongID.Id++
			wrongID.Answer = []dns.RR{record(t, "example.test. 300 A 203.0.113.1")}
			wrongName.Question[0].Name = "other.test."
			_, _ = conn.WriteTo([]byte("rubbish"), peer)
			for _, m := range []*dns.Msg{wrongID, wrongName, good} {
				if wire, err := m.Pack(); err == nil {
					_, _ = conn.WriteTo(wire, peer)
				}
			}
		}
	}()
	config := DefaultConfig()
	config.Servers = []string{conn.LocalAddr().String()}
	r, err := New(config, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.LookupIP(t.Context(), "ip4", "example.test")
	if err != nil || len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		``: ``, `plain`: `plain`, `\"`: `"`, `a\\b`: `a\b`, `\200x`: "\xc8x", `\20`: `20`, `end\`: `end\`, `\;\000`: ";\x00", `\\200`: `\200`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzAnswer: whatever a server sends, reading it ends, stays within the bounds and gives records or an error.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"example.test. 300 A 192.0.2.1", "example.test. 300 CNAME example.test.", "example.test. 300 MX 10 a\\.b.test.",
		`example.test. 300 TXT "v=spf1 \200 -all"`, "example.test. 300 PTR mx.example.test.", "example.test. 300 AAAA 2001:db8::1",
		"example.test. 300 TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", "example.test. 300 TLSA 255 255 255 00",
	} {
		m := new(dns.Msg)
		m.SetQuestion("example.test.", record(f, text).Header().Rrtype)
		m.Response = true
		m.Answer = []dns.RR{record(f, text)}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint16(record(f, text).Header().Rrtype))
	}
	nx, _ := hex.DecodeString("000084030001000000000000076578616d706c6504746573740000010001")
	f.Add(nx, dns.TypeA)
	config := DefaultConfig()
	config.Servers = []string{"192.0.2.53:53"}
	r, err := New(config, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wire []byte, qtype uint16) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		k := key{"example.test", qtype}
		answers(m, r.query(k))
		a, next, ttl := r.read(m, k)
		if ttl < 0 || ttl > 24*time.Hour {
			t.Errorf("ttl %s", ttl)
		}
		if a == nil {
			if _, ok := normalize(next); !ok {
				t.Errorf("next name %q", next)
			}
			return
		}
		records := len(a.texts) + len(a.exchangers) + len(a.addrs) + len(a.names) + len(a.tlsas) + len(a.services)
		if a.secure {
			t.Error("secure, and nobody trusts the server")
		}
		if (records == 0) != (a.err != nil) || records > maxRecords || a.size() > 1<<20 || a.ttl > ttl {
			t.Errorf("%d records, %d octets, ttl %s of %s, err %v", records, a.size(), a.ttl, ttl, a.err)
		}
		for _, mx := range a.exchangers {
			if _, ok := normalize(mx.Host); !ok && mx.Host != "." {
				t.Errorf("host %q", mx.Host)
			}
		}
	})
}
