package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/bits"
	"strings"
)

// Bounds of keys. What an RSA key costs grows with the square of its bits.
const (
	MinBits      = 1024    // RFC 8301 section 3.2
	MaxBits      = 8192    //
	MaxKeyRecord = 2 << 10 // octets: an RSA key of 8192 bits has about 1450
)

// Key is a public key as DNS has it (RFC 6376 section 3.6.1).
type Key struct {
	Testing bool // t=y: the signer is trying things out
	Strict  bool // t=s: not for subdomains in i=

	rsa     *rsa.PublicKey
	ed25519 ed25519.PublicKey
}

// Algorithm returns the a= of the key's signatures.
func (k *Key) Algorithm() string {
	if k.rsa != nil {
		return RSA
	}
	return Ed25519
}

// Bits returns the size of the key.
func (k *Key) Bits() int {
	if k.rsa != nil {
		return k.rsa.N.BitLen()
	}
	return 8 * ed25519.PublicKeySize
}

// usualSteps is how many multiplications the usual exponent, 65537, takes.
const usualSteps = 19

// Cost returns what one verification costs, in those with RSA of 1024 bits.
func (k *Key) Cost() int {
	if k.rsa != nil {
		squares := k.Bits() * k.Bits() / (1024 * 1024)
		steps := bits.Len(uint(k.rsa.E)) + bits.OnesCount(uint(k.rsa.E)) // of which 65537 has 19, and the largest 62
		return squares * max(steps, usualSteps) / usualSteps
	}
	return 6
}

// ParseKey reads a key record; an error is a *Failure.
func ParseKey(text string) (*Key, error) {
	if len(text) > MaxKeyRecord {
		return nil, permError("the key record is too large")
	}
	tags, ok := ParseTags(text)
	if !ok {
		return nil, permError("the key record is no list of tags")
	}
	if v, ok := tags.Get("v"); ok && (v != "DKIM1" || tags[0].Name != "v") {
		return nil, permError("the key record is of another version")
	}
	if h, ok := tags.Get("h"); ok && !hasName(Squeeze(h), "sha256") {
		return nil, permError("the key is not for SHA-256")
	}
	if s, ok := tags.Get("s"); ok && !hasName(Squeeze(s), "email") && !hasName(Squeeze(s), "*") {
		return nil, permError("the key is not for mail")
	}
	k := &Key{}
	flags := tags.Squeezed("t")
	k.Testing, k.Strict = hasName(flags, "y"), hasName(flags, "s")
	p, ok := tags.Get("p")
	if !ok {
		return nil, permError("the key record has no key")
	}
	if p == "" {
		return nil, permError("the key is revoked")
	}
	data, err := base64.StdEncoding.DecodeString(Squeeze(p))
	if err != nil {
		return nil, permError("the key is not base64")
	}
	kind, ok := tags.Get("k")
	if !ok {
		kind = "rsa"
	}
	switch strings.ToLower(kind) {
	case "rsa":
		return k, k.parseRSA(data)
	case "ed25519":
		if len(data) != ed25519.PublicKeySize {
			return nil, permError("the Ed25519 key has not 32 octets")
		}
		k.ed25519 = data
		return k, nil
	}
	return nil, permError("the key is of an unknown kind")
}

// parseRSA reads a SubjectPublicKeyInfo, or the bare RSAPublicKey that RFC 6376 section 3.6.1 speaks of and few publish.
func (k *Key) parseRSA(data []byte) error {
	if public, err := x509.ParsePKIXPublicKey(data); err == nil {
		k.rsa, _ = public.(*rsa.PublicKey)
	} else {
		k.rsa, _ = x509.ParsePKCS1PublicKey(data)
	}
	switch {
	case k.rsa == nil:
		return permError("the key is no RSA key")
	case k.rsa.N.BitLen() < MinBits:
		return permError("the RSA key has less than %d bits", MinBits)
	case k.rsa.N.BitLen() > MaxBits:
		return permError("the RSA key has more than %d bits", MaxBits)
	}
	return nil
}

func (k *Key) verify(digest, signature []byte) bool {
	if k.rsa != nil {
		return rsa.VerifyPKCS1v15(k.rsa, crypto.SHA256, digest, signature) == nil
	}
	return ed25519.Verify(k.ed25519, digest, signature) // of the hash, without a further one (RFC 8463 section 3)
}

// Record returns the key record of a public key, as it belongs into DNS.
func Record(public crypto.PublicKey) (string, error) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		data, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return "", err
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(data), nil
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public), nil
	}
	return "", permError("the key is of an unknown kind")
}
