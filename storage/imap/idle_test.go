package imap

import (
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

func goroutinesIn(function string) int {
	var b strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	return strings.Count(b.String(), function+"(")
}

// TestIdleGoroutines: sessions in IDLE have the goroutine that reads and no other,
// and hear of a change all the same; out of IDLE they hear nothing by themselves.
func TestIdleGoroutines(t *testing.T) {
	store := openStore(t)
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	writer := dial(t, addr).login()
	readers := make([]*peer, 20)
	for i := range readers {
		readers[i] = dial(t, addr).login()
		readers[i].ok("SELECT INBOX")
	}
	for round := range 3 {
		for _, p := range readers {
			p.send("i IDLE\r\n")
			p.until("+ ")
		}
		for end := time.Now().Add(5 * time.Second); goroutinesIn("imap.(*idling).look")+goroutinesIn("imap.(*session).Idle") > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("goroutines stay")
			}
		}
		writer.append("INBOX", "", shortMail)
		for _, p := range readers {
			p.until(fmt.Sprintf("* %d EXISTS", round+1))
			p.send("DONE\r\n")
			p.until("i OK")
		}
	}
	for _, p := range readers[1:] {
		p.send("i LOGOUT\r\n")
		p.until("i OK")
	}
	p := readers[0]
	writer.append("INBOX", "", shortMail)
	time.Sleep(200 * time.Millisecond)
	p.send("n NOOP\r\n")
	if said := p.line(); !strings.HasPrefix(said, "* 4 EXISTS") {
		t.Errorf("%q", said)
	}
	p.until("n OK")
}
