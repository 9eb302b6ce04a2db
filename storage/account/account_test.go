package account

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

type world struct {
	*Directory
	t      *testing.T
	engine kv.Engine
	ids    id.Source
	now    time.Time
}

func newWorld(t *testing.T, change func(*Options)) *world {
	w := &world{t: t, engine: kvtest.NewMemory(), now: time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)}
	o := Options{
		Engine: w.engine, Cost: Cost{Memory: 64, Time: 1, Threads: 1}, Config: DefaultConfig(),
		Lock:  func(context.Context, id.ID) (func(), error) { return func() {}, nil },
		Clock: func() time.Time { return w.now },
	}
	o.Config.SCRAMIterations = 4096
	if change != nil {
		change(&o)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.Directory = d
	return w
}

func (w *world) create(address, password string) Account {
	w.t.Helper()
	cred, err := w.NewCredential(w.t.Context(), password)
	if err != nil {
		w.t.Fatal(err)
	}
	a := Account{ID: w.ids.New(w.now), Address: address, Created: w.now}
	var b kv.Batch
	if err := w.Put(&b, a, cred); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.engine.Apply(w.t.Context(), &b); err != nil {
		w.t.Fatal(err)
	}
	w.Forget(address)
	return a
}

func (w *world) login(address, password, peer string) error {
	a, err := w.Verify(w.t.Context(), address, password, netip.MustParseAddr(peer))
	if err == nil && a.ID.IsZero() {
		w.t.Errorf("%s logs in as nobody", address)
	}
	return err
}

// TestCanonical: DRILLS E4.6.
func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"alice@example.test":          "alice@example.test",
		"Alice@EXAMPLE.test":          "alice@example.test",
		"a+b@example.test.":           "a+b@example.test",
		"MÜLLER@bücher.example":       "müller@xn--bcher-kva.example",
		"mu\u0308ller@BÜCHER.example": "müller@xn--bcher-kva.example",
		"x@XN--BCHER-KVA.example":     "x@xn--bcher-kva.example",
		`a b"c@example.test`:          `a b"c@example.test`, // what SMTP can carry and nobody has
		"a@b@example.test":            "a@b@example.test",
		"@example.test":               "", "alice": "", "alice@": "", "": "", "a@.": "",
		strings.Repeat("A", 65) + "@example.test": "",
		"A@" + strings.Repeat("x", 300):           "",
		"\xff\xfe@Example.test":                   "",
	} {
		got, err := Canonical(in)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("Canonical(%q) = %q, %v, want %q", in, got, err, want)
		}
		if again, err := Canonical(got); want != "" && (again != got || err != nil) {
			t.Errorf("Canonical(%q) = %q: not stable", got, again)
		}
	}
}

func TestPasswords(t *testing.T) {
	w := newWorld(t, nil)
	w.create("u@example.test", "pass\u00a0wo\u0308rt")
	for password, want := range map[string]error{
		"pass wört":               nil, // NFC, and any space is a space (RFC 8265 section 4.2)
		"pass\u00a0wo\u0308rt":    nil,
		"pass wort":               ErrCredentials,
		"Pass wört":               ErrCredentials,
		"":                        ErrCredentials,
		"pass\x00wört":            ErrCredentials,
		strings.Repeat("x", 2000): ErrCredentials,
	} {
		w.guesses.init()
		if err := w.login("u@example.test", password, "192.0.2.1"); !errors.Is(err, want) {
			t.Errorf("password %.20q: %v, want %v", password, err, want)
		}
	}
	for _, bad := range []string{"", "a\nb", "\x00", strings.Repeat("x", 2000)} {
		if _, err := w.NewCredential(t.Context(), bad); !errors.Is(err, ErrPassword) {
			t.Errorf("new password %.20q: %v", bad, err)
		}
	}
}

