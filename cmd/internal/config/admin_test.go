package config

import (
	"strings"
	"testing"
)

// TestAdmin: metrics stay on this machine unless somebody says otherwise aloud.
func TestAdmin(t *testing.T) {
	for text, want := range map[string]string{
		`address = "127.0.0.1:9090"`: "",
		`address = "[::1]:0"`:        "",
		`address = "localhost:9090"`: "",
		`address = "0.0.0.0:9090"`:   "no login",
		`address = ":9090"`:          "no login",
		`address = "10.0.0.1:9090"`:  "no login",
		"address = \"10.0.0.1:9090\"\nallow_admin_from_network = true":                                                                "",
		"address = \"127.0.0.1:9090\"\ntls = \"implicit\"":                                                                            "HTTP without TLS",
		"address = \"127.0.0.1:9090\"\npipeline = \"inbound\"":                                                                        "no mail comes in",
		"address = \"127.0.0.1:9090\"\n[alerts]\nafter = \"0s\"":                                                                      "expected 1s to 1h",
		"address = \"127.0.0.1:9090\"\n[alerts]\nafter = \"10s\"\nmail = false":                                                       "",
		"address = \"127.0.0.1:9090\"\n[listener.x]\nprotocol = \"imap\"\naddress = \"127.0.0.1:1\"\nallow_admin_from_network = true": "has no meaning for imap",
	} {
		c, err := Parse("a.toml", "hostname = \"mx.example.test\"\n[listener.a]\nprotocol = \"admin\"\n"+text, testOptions())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if err == nil && strings.Contains(text, "allow_admin") && len(c.Warnings) == 0 {
			t.Errorf("%s: no warning", text)
		}
	}
}
