package dnsbl

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/sdk"
)

// zone is a DNS server with the names that lists have.
type zone struct {
	mu      sync.Mutex
	records map[string][]string // name: addresses; "SERVFAIL", "SILENT" or "TRUNCATE" in place of one
	asked   atomic.Int32
	address string
}

func startZone(t *testing.T, records map[string][]string) *zone {
	t.Helper()
	z := &zone{records: records}
	tcp, udp := listenBoth(t)
	z.address = udp.LocalAddr().String()
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: z}, {Listener: tcp, Handler: z}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return z
}

// listenBoth finds a port that is free for both.
func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if udp, err := net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return tcp, udp
		}
		_ = tcp.Close()
	}
	t.Fatal("no port is free for TCP and UDP")
	return nil, nil
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.asked.Add(1)
	r := new(dns.Msg)
	r.SetReply(q)
	z.mu.Lock()
	list := z.records[strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")]
	z.mu.Unlock()
	if list == nil {
		r.Rcode = dns.RcodeNameError
	}
	for _, a := range list {
		switch {
		case a == "SILENT":
			return
		case a == "SERVFAIL":
			r.Rcode = dns.RcodeServerFailure
		case a == "TRUNCATE":
			if w.LocalAddr().Network() == "udp" {
				r.Truncated, r.Answer = true, nil
				_ = w.WriteMsg(r)
				return
			}
		default:
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + a)
			r.Answer = append(r.Answer, rr)
		}
	}
	_ = w.WriteMsg(r)
}

func (z *zone) set(name string, addresses ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = addresses
}

