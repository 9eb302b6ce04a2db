package wire

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// gathering keeps what is written while hold is set, so that two records of TLS arrive in one segment.
type gathering struct {
	net.Conn
	hold bool
	kept bytes.Buffer
}

func (g *gathering) Write(b []byte) (int, error) {
	if g.hold {
		return g.kept.Write(b)
	}
	return g.Conn.Write(b)
}

// TestUnaskedOverTLS: what a peer said without being asked may wait in the buffers of TLS, where neither the socket nor our own
// buffer shows it. The replies to the next transaction would be taken for others: that to RCPT for that to BDAT.
func TestUnaskedOverTLS(t *testing.T) {
	for name, implicit := range map[string]bool{"STARTTLS": false, "implicit": true} {
		t.Run(name, func(t *testing.T) {
			conn, server := pair(t)
			faults := make(chan error, 1)
			go func() { faults <- saysMore(t, server, implicit) }()
			conn.Extensions = Extensions{Pipelining: true, Chunking: true}
			config := &tls.Config{InsecureSkipVerify: true}
			if implicit {
				secure := tls.Client(conn.raw, config)
				if err := secure.HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				conn = New(secure, Options{Times: conn.times})
			} else if _, err := conn.StartTLS(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			conn.Extensions = Extensions{Pipelining: true, Chunking: true}
			text := "A: b\r\n\r\nx"
			content, err := Scan(strings.NewReader(text), int64(len(text)))
			if err != nil {
				t.Fatal(err)
			}
			tr := &Transaction{Recipients: []Recipient{{Address: "a@b.example"}}, Content: content}
			if r := conn.Send(tr); r.Err != nil || !r.Answer(0).OK() {
				t.Fatalf("the first: %+v", r)
			}
			r := conn.Send(tr)
			if r.Err == nil || r.Answer(0).OK() || conn.Usable() {
				t.Errorf("the second: %+v", r)
			}
			conn.Close()
			<-faults
		})
	}
}

// saysMore takes the first message and says so twice, and refuses all others.
func saysMore(t *testing.T, conn net.Conn, implicit bool) error {
	in := bufio.NewReader(conn)
	if !implicit {
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
		io.WriteString(conn, "220 go\r\n")
	}
	g := &gathering{Conn: conn}
	secure := tls.Server(g, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	in = bufio.NewReader(secure)
	for said := false; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		var n int64
		if _, err := fmt.Sscanf(line, "BDAT %d LAST", &n); err != nil {
			io.WriteString(secure, "250 ok\r\n")
			continue
		}
		if _, err := io.CopyN(io.Discard, in, n); err != nil {
			return err
		}
		if said {
			io.WriteString(secure, "552 5.2.2 no room\r\n")
			continue
		}
		g.hold, said = true, true
		io.WriteString(secure, "250 ok\r\n")
		io.WriteString(secure, "250 really\r\n")
		g.hold = false
		if _, err := g.kept.WriteTo(conn); err != nil {
			return err
		}
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
