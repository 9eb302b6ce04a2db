package resolver_test

import (
	"context"
	"net"
	"reflect"
	"testing"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

func TestSRV(t *testing.T) {
	r := resolvertest.New(resolvertest.MustParse(`
_imaps._tcp.example.test. SRV 0 1 993 Mail.example.test.
_pop3._tcp.example.test.  SRV 0 0 0 .
_odd._tcp.example.test.   SRV 0 0 1 bad\.label.example.test.
`))
	for name, want := range map[string][]*net.SRV{
		"_imaps._tcp.example.test": {{Target: "mail.example.test", Port: 993, Weight: 1}},
		"_pop3._tcp.example.test":  {{Target: "."}},
		"_odd._tcp.example.test":   nil,
		"_none._tcp.example.test":  nil,
	} {
		got, err := r.LookupSRV(context.Background(), name)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}
