package account

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/id"
)

// TestStoredForms holds what is on the disks of format 1 (storage/FORMAT.md): a change here is a new format.
func TestStoredForms(t *testing.T) {
	a := Account{Address: "Größe@example.test", Created: time.Unix(1e9, 0), Quota: 1 << 40, SendAs: []string{"a@b.c", "d@e.f"}}
	c := Credential{
		Kind: KindAppPassword, Serial: 300, Scopes: []string{"imap", "pop3"}, cost: Cost{19 << 10, 2, 1}, salt: []byte("salt"),
		hash:  []byte("0123456789abcdef0123456789abcdef"),
		scram: SCRAM{Salt: []byte("pepper"), Iterations: 10000, StoredKey: []byte("stored"), ServerKey: []byte("server")},
	}
	for name, f := range map[string]struct {
		value []byte
		want  string
		read  func([]byte) error
	}{
		"account":    {appendRecord(nil, &a), "0180a8d6b907808080808020144772c3b6c39f65406578616d706c652e7465737402056140622e63056440652e66", func(v []byte) error { _, err := DecodeRecord(id.ID{1}, v); return err }},
		"credential": {c.append(nil), "0102ac020204696d617004706f703380980102010473616c74203031323334353637383961626364656630313233343536373839616263646566904e067065707065720673746f72656406736572766572", func(v []byte) error { _, err := decodeCredential(v); return err }},
	} {
		if got := hex.EncodeToString(f.value); got != f.want {
			t.Errorf("%s: %s, want %s", name, got, f.want)
		}
		if err := f.read(f.value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