// TestSCRAM computes the exchange of RFC 5802 section 3 from the stored keys.
func TestSCRAM(t *testing.T) {
	c, err := newCredential("pencil", Cost{64, 1, 1}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	s := c.SCRAM()
	salted, err := pbkdf2.Key(sha256.New, "pencil", s.Salt, s.Iterations, 32)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	clientKey := mac(salted, "Client Key")
	signature := mac(s.StoredKey, "auth message")
	proof := make([]byte, 32)
	for i := range proof {
		proof[i] = clientKey[i] ^ signature[i]
	}
	for i := range proof { // what a server does
		proof[i] ^= signature[i]
	}
	if got := sha256.Sum256(proof); !bytes.Equal(got[:], s.StoredKey) {
		t.Error("the stored key does not belong to the password")
	}
	if !bytes.Equal(mac(salted, "Server Key"), s.ServerKey) {
		t.Error("the server key does not belong to the password")
	}
}

func TestCredentialRecord(t *testing.T) {
	c, err := newCredential("secret", Cost{64, 1, 1}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	c.Kind, c.Serial, c.Scopes = KindAppPassword, 77, []string{"imap", "pop3"}
	value := c.append(nil)
	got, err := decodeCredential(value)
	if err != nil || fmt.Sprint(*got) != fmt.Sprint(*c) || !got.matches("secret") || got.matches("Secret") {
		t.Errorf("read %+v, %v", got, err)
	}
	for n := range value {
		if _, err := decodeCredential(value[:n]); !errors.Is(err, codec.ErrDamaged) {
			t.Errorf("%d of %d octets: %v", n, len(value), err)
		}
	}
}

func TestDefaultCost(t *testing.T) { // RULES B7
	if c := defaultCost(); c != (Cost{Memory: 19 * 1024, Time: 2, Threads: 1}) {
		t.Errorf("cost %+v", c)
	}
}

// TestRemembered: a verified login needs no hash for ten minutes, unless the password changes.
func TestRemembered(t *testing.T) {
	w := newWorld(t, nil)
	w.create("u@example.test", "one")
	hashes := func(fn func()) bool { // whether fn wants a hash
		for range cap(w.hashes.slots) {
			w.hashes.slots <- struct{}{}
		}
		w.o.Config.HashWait = 1
		fn()
		for range cap(w.hashes.slots) {
			<-w.hashes.slots
		}
		w.o.Config.HashWait = DefaultConfig().HashWait
		return false
	}
	if err := w.login("u@example.test", "one", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	hashes(func() {
		if err := w.login("U@example.test", "one", "192.0.2.2"); err != nil {
			t.Errorf("a remembered login: %v", err)
		}
		if err := w.login("u@example.test", "two", "192.0.2.1"); !errors.Is(err, ErrBusy) || !Temporary(err) {
			t.Errorf("another password: %v, want busy", err)
		}
		w.now = w.now.Add(10*time.Minute + 1)
		if err := w.login("u@example.test", "one", "192.0.2.1"); !errors.Is(err, ErrBusy) {
			t.Errorf("after ten minutes: %v, want busy", err)
		}
	})
	if err := w.login("u@example.test", "one", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if err := w.SetPassword(t.Context(), "u@example.test", "two"); err != nil {
		t.Fatal(err)
	}
	if err := w.login("u@example.test", "one", "192.0.2.1"); !errors.Is(err, ErrCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if err := w.login("u@example.test", "two", "192.0.2.1"); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if err := w.SetPassword(t.Context(), "nobody@example.test", "two"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the password of nobody: %v", err)
	}
}

// TestUnknownCosts (DRILLS E4.6): an unknown account, a known one and an impossible address wait for a hash alike.
func TestUnknownCosts(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Config.HashWait = 1 })
	w.create("u@example.test", "one")
	for range cap(w.hashes.slots) {
		w.hashes.slots <- struct{}{}
	}
	for _, address := range []string{"u@example.test", "nobody@example.test", "nonsense", "a@b@c", ""} {
		if err := w.login(address, "x", "192.0.2.1"); !errors.Is(err, ErrBusy) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for range cap(w.hashes.slots) {
		<-w.hashes.slots
	}
	w.guesses.init()
	for _, address := range []string{"u@example.test", "nobody@example.test", "nonsense", ""} {
		if err := w.login(address, "x", "192.0.2.1"); err != ErrCredentials {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestGuessing (DRILLS E4.6) counts what 5 failures for a pair and 20 for a peer lead to.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Clock = time.Now })
		w.create("u@example.test", "one")
		w.create("v@example.test", "one")
		var waits []time.Duration
		try := func(address, password, peer string) error {
			start := time.Now()
			err := w.login(address, password, peer)
			waits = append(waits, time.Since(start))
			return err
		}
		for i := range 10 {
			if err := try("u@example.test", fmt.Sprint("x", i), "192.0.2.1"); !errors.Is(err, ErrCredentials) {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		if got := fmt.Sprint(waits); got != "[0s 0s 0s 0s 0s 1s 2s 4s 8s 16s]" {
			t.Errorf("waits %s", got)
		}
		for _, password := range []string{"x", "one"} {
			if err := try("u@example.test", password, "192.0.2.1"); !errors.Is(err, ErrBlocked) {
				t.Errorf("blocked, password %s: %v", password, err)
			}
		}
		if err := try("v@example.test", "one", "192.0.2.1"); err != nil {
			t.Errorf("another account: %v", err)
		}
		if err := try("u@example.test", "one", "192.0.2.2"); err != nil {
			t.Errorf("another peer: %v", err)
		}
		time.Sleep(15*time.Minute + time.Second)
		if err := try("u@example.test", "one", "192.0.2.1"); err != nil {
			t.Errorf("after a quarter of an hour: %v", err)
		}
		// One peer and many accounts: 20 are free, 5 are slow, then none; a /64 is one peer.
		for i := range 25 {
			if err := try(fmt.Sprintf("n%d@example.test", i), "x", fmt.Sprintf("2001:db8::%x", i)); !errors.Is(err, ErrCredentials) {
				t.Fatalf("failure %d: %v", i, err)
			}
		}
		if err := try("v@example.test", "one", "2001:db8::ffff"); !errors.Is(err, ErrBlocked) {
			t.Errorf("a peer that tried 25 accounts: %v", err)
		}
	})
}

// TestGuessingAtOnce: attempts count from their beginning.
func TestGuessingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Clock = time.Now })
		w.create("u@example.test", "one")
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for i := range 100 {
			wg.Go(func() {
				if err := w.login("u@example.test", fmt.Sprint("x", i), "192.0.2.1"); errors.Is(err, ErrBlocked) {
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if refused != 90 {
			t.Errorf("%d of 100 were refused, want 90", refused)
		}
	})
}

// TestManyLoginsAtOnce: right passwords, however many at a time, are not held back, and afterwards nothing is counted.
func TestManyLoginsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Clock = time.Now })
		for i := range 10 {
			w.create(fmt.Sprintf("u%d@example.test", i), "one")
		}
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				if err := w.login(fmt.Sprintf("u%d@example.test", i%10), "one", "192.0.2.1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d > 0 { // of the synctest bubble's clock
			t.Errorf("held back for %v", d)
		}
		for i := range 4 {
			if err := w.login("u0@example.test", fmt.Sprint("x", i), "192.0.2.1"); !errors.Is(err, ErrCredentials) || time.Since(start) > 0 {
				t.Errorf("failure %d: %v after %v", i, err, time.Since(start))
			}
		}
	})
}

