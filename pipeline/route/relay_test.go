package route

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// tricks are addresses by which somebody might try to reach victim@elsewhere.test through us, and where they lead: "" is
// refused for everybody, "local" is delivered here, "backup" is passed on for everybody as the domain's table says, and
// anything else is the address at another server that only our own may write to.
var tricks = map[string]string{
	// plain
	"victim@elsewhere.test":      "victim@elsewhere.test",
	"Victim@ELSEWHERE.Test":      "Victim@elsewhere.test",
	"victim@elsewhere.test.":     "victim@elsewhere.test",
	"victim@mx.elsewhere.test":   "victim@mx.elsewhere.test",
	"victim@elsewhere":           "victim@elsewhere",
	"victim@localhost":           "victim@localhost",
	"victim@test":                "victim@test",
	"victim+tag@elsewhere.test":  "victim+tag@elsewhere.test",
	"postmaster@elsewhere.test":  "postmaster@elsewhere.test",
	"victim@mx.example.test":     "victim@mx.example.test", // our own name is no domain of ours
	"victim@under_score.test":    "victim@under_score.test",
	"victim@UNDER_score.test":    "victim@under_score.test",
	"victim@xn--bcher-kva.other": "victim@xn--bcher-kva.other",

	// a second address inside the local part
	"victim%elsewhere.test@example.test":            "",
	"victim%elsewhere.test%other.test@example.test": "",
	"victim%elsewhere.test":                         "",
	"elsewhere.test!victim@example.test":            "",
	"elsewhere.test!victim":                         "",
	"a!elsewhere.test!victim@example.test":          "",
	"victim@elsewhere.test@example.test":            "",
	`"victim@elsewhere.test"@example.test`:          "",
	`"victim@elsewhere.test"`:                       "",
	`"victim%elsewhere.test"@example.test`:          "",
	`"elsewhere.test!victim"@example.test`:          "",
	"victim=elsewhere.test@example.test":            "",
	"victim/elsewhere.test@example.test":            "",
	`"alice@example.test" <victim>@elsewhere.test`:  "",
	"smtp:victim@elsewhere.test":                    "",
	"victim@elsewhere.test,alice@example.test":      "",
	"victim@elsewhere.test alice@example.test":      "",
	"alice@example.test,victim@elsewhere.test":      "",

	// what looks like our domain, and is not
	"victim@sub.example.test":                              "victim@sub.example.test",
	"victim@example.test.elsewhere.test":                   "victim@example.test.elsewhere.test",
	"victim@notexample.test":                               "victim@notexample.test",
	"victim@example.test.example.test":                     "victim@example.test.example.test",
	"victim@ex\u0430mple.test":                             "victim@xn--exmple-4nf.test", // Cyrillic
	"victim@example.test\u200b":                            "",
	"victim@example.te\u00adst":                            "",      // a soft hyphen is dropped: our domain, where nobody is called so
	"alice@\uff45xample.test":                              "local", // full width: the same name
	"alice@example\u3002test":                              "local", // an ideographic full stop
	"victim@xn--bcher-kva.test.":                           "",
	"victim@sub.backup.test":                               "victim@sub.backup.test",
	"victim@BACKUP.test.":                                  "backup",
	"victim%elsewhere.test@backup.test":                    "backup", // the domain's own server may think of it what it likes
	"victim@[127.0.0.1]":                                   "",
	"alice@[127.0.0.1]":                                    "",
	"victim@[192.0.2.1]":                                   "",
	"victim@[IPv6:2001:db8::1]":                            "",
	"victim@[elsewhere.test]":                              "",
	"victim@127.0.0.1":                                     "",
	"victim@2130706433":                                    "",
	"victim@#2130706433":                                   "",
	"victim@elsewhere..test":                               "",
	"victim@.elsewhere.test":                               "",
	"victim@-elsewhere.test":                               "",
	"victim@elsewhere.test:25":                             "",
	"victim@elsewhere.test/x":                              "",
	"victim@elsewhere.test>":                               "",
	"victim@elsewhere.test\r\nDATA":                        "",
	"victim\r\nRCPT TO:<x@elsewhere.test":                  "",
	"\"victim\r\n\"@elsewhere.test":                        "",
	`"vic tim"@elsewhere.test`:                             `"vic tim"@elsewhere.test`,
	`"vic\"tim"@elsewhere.test`:                            `"vic\"tim"@elsewhere.test`,
	`"victim"@elsewhere.test`:                              "victim@elsewhere.test",
	`"vic"tim"@elsewhere.test`:                             "",
	".victim@elsewhere.test":                               "",
	"vic..tim@elsewhere.test":                              "",
	"@elsewhere.test":                                      "",
	"@example.test:victim@elsewhere.test":                  "", // receive takes a source route off before (RFC 5321 appendix C)
	"victim@":                                              "",
	"victim":                                               "",
	"victim\x00@elsewhere.test":                            "",
	strings.Repeat("v", 129) + "@elsewhere.test":           "",
	"victim@" + strings.Repeat("e", 64) + ".test":          "",
	"v@" + strings.Repeat("elsewhere.", 30) + "test":       "",
	"SRS0=AAAAAAAA=RQ=elsewhere.test=victim@example.test":  "",
	"SRS1=AAAAAAAA=elsewhere.test==x=y=z=v@example.test":   "",
	"\"SRS0=AAAAAAAA=RQ=elsewhere.test=v m\"@example.test": "",
	"srs0+victim@elsewhere.test":                           "srs0+victim@elsewhere.test",

	// what the administrator wrote
	"alice@example.test":   "local",
	"ALICE+x@EXAMPLE.test": "local",
	"Postmaster":           "local",
	"away@example.test":    "forward",
	"whoever@away.test":    "forward",
	"nobody@example.test":  "",
}

