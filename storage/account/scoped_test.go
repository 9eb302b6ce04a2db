package account

import (
	"errors"
	"testing"

	"github.com/sluicemail/sluice/storage/kv"
)

// TestScopedOpensNothing (DRILLS E4.7): a credential that says what it is for, as a later version may write it, is not taken for one
// that is for everything.
func TestScopedOpensNothing(t *testing.T) {
	for name, c := range map[string]struct {
		kind   Kind
		scopes []string
		want   error
	}{
		"a password": {KindPassword, nil, nil}, "an app password": {KindAppPassword, nil, ErrCredentials},
		"an app password with scopes": {KindAppPassword, []string{"pop3"}, ErrCredentials}, "a password with scopes": {KindPassword, []string{"imap"}, ErrCredentials},
		"a scope of everything": {KindAppPassword, []string{"*"}, ErrCredentials},
	} {
		w := newWorld(t, nil)
		cred, err := w.NewCredential(t.Context(), "secret")
		if err != nil {
			t.Fatal(err)
		}
		cred.Kind, cred.Scopes = c.kind, c.scopes
		var b kv.Batch
		if err := w.Put(&b, Account{ID: w.ids.New(w.now), Address: "u@example.test", Created: w.now}, cred); err != nil {
			t.Fatal(err)
		}
		if _, err := w.engine.Apply(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		w.Forget("u@example.test")
		for range 2 { // nor is it remembered
			if err := w.login("u@example.test", "secret", "192.0.2.1"); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
	}
}