func start(t *testing.T, z *zone, config map[string]any) *plugin {
	t.Helper()
	p := New().(*plugin)
	config["servers"] = []any{z.address}
	if config["timeout"] == nil {
		config["timeout"] = "1s"
	}
	if err := p.Configure(context.Background(), sdk.Settings{Config: config}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func connect(addr string) *sdk.Message {
	return &sdk.Message{Phase: sdk.PhaseConnect, Envelope: sdk.Envelope{Origin: sdk.Stranger, ClientAddr: addr}}
}

var lists = map[string]any{
	"bl.example": map[string]any{"weight": 4.0},
	"zen.example": map[string]any{
		"weight": int64(0), "answers": map[string]any{"127.0.0.2": 5.0, "127.0.0.8/29": 2.5, "127.0.0.9": 0.0}, "refuse": true, "text": "{what} blocked, see {zone}",
	},
	"good.example": map[string]any{"weight": -3.0, "refuse": true},
	"one.example":  map[string]any{"answers": map[string]any{"127.0.0.1": 1.5}},
	"dead.example": map[string]any{"weight": 1.0},
}

func TestClients(t *testing.T) {
	z := startZone(t, map[string][]string{
		"1.2.0.192.bl.example":    {"127.0.0.2"},
		"2.2.0.192.zen.example":   {"127.0.0.2", "127.0.0.10"},
		"3.2.0.192.zen.example":   {"127.0.0.10"},
		"4.2.0.192.zen.example":   {"127.0.0.3"}, // not in its answers
		"12.2.0.192.bl.example":   {"127.0.0.1"}, // "you may not ask"
		"13.2.0.192.zen.example":  {"127.0.0.9"}, // names it to leave it out
		"14.2.0.192.zen.example":  {"127.0.0.9", "127.0.0.10"},
		"15.2.0.192.one.example":  {"127.0.0.1"}, // it means something by it
		"5.2.0.192.good.example":  {"127.0.10.1"},
		"6.2.0.192.bl.example":    {"192.0.2.99"}, // a resolver that lies
		"7.2.0.192.bl.example":    {"127.255.255.254"},
		"8.2.0.192.bl.example":    {"TRUNCATE", "127.0.0.2"},
		"9.2.0.192.bl.example":    {"SERVFAIL"},
		"10.2.0.192.bl.example":   {"SILENT"},
		"11.2.0.192.dead.example": {"127.0.0.2"},
		"1.0.0.127.dead.example":  {"127.0.0.2"}, // lists the world
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example": {"127.0.0.2"},
	})
	p := start(t, z, map[string]any{"addresses": lists})
	for name, c := range map[string]struct {
		addr   string
		score  float64
		action sdk.Action
		symbol string // one that must be there; "": none at all
	}{
		"clean":             {"192.0.2.250", 0, sdk.Accept, ""},
		"listed":            {"192.0.2.1", 4, sdk.Accept, "DNSBL_BL_EXAMPLE"},
		"the heaviest once": {"192.0.2.2", 5, sdk.Reject, "DNSBL_ZEN_EXAMPLE"},
		"a range":           {"192.0.2.3", 2.5, sdk.Reject, "DNSBL_ZEN_EXAMPLE"},
		"another answer":    {"192.0.2.4", 0, sdk.Accept, ""},
		"a list of good":    {"192.0.2.5", -3, sdk.Accept, "DNSBL_GOOD_EXAMPLE"},
		"a lie":             {"192.0.2.6", 0, sdk.Accept, "DNSBL_FAILED"},
		"an error code":     {"192.0.2.7", 0, sdk.Accept, "DNSBL_FAILED"},
		"a refusal":         {"192.0.2.12", 0, sdk.Accept, "DNSBL_FAILED"},
		"left out":          {"192.0.2.13", 0, sdk.Accept, ""},
		"left out beside":   {"192.0.2.14", 2.5, sdk.Reject, "DNSBL_ZEN_EXAMPLE"},
		"127.0.0.1 named":   {"192.0.2.15", 1.5, sdk.Accept, "DNSBL_ONE_EXAMPLE"},
		"over TCP":          {"192.0.2.8", 4, sdk.Accept, "DNSBL_BL_EXAMPLE"},
		"SERVFAIL":          {"192.0.2.9", 0, sdk.Accept, "DNSBL_FAILED"},
		"silence":           {"192.0.2.10", 0, sdk.Accept, "DNSBL_FAILED"},
		"a dead list":       {"192.0.2.11", 0, sdk.Accept, ""},
		"IPv6":              {"2001:db8::1", 4, sdk.Accept, "DNSBL_BL_EXAMPLE"},
		"a mapped address":  {"::ffff:192.0.2.1", 4, sdk.Accept, "DNSBL_BL_EXAMPLE"},
		"private":           {"10.0.0.1", 0, sdk.Accept, ""},
		"loopback":          {"127.0.0.1", 0, sdk.Accept, ""},
		"nobody":            {"", 0, sdk.Accept, ""},
	} {
		v, err := p.Ask(context.Background(), connect(c.addr))
		if err != nil || v.Score != c.score || v.Action != c.action {
			t.Errorf("%s: %+v %v, want %v and %v", name, v, err, c.score, c.action)
		}
		v.Reasons = slices.DeleteFunc(v.Reasons, func(r sdk.Reason) bool { return r.Text == "dead.example: "+errBroken.Error() })
		found := c.symbol == "" && len(v.Reasons) == 0
		for _, r := range v.Reasons {
			found = found || r.Symbol == c.symbol
		}
		if !found {
			t.Errorf("%s: reasons %+v, want %q", name, v.Reasons, c.symbol)
		}
		if v.Action == sdk.Reject && v.Reply.Text != strings.TrimPrefix(c.addr, "::ffff:")+" blocked, see zen.example" {
			t.Errorf("%s: %+v", name, v.Reply)
		}
	}
}

// TestNobodyAnswers: then the plugin has no opinion, and says so by an error.
func TestNobodyAnswers(t *testing.T) {
	z := startZone(t, map[string][]string{"1.2.0.192.bl.example": {"SILENT"}})
	p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{}}, "timeout": "200ms"})
	begin := time.Now()
	if v, err := p.Ask(context.Background(), connect("192.0.2.1")); err == nil {
		t.Errorf("%+v", v)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestAnswersAreKept(t *testing.T) {
	z := startZone(t, map[string][]string{"1.2.0.192.bl.example": {"127.0.0.2"}})
	p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{"test": false}}})
	for range 10 {
		for _, a := range []string{"192.0.2.1", "192.0.2.77"} {
			if _, err := p.Ask(context.Background(), connect(a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := z.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
	c := p.dns
	c.limit = 100
	for i := range 1000 {
		c.mu.Lock()
		if len(c.cache) >= c.limit {
			c.forget()
		}
		c.cache[string(rune(i))] = cached{until: time.Now().Add(time.Hour)}
		n := len(c.cache)
		c.mu.Unlock()
		if n > 100 {
			t.Fatalf("%d answers are kept", n)
		}
	}
}

func content(header string, urls ...string) *sdk.Message {
	return &sdk.Message{
		Phase: sdk.PhaseContent, Envelope: sdk.Envelope{Origin: sdk.Stranger, Sender: "x@bounce.sender.example"},
		Content: strings.NewReader(header + "\r\n\r\n"),
		Parsed:  func() (*sdk.Parsed, error) { return &sdk.Parsed{URLs: urls}, nil },
	}
}

func TestDomains(t *testing.T) {
	z := startZone(t, map[string][]string{
		"bad.example.dbl.example":           {"127.0.1.2"},
		"sender.example.dbl.example":        {"127.0.1.3"},
		"xn--bcher-kva.example.dbl.example": {"127.0.1.2"},
	})
	config := func() map[string]any {
		return map[string]any{"domains": map[string]any{"dbl.example": map[string]any{"answers": map[string]any{"127.0.1.3": 1.0}, "weight": 6.0}}, "exempt": []any{"fine.example"}}
	}
	for name, c := range map[string]struct {
		m    *sdk.Message
		want float64
	}{
		"sender":          {content("From: a@clean.example"), 1},
		"From":            {content("From: \"x@clean.example\" <a@www.BAD.example>"), 6},
		"broken From":     {content("From: a b c <<x@bad.example>"), 6},
		"second From":     {content("From: a@clean.example\r\nFrom: a@bad.example"), 6},
		"link":            {content("From: a@clean.example", "https://user:pw@click.bad.example:8443/x?y"), 6},
		"IDN link":        {content("From: a@clean.example", "http://bücher.example/"), 6},
		"address in link": {content("From: a@clean.example", "http://192.0.2.1/"), 1},
		"two before it":   {content("From: a@clean.example", "http://clean.example@bad.example/", "x"), 6},
		"backslash":       {content("From: a@clean.example", `http://bad.example\@clean.example/`), 6},
		"no slashes":      {content("From: a@clean.example", "https:bad.example/"), 6},
		"many slashes":    {content("From: a@clean.example", "https:////bad.example/"), 6},
		"a bad port":      {content("From: a@clean.example", "http://bad.example:80x/"), 6},
		"percent":         {content("From: a@clean.example", "http://b%61d.example/"), 6},
		"an underscore":   {content("From: a@clean.example", "http://a_b.bad.example/"), 6},
		"hyphens":         {content("From: a@clean.example", "http://r3---x.bad.example/"), 6},
		"a false xn":      {content("From: a@clean.example", "http://xn--\u00ff.bad.example/"), 6},
		"trailing dots":   {content("From: a@clean.example", "http://bad.example../"), 6},
		"a wide dot":      {content("From: a@clean.example", "http://bad\u3002example\uff0e/"), 6},
		"wide letters":    {content("From: a@clean.example", "http://\uff42ad.example/"), 6},
		"punycode":        {content("From: a@clean.example", "http://XN--bcher-KVA.example/"), 6},
		"behind a fault":  {content("Subject: x\r\nno field\r\n\u00fc: y\r\nFrom : a@bad.example"), 6},
		"an odd address":  {content("From: x <a@bad.example> y@clean.example"), 6},
		"not a link":      {content("From: a@clean.example", "http://%zz"), 1},
	} {
		v, err := start(t, z, config()).Ask(context.Background(), c.m)
		if err != nil || v.Score != c.want {
			t.Errorf("%s: %+v %v, want %v", name, v, err, c.want)
		}
	}
	quoted := content("From: a@clean.example")
	quoted.Sender = "\"x@fine.example\"@bad.example"
	if v, err := start(t, z, config()).Ask(context.Background(), quoted); err != nil || v.Score != 6 {
		t.Errorf("a quoted local part: %+v %v", v, err)
	}
	many := make([]string, 500)
	for i := range many {
		many[i] = "http://" + strings.Repeat("a", i%60+1) + string(rune('a'+i%26)) + ".example/"
	}
	if v, err := start(t, z, config()).Ask(context.Background(), content("From: a@clean.example", append(many, "http://bad.example")...)); err != nil || v.Score != 6 {
		t.Errorf("behind many: %+v %v", v, err)
	}
	p := start(t, z, config())
	before := z.asked.Load()
	if _, err := p.Ask(context.Background(), content("From: a@clean.example", many...)); err != nil {
		t.Fatal(err)
	}
	if n := z.asked.Load() - before; n > maxDomains+2 {
		t.Errorf("%d questions for one message", n)
	}
}

func TestAListThatRecovers(t *testing.T) {
	z := startZone(t, map[string][]string{"1.0.0.127.bl.example": {"127.0.0.2"}, "1.2.0.192.bl.example": {"127.0.0.2"}})
	p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{}}})
	p.tryList(p.lists[0])
	if v, _ := p.Ask(context.Background(), connect("192.0.2.1")); v.Score != 0 {
		t.Errorf("a list of the world counts: %+v", v)
	}
	status := func() string {
		v, _ := p.Ask(context.Background(), &sdk.Message{Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, Words: []string{"status"}}})
		return v.Reasons[0].Text
	}
	if !strings.Contains(status(), "not believed") {
		t.Error(status())
	}
	z.set("1.0.0.127.bl.example")
	p.tryList(p.lists[0])
	if v, _ := p.Ask(context.Background(), connect("192.0.2.1")); v.Score != 1 {
		t.Errorf("a list that recovered does not count: %+v", v)
	}
	if !strings.Contains(status(), "in use") {
		t.Error(status())
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, config := range map[string]map[string]any{
		"servers[1]":                            {"servers": []any{"localhost"}},
		"exempt[1]":                             {"exempt": []any{"www.example.org"}},
		"timeout":                               {"timeout": "1h"},
		"cache_entries":                         {"cache_entries": int64(0)},
		"addresses.bl.example.wieght":           {"addresses": map[string]any{"bl.example": map[string]any{"wieght": 1.0}}},
		"addresses.bl.example.answers.10.0.0.1": {"addresses": map[string]any{"bl.example": map[string]any{"answers": map[string]any{"10.0.0.1": 1.0}}}},
		"domains.nodots":                        {"domains": map[string]any{"nodots": map[string]any{}}},
		"domains.a b.example":                   {"domains": map[string]any{"a b.example": map[string]any{}}},
		"domains.http://bl.example":             {"domains": map[string]any{"http://bl.example": map[string]any{}}},
		"domains.bl.example.symbol":             {"domains": map[string]any{"bl.example": map[string]any{"symbol": ""}}},
		"addresses.bl.example.symbol":           {"addresses": map[string]any{"bl.example": map[string]any{"symbol": "A B"}}},
		"addresses.bl.example.weight":           {"addresses": map[string]any{"bl.example": map[string]any{"weight": int64(0), "refuse": true}}},
	} {
		p := New().(*plugin)
		err := p.Configure(context.Background(), sdk.Settings{Config: config})
		if err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
			_ = p.Close()
		}
	}
}

func FuzzFromDomains(f *testing.F) {
	f.Add("From: a@example.org\r\n\r\n")
	f.Add("From: <@@>,;x@y@z <\r\n\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		d := &domains{seen: make(map[string]bool)}
		for _, name := range fromDomains(strings.NewReader(header)) {
			d.add(name)
		}
		if len(d.list) > maxDomains {
			t.Errorf("%d domains", len(d.list))
		}
		for _, s := range d.list {
			if _, ok := dns.IsDomainName(s.label + ".dbl.example."); !ok {
				t.Errorf("%q is no label", s.label)
			}
		}
	})
}

// TestBrokenFromTheStart: a list of the world is not believed even by the first question, and if there is no other, there is no
// opinion.
func TestBrokenFromTheStart(t *testing.T) {
	z := startZone(t, map[string][]string{"1.0.0.127.bl.example": {"127.0.0.2"}, "1.2.0.192.bl.example": {"127.0.0.2"}})
	for range 20 {
		p := start(t, z, map[string]any{"addresses": map[string]any{"bl.example": map[string]any{"refuse": true}}})
		if v, err := p.Ask(context.Background(), connect("192.0.2.1")); err == nil {
			t.Fatalf("%+v", v)
		}
	}
}
