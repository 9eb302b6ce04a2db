// Package dkim makes and checks DKIM signatures (RFC 6376), with RSA and Ed25519 (RFC 8463), and lends its canonicaliser,
// keys and signatures to package arc, whose fields are DKIM signatures with other names (RFC 8617 section 4.1).
//
// What it promises:
//
//   - A body is read and hashed once for each canonicalisation that some signature wants, at most twice, however many
//     signatures there are: Body takes it in pieces of any size and keeps nothing of it.
//   - Everything is linear in the size of the header and of the body: fields are found by an index, not by looking through
//     the header for each name in h=, and empty lines are counted, not copied.
//   - A signature with l= counts only if it covers the whole body as it arrived: what is appended behind l= octets would
//     look signed to a reader (RFC 6376 section 8.2).
//   - SHA-1, and RSA keys of less than 1024 bits, are never valid (RFC 8301). What an RSA key costs is bounded by MaxBits.
//
// It owns nothing and looks nothing up: who calls it brings the header, the body's hashes and the key record. All input of
// Parse and ParseKey is hostile. Failures are *Failure, with the result that RFC 8601 section 2.7.1 has for them.
//
// Lines end with CRLF alone here; a bare CR or LF is an octet like others, as package receive lets none of them in.
package dkim

import (
	"crypto/sha256"
	"fmt"
)

// Result is how the check of a signature ended, in the words of RFC 8601 section 2.7.1.
type Result string

// The results.
const (
	Pass      Result = "pass"
	Fail      Result = "fail"
	Neutral   Result = "neutral"
	Policy    Result = "policy"
	TempError Result = "temperror"
	PermError Result = "permerror"
)

// Failure says why a signature does not count.
type Failure struct {
	Result Result
	Why    string // a plain sentence without what a stranger wrote
}

func (f *Failure) Error() string { return "check the signature: " + f.Why }

func permError(format string, args ...any) error {
	return &Failure{PermError, fmt.Sprintf(format, args...)}
}

// Sum is a SHA-256.
type Sum = [sha256.Size]byte

// The algorithms, as they stand in a= (RFC 6376 section 3.3, RFC 8463 section 3).
const (
	RSA     = "rsa-sha256"
	Ed25519 = "ed25519-sha256"
)
