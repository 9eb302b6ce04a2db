package tlsrpt_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func collector(t *testing.T, clock *policytest.Clock, cache tlsrpt.Cache) *tlsrpt.Collector {
	t.Helper()
	c := tlsrpt.New(tlsrpt.Options{Cache: cache, Now: clock.Now})
	t.Cleanup(c.Close)
	return c
}

func take(t *testing.T, c *tlsrpt.Collector, day time.Time) string {
	t.Helper()
	all, err := c.Take(t.Context(), day)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range all {
		if !s.Day.Equal(day.Truncate(24 * time.Hour)) {
			t.Errorf("%s: day %s", s.Domain, s.Day)
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", s.Domain, raw)
	}
	return b.String()
}

// TestSummary has the figures of RFC 8460 appendix B.
func TestSummary(t *testing.T) {
	clock := policytest.NewClock(noon)
	cache := &policytest.Cache{Now: clock.Now}
	policy := tlsrpt.Policy{
		Type: tlsrpt.TypeSTS, Domain: "company-y.example", MXHost: []string{"*.mail.company-y.example"},
		String: []string{"version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"},
	}
	tell := func(c *tlsrpt.Collector) {
		for range 5326 {
			c.Success("company-y.example", policy)
		}
		for range 100 {
			c.Failure("company-y.example", policy, tlsrpt.Failure{
				Type: tlsrpt.CertificateExpired, SendingIP: "2001:db8:abcd:0012::1", MXHostname: "mx1.mail.company-y.example",
			})
		}
		for range 200 {
			c.Failure("company-y.example", policy, tlsrpt.Failure{
				Type: tlsrpt.STARTTLSNotSupported, SendingIP: "2001:db8:abcd:0013::1", MXHostname: "mx2.mail.company-y.example",
				IP: "203.0.113.56", Info: "https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported",
			})
		}
		for range 3 {
			c.Failure("company-y.example", policy, tlsrpt.Failure{
				Type: tlsrpt.ValidationFailure, SendingIP: "198.51.100.62", IP: "203.0.113.58", MXHostname: "mx-backup.mail.company-y.example",
				Code: "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
			})
		}
	}
	const want = `company-y.example {"policies":[{"policy":{"policy-type":"sts","policy-string":["version: STSv1","mode: testing","mx: *.mail.company-y.example","max_age: 86400"],"policy-domain":"company-y.example","mx-host":["*.mail.company-y.example"]},"summary":{"total-successful-session-count":5326,"total-failure-session-count":303},"failure-details":[{"result-type":"starttls-not-supported","sending-mta-ip":"2001:db8:abcd:0013::1","receiving-mx-hostname":"mx2.mail.company-y.example","receiving-ip":"203.0.113.56","additional-information":"https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported","failed-session-count":200},{"result-type":"certificate-expired","sending-mta-ip":"2001:db8:abcd:0012::1","receiving-mx-hostname":"mx1.mail.company-y.example","failed-session-count":100},{"result-type":"validation-failure","sending-mta-ip":"198.51.100.62","receiving-mx-hostname":"mx-backup.mail.company-y.example","receiving-ip":"203.0.113.58","failure-reason-code":"X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED","failed-session-count":3}]}]}
`
	c := collector(t, clock, cache)
	tell(c)
	if got := take(t, c, noon); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.Close()
	c = collector(t, clock, cache) // a restart
	if got := take(t, c, noon); got != want {
		t.Errorf("after a restart: got\n%s", got)
	}
	c.Close()
	c = collector(t, clock, cache) // and another, with more on top before anybody looks
	tell(c)
	c.Save(t.Context())
	c.Save(t.Context())
	doubled := strings.NewReplacer("5326", "10652", ":303", ":606", ":200", ":400", ":100}", ":200}", ":3}", ":6}").Replace(want)
	if got := take(t, c, noon); got != doubled {
		t.Errorf("after two restarts: got\n%s\nwant\n%s", got, doubled)
	}
	if got := take(t, c, noon.Add(24*time.Hour)); got != "" {
		t.Errorf("the next day: %s", got)
	}
	if err := c.Forget(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := take(t, collector(t, clock, cache), noon); got != "" {
		t.Errorf("forgotten: %s", got)
	}
}

// TestDays: a day ends at midnight UTC (RFC 8460 section 4.1).
func TestDays(t *testing.T) {
	clock := policytest.NewClock(noon.Add(12*time.Hour - time.Second))
	c := collector(t, clock, nil)
	c.Success("a.test", tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: "a.test"})
	clock.Move(time.Second)
	c.Success("b.test", tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: "b.test"})
	for day, want := range map[time.Time]string{noon: "a.test ", noon.Add(24 * time.Hour): "b.test "} {
		if got := take(t, c, day); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %s", day, got)
		}
	}
}