// TestRelayControl tries each trick from each origin (RULES D2, DRILLS E2.1).
func TestRelayControl(t *testing.T) {
	tb := table(t)
	s := New(tb, roomy{}, nil)
	for address, leads := range tricks {
		for _, origin := range []sdk.Origin{sdk.Stranger, sdk.LMTP, sdk.Login, sdk.Trusted, sdk.Generated, "", "anything"} {
			for _, sender := range []string{"s@example.net", ""} {
				m := &pipeline.Message{Origin: origin, Sender: sender}
				reply := s.Recipient(t.Context(), m, &pipeline.Recipient{Address: address})
				way, err := tb.Resolve(t.Context(), Asked{Address: address, Origin: origin, Sender: sender})
				if (err == nil) != reply.OK() {
					t.Fatalf("%q: %v and %v", address, err, reply)
				}
				got := told(way.Targets)
				ours := origin == sdk.Login || origin == sdk.Trusted || origin == sdk.Generated
				want := leads
				switch leads {
				case "local":
					want = "alice@example.test"
				case "backup":
					want = "-> " + strings.ToLower(strings.TrimSuffix(address, "."))
				case "forward":
					if want = "-> x@elsewhere.test through away@example.test"; address == "whoever@away.test" {
						want = "-> all@elsewhere.test through whoever@away.test"
					}
				case "":
				default:
					if want = "-> " + leads; !ours {
						want = ""
					}
				}
				if got != want {
					t.Errorf("%q of origin %q: %q, want %q (%v)", address, origin, got, want, err)
				}
				if want == "" && (reply.Code/100 != 5 || !errors.Is(err, ErrNotHosted) && !definite(err)) {
					t.Errorf("%q of origin %q: %v", address, origin, reply)
				}
			}
		}
	}
	if len(tricks) < 50 {
		t.Errorf("%d tricks", len(tricks))
	}
}

// TestTransport holds the order of RULES D2.
func TestTransport(t *testing.T) {
	tb := table(t)
	for domain, want := range map[string]string{
		"backup.test": "127.0.0.1:2600", "BACKUP.test.": "127.0.0.1:2600", "mx.backup.test": "smart.example.net:587",
		"elsewhere.test": "smart.example.net:587", "a.elsewhere.test": "sub.example.net:25", "a.b.elsewhere.test": "sub.example.net:25",
		"deep.elsewhere.test": "sub.example.net:25", "x.deep.elsewhere.test": "deep.example.net:25", "b\u00fccher.other": "smart.example.net:587",
		"test": "smart.example.net:587", "": "smart.example.net:587",
	} {
		if got := tb.Transport(domain); len(got.Hosts) != 1 || got.Hosts[0] != want {
			t.Errorf("%q: %v, want %s", domain, got, want)
		}
	}
	bare, err := NewTable(Options{Relays: map[string]Relay{"example.net": relay("a.example.net")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := bare.Transport("example.org"); got.Name != "" || got.Hosts != nil {
		t.Errorf("%+v, want MX", got)
	}
	if got := bare.Transport("example.net"); got.Name != "relay.example.net" || got.TLS != "opportunistic" || got.LMTP {
		t.Errorf("%+v", got)
	}
}

func TestVia(t *testing.T) {
	for text, want := range map[string]string{
		"smtp://mx.example.net:25": "smtp://mx.example.net:25", "smtp://MX.example.net": "smtp://mx.example.net:25", "lmtp://127.0.0.1:24": "lmtp://127.0.0.1:24",
		"lmtp:///run/lmtp": "lmtp:///run/lmtp", "smtp://[2001:db8::1]:26/": "smtp://[2001:db8::1]:26",
		"": "", "mx.example.net:25": "", "http://mx.example.net:25": "", "smtp://user@mx.example.net": "", "smtp://user:pw@mx.example.net": "",
		"lmtp://mx.example.net": "", "smtp:///run/smtp": "", "smtp://mx.example.net:25/path": "", "smtp://mx.example.net:25?x=1": "", "smtp://mx.example.net#x": "",
		"smtp://mx.example.net:0": "", "smtp://mx example": "", "smtp://mx.example.net:25\r\n": "", "smtps://mx.example.net:465": "", "lmtp://": "",
		"lmtp:///" + strings.Repeat("x", 120): "", "smtp://" + strings.Repeat("x.", 200) + "net": "",
	} {
		got, err := Via(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
}

func FuzzVia(f *testing.F) {
	for _, s := range []string{"smtp://a:1", "lmtp:///x", "smtp://[::1]:25", "lmtp://h:24/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		via, err := Via(text)
		if err != nil {
			return
		}
		u, err := url.Parse(via)
		if again, err2 := Via(via); err != nil || err2 != nil || again != via || u.User != nil || strings.ContainsAny(via, "\r\n\x00 ") {
			t.Errorf("%q: %q, again %q %v %v", text, via, again, err, err2)
		}
	})
}

func FuzzOnWire(f *testing.F) {
	for address := range tricks {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		wire, err := onWire(address)
		if err != nil {
			return
		}
		if again, err := onWire(wire); err != nil || again != wire {
			t.Errorf("%q: %q, again %q %v", address, wire, again, err)
		}
		if strings.ContainsAny(wire, "\r\n\x00") || !strings.HasPrefix(wire, `"`) && strings.ContainsAny(wire, "<> ") {
			t.Errorf("%q is written %q", address, wire)
		}
		if _, name, err := split(wire); err != nil || !hostName(name) {
			t.Errorf("%q is written %q: %v", address, wire, err)
		}
	})
}
