package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const routeConfig = `hostname = "mx.example.test"
postmaster = "postmaster@example.test"
[domain."Example.TEST"]
catch_all = "Rest@elsewhere.test"
[domain."Example.TEST".aliases]
postmaster = "alice@example.test"
Team = ["alice@example.test", "Away@elsewhere.test"]
[domain."backup.test"]
accept = "relay"
[relay."backup.test"]
protocol = "lmtp"
hosts = ["unix:/run/store"]
[relay.".sub.test"]
hosts = ["smart.example.net:587"]
tls = "verify"
username = "me"
password = "very secret"
[forward]
srs_domain = "example.test"
srs_secrets = ["0123456789abcdef"]
[destination."elsewhere.test"]
tls = "require"
[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"
`

// TestRoute: each way with its rules, and where the file says so.
func TestRoute(t *testing.T) {
	name := writeConfig(t, routeConfig)
	if code, _, stderr := sluice(t, "secret password\n", "user", "add", "alice@example.test", "--password-stdin", "--config", name); code != exitDone {
		t.Fatal(stderr)
	}
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"ALICE@example.test"}, exitDone, []string{"account  the account alice@example.test  FILE:3", "-> mailbox of alice@example.test"}},
		{[]string{"alice+x@example.test"}, exitDone, []string{"subaddress  what follows + is a detail", "-> mailbox of alice@example.test"}},
		{[]string{"<Postmaster>"}, exitDone, []string{"Postmaster", "FILE:2", "alias", "FILE:6", "-> mailbox of alice@example.test"}},
		{[]string{"team+x@example.test", "--from", "s@example.net"}, exitDone, []string{"subaddress  the same as team@example.test", "to alice@example.test, Away@elsewhere.test ", "FILE:7",
			"-> Away@elsewhere.test at another server, from <SRS0=", "by its MX records, tls require", `[destination."elsewhere.test"]`}},
		{[]string{"who@example.test"}, exitDone, []string{"catch_all", "FILE:4", "-> Rest@elsewhere.test"}},
		{[]string{"X@backup.test"}, exitDone, []string{"relay domain", "FILE:9", "-> X@backup.test", "by [relay.backup.test] FILE:10: lmtp to unix:/run/store, tls opportunistic"}},
		{[]string{"x@a.sub.test"}, exitFailed, []string{"may not go there", "refused: 550 5.7.1"}},
		{[]string{"x@a.sub.test", "--origin", "login"}, exitDone, []string{"mail of origin login may go there", "by [relay..sub.test] FILE:13: smtp to smart.example.net:587, tls verify"}},
		{[]string{"x@[192.0.2.1]", "--origin", "trusted"}, exitFailed, []string{"refused: 550 5.1.2"}},
		{[]string{"SRS0=AAAAAAAA=AA=example.net=s@example.test"}, exitFailed, []string{"srs", "not one of ours", "FILE:19", "refused: 550 5.1.1"}},
		{[]string{"nonsense"}, exitFailed, []string{"refused: 553"}},
		{[]string{"a@b.test", "--origin", "friend"}, exitUsage, nil},
		{nil, exitUsage, nil},
	} {
		code, stdout, stderr := sluice(t, "", append([]string{"route", "--config", name}, c.args...)...)
		if code != c.code {
			t.Errorf("%v: status %d, %s", c.args, code, stderr)
		}
		stdout = strings.ReplaceAll(stdout, name, "FILE")
		for _, want := range c.want {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, stdout)
			}
		}
		if strings.Contains(stdout, "very secret") {
			t.Errorf("%v shows the password", c.args)
		}
	}
	code, stdout, stderr := sluice(t, "", "route", "--config", name, "--json", "Team@example.test", "--from", "s@example.net")
	var item routeItem
	if err := json.Unmarshal([]byte(stdout), &item); err != nil || code != exitDone {
		t.Fatal(err, stdout, stderr)
	}
	if len(item.Targets) != 2 || item.Targets[1].Address != "Away@elsewhere.test" || item.Targets[1].Transport != "mx" || item.Steps[0].Line != 7 || item.Reply != "250" {
		t.Errorf("%+v", item)
	}
}

// TestRouteAsksDNS: servers, their addresses, and what may not be used.
func TestRouteAsksDNS(t *testing.T) {
	server := &dns.Server{Addr: "127.0.0.1:0", Net: "udp", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		zone := `
fine.test. 60 IN MX 10 a.fine.test.
fine.test. 60 IN MX 20 b.fine.test.
a.fine.test. 60 IN A 198.18.0.1
a.fine.test. 60 IN A 1.2.3.4
b.fine.test. 60 IN A 127.0.0.1
null.test. 60 IN MX 0 .
ours.test. 60 IN MX 0 mx.example.test.
`
		reply := new(dns.Msg)
		reply.SetReply(q)
		known := false
		for line := range strings.Lines(zone) {
			rr, err := dns.NewRR(line)
			if err != nil || rr == nil || !strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
				continue
			}
			known = true
			if rr.Header().Rrtype == q.Question[0].Qtype {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		if !known {
			reply.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(reply)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ListenAndServe() }()
	<-started
	defer server.Shutdown()
	name := writeConfig(t, routeConfig+fmt.Sprintf("[dns]\nservers = [%q]\n", server.PacketConn.LocalAddr()))
	for domain, want := range map[string][]string{
		"fine.test": {"10 a.fine.test 1.2.3.4, tls opportunistic (default)", "20 b.fine.test", "may not be connected to"},
		"null.test": {"takes no mail"}, "ours.test": {"this one"}, "none.test": {"no such domain"},
	} {
		_, stdout, stderr := sluice(t, "", "route", "--config", name, "--origin", "login", "--dns", "x@"+domain)
		for _, w := range want {
			if !strings.Contains(stdout, w) {
				t.Errorf("no %q in\n%s%s", w, stdout, stderr)
			}
		}
	}
}
