package pluginhost

import (
	"strings"
	"testing"
)

// TestNoSecretIsReadable: what is open to every plugin holds none of the places where servers keep their keys, settings and
// data (RULES C4).
func TestNoSecretIsReadable(t *testing.T) {
	for _, secret := range []string{
		"/etc/ssl/private/mail.key", "/etc/pki/tls/private/mail.key", "/etc/letsencrypt/live/mx/privkey.pem", "/etc/shadow",
		"/etc/sluice/sluice.toml", "/usr/local/etc/sluice/key.pem", "/usr/local/var/sluice/store/LOCK", "/var/lib/sluice/control.sock",
		"/srv/mail/blob", "/root/.ssh/id_ed25519", "/home/alice/mail", "/proc/1/environ", "/run/secrets/key",
	} {
		for _, open := range readable {
			if secret == open || strings.HasPrefix(secret, open+"/") {
				t.Errorf("%s is readable, because %s is", secret, open)
			}
		}
	}
}
