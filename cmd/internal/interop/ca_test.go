package interop

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
)

// newCA makes an authority that nobody knows yet.
func newCA(testing.TB) *policytest.Cert { return policytest.NewCA("authority of the test", time.Now()) }

// trustCA lets a site's server know an authority, and no others.
func (s *site) trustCA(ca *policytest.Cert) {
	s.t.Helper()
	file := s.writeFile("authority.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})))
	empty := filepath.Join(s.dir, "authorities")
	if err := os.MkdirAll(empty, 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.env = append(s.env, "SSL_CERT_FILE="+file, "SSL_CERT_DIR="+empty)
}
