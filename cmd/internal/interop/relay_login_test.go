package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSmarthost: all mail leaves by another server of ours, which wants a login. It is asked for one
// only where its certificate is good; a login that is refused is the administrator's to put
// right, so the mail waits.
func TestSmarthost(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	relay := func(port, tls, password string) string {
		return fmt.Sprintf("[relay.\"*\"]\nhosts = [\"mx.example.test:%s\"]\ntls = %q\nusername = %q\npassword = %q\n", port, tls, alice, password)
	}
	world := newWorld(t, quickRetry, `
quick.test.        IN MX 10 mx.quick.test.
mx.quick.test.     IN A 127.0.1.23
`)
	quick := startScripted(t, "127.0.1.23:25", nil)
	smart := newSite(t, "")
	smart.writeFile("sluice.toml", fmt.Sprintf(baseConfig, nameServer)+"[pipeline.outbound.deliver]\nallow_private = [\"127.0.0.0/8\"]\n")
	smart.start()
	defer smart.stop()
	w := world.site
	post := func(id string) {
		t.Helper()
		w.post([]string{"a@quick.test"}, id, "by way of another", 1000)
	}
	w.inConfig("\n[pipeline.inbound.deliver]", "\n# relay\n# end\n[pipeline.inbound.deliver]")
	last := "# relay\n# end\n"
	restart := func(text string) {
		t.Helper()
		w.inConfig(last, "# relay\n"+text+"# end\n")
		last = "# relay\n" + text + "# end\n"
		w.start()
	}

	// The certificate is from an authority that nobody knows: no password goes there.
	restart(relay(smart.port("submission"), "verify", password))
	post("unknown@example.test")
	w.awaitTrace("unknown@example.test", "delayed", "unknown authority")
	w.stop()
	if strings.Contains(smart.logText(), "mechanism=") {
		t.Errorf("it was told a password:\n%s", smart.logTail(20))
	}

	w.env = append(w.env, "SSL_CERT_FILE="+smart.ca, "SSL_CERT_DIR="+w.dir+"/nothing")
	restart(relay(smart.port("submission"), "verify", "wrong horse"))
	post("wrong@example.test")
	// One of the two is tried, as long as the server turns us away.
	eventually(t, 20*time.Second, "a refused login in a trace", func() bool {
		return strings.Contains(w.sluice("", "trace", "wrong@example.test")+w.sluice("", "trace", "unknown@example.test"), "login: 535 5.7.8")
	})
	if quick.connections() > 0 {
		t.Error("something arrived")
	}
	w.stop()

	restart(relay(smart.port("submission"), "verify", password))
	post("right@example.test")
	for _, id := range []string{"right@example.test", "unknown@example.test", "wrong@example.test"} {
		quick.await(id)
		w.awaitTrace(id, "delivered", ", pkix")
	}
	w.stop()

	restart(relay(smart.port("submissions"), "implicit", password))
	post("implicit@example.test")
	quick.await("implicit@example.test")
	w.awaitTrace("implicit@example.test", "delivered", ", pkix")
	w.stop()
	if text := w.logText(); strings.Contains(text, password) || strings.Contains(text, "wrong horse") {
		t.Error("a password stands in the log")
	}
}