func TestBounds(t *testing.T) {
	clock := policytest.NewClock(noon)
	cache := &policytest.Cache{Now: clock.Now}
	c := collector(t, clock, cache)
	for i := range 11_000 {
		name := fmt.Sprintf("d%d.test", i)
		c.Success(name, tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: name})
	}
	if n := c.Dropped(); n != 1000 {
		t.Errorf("%d dropped", n)
	}
	long := strings.Repeat("\x00é", 1000)
	for i := range 1000 {
		policy := tlsrpt.Policy{Type: tlsrpt.TypeTLSA, Domain: fmt.Sprintf("mx%d.test", i), String: make([]string, 1000), MXHost: []string{long}}
		c.Failure("d1.test", policy, tlsrpt.Failure{Type: tlsrpt.ValidationFailure, MXHelo: long, Code: long, Info: long, MXHostname: long})
	}
	for i := range 1000 {
		c.Failure("d2.test", tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: "d2.test"}, tlsrpt.Failure{Type: tlsrpt.ValidationFailure, Code: fmt.Sprint(i)})
	}
	all, err := c.Take(t.Context(), noon)
	if err != nil || len(all) != 10_000 {
		t.Fatalf("%d, %v", len(all), err)
	}
	for _, s := range all {
		raw, err := json.Marshal(s)
		if err != nil || len(raw) > 100<<10 || strings.ContainsAny(string(raw), "\x00\\") {
			t.Errorf("%s: %d octets, %v", s.Domain, len(raw), err)
		}
		if s.Domain == "d2.test" && (s.Policies[0].Totals.Failure != 1000 || len(s.Policies[0].Details) != 50) {
			t.Errorf("d2.test: %+v", s.Policies[0].Totals)
		}
	}
	c.Save(t.Context())
	if n := cache.Largest(); n > 1<<20 {
		t.Errorf("a value of %d octets", n)
	}
	clock.Move(24 * time.Hour)
	for range 10 { // old days go from memory, and are in the cache
		c.Success("a.test", tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: "a.test"})
		c.Save(t.Context())
		clock.Move(24 * time.Hour)
	}
	if got := take(t, c, noon.Add(6*24*time.Hour)); !strings.HasPrefix(got, "a.test ") {
		t.Errorf("a day of a week ago: %q", got)
	}
}

// TestBrokenCache: what could not be saved is not lost, and not counted twice afterwards.
func TestBrokenCache(t *testing.T) {
	clock := policytest.NewClock(noon)
	cache := &policytest.Cache{Now: clock.Now}
	c := collector(t, clock, cache)
	cache.Break(true)
	c.Success("a.test", tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: "a.test"})
	c.Save(t.Context())
	if _, err := c.Take(t.Context(), noon); err == nil {
		t.Error("no error of the cache")
	}
	cache.Break(false)
	c.Save(t.Context())
	c.Save(t.Context())
	c.Close()
	if got := take(t, collector(t, clock, cache), noon); !strings.Contains(got, `"total-successful-session-count":1,`) {
		t.Errorf("got %s", got)
	}
}

func TestAtOnce(t *testing.T) {
	clock := policytest.NewClock(noon)
	c := collector(t, clock, &policytest.Cache{Now: clock.Now})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 500 {
				name := fmt.Sprintf("d%d.test", j%50)
				c.Success(name, tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: name})
				if j%100 == i {
					c.Save(t.Context())
				}
			}
		})
	}
	group.Wait()
	all, err := c.Take(t.Context(), noon)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, s := range all {
		sum += s.Policies[0].Totals.Success
	}
	if sum != 4000 {
		t.Errorf("%d of 4000", sum)
	}
}