func TestTemporaryFailuresDoNotCount(t *testing.T) {
	w := newWorld(t, nil)
	w.create("u@example.test", "one")
	w.Forget("u@example.test")
	fails := kvtest.Fail(w.engine, 1, errors.New("the disk is on fire"))
	w.o.Engine = fails
	if err := w.login("u@example.test", "one", "192.0.2.1"); err == nil || !Temporary(err) {
		t.Errorf("the engine fails: %v", err)
	}
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range cap(w.hashes.slots) {
			w.hashes.slots <- struct{}{}
		}
		if _, err := w.Verify(ctx, "u@example.test", "wrong", netip.MustParseAddr("192.0.2.1")); err == nil || !Temporary(err) {
			t.Errorf("cancelled: %v", err)
		}
		for range cap(w.hashes.slots) {
			<-w.hashes.slots
		}
	}
	if err := w.login("u@example.test", "one", "192.0.2.1"); err != nil {
		t.Errorf("then: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := DefaultConfig()
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{CacheAddresses: -1, SCRAMIterations: 1, Trusted: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	err := bad.Validate()
	for _, key := range []string{"cache_addresses", "hash_wait", "remembered", "scram_iterations", "trusted"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not reported in %v", key, err)
		}
	}
}

func FuzzRecords(f *testing.F) {
	c, err := newCredential("secret", Cost{64, 1, 1}, 4096)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.append(nil))
	f.Add(appendRecord(nil, &Account{Address: "a@b", Quota: 5, SendAs: []string{"c@d"}}))
	f.Fuzz(func(t *testing.T, value []byte) {
		if c, err := decodeCredential(value); err == nil {
			if again, err := decodeCredential(c.append(nil)); err != nil || fmt.Sprint(*again) != fmt.Sprint(*c) {
				t.Errorf("%+v does not come back: %+v, %v", c, again, err)
			}
		}
		if a, err := DecodeRecord(id.ID{1}, value); err == nil {
			if again, err := DecodeRecord(id.ID{1}, appendRecord(nil, &a)); err != nil || fmt.Sprint(again) != fmt.Sprint(a) {
				t.Errorf("%+v does not come back: %+v, %v", a, again, err)
			}
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"a@b", "MÜ@bücher.example.", "a@b@c", "\xff@x", "İ@x", "ß@ß"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		got, err := Canonical(address)
		if err != nil {
			return
		}
		if again, err := Canonical(got); err != nil || again != got {
			t.Errorf("%q becomes %q and then %q, %v", address, got, again, err)
		}
		_ = checkNew(address)
	})
}
