package route

import (
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// BenchmarkResolve is what the table costs for one RCPT.
func BenchmarkResolve(b *testing.B) {
	tb, err := NewTable(Options{
		Domains:  map[string]Domain{"example.test": {Subaddress: "+", Aliases: map[string]AddressList{"away": {"x@elsewhere.test"}}}},
		Accounts: people{"alice@example.test"}, Relays: map[string]Relay{"*": relay("127.0.0.1:25")},
		Forward: Forward{"example.test", []string{"0123456789abcdef"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, a := range map[string]Asked{
		"mailbox": {Address: "alice@example.test", Origin: sdk.Stranger}, "remote": {Address: "x@elsewhere.test", Origin: sdk.Login},
		"forward": {Address: "away@example.test", Origin: sdk.Stranger},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				way, err := tb.Resolve(b.Context(), a)
				if err != nil || len(tb.Hops("s@example.net", way.Targets)) != 1 {
					b.Fatal(err)
				}
			}
		})
	}
}
