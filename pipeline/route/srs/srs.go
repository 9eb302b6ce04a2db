// Package srs rewrites the sender of mail that is forwarded, so that SPF holds at the next server, and leads bounces
// back (Sender Rewriting Scheme, Meng Weng Wong and Shevek 2003; no RFC).
//
// alice@example.net, forwarded by example.test, sends as SRS0=HASH=DD=example.net=alice@example.test. One whose sender is
// such an address of another server sends as SRS1=HASH=other.test==HASH=DD=example.net=alice@example.test: however many
// servers forward it, a bounce goes to the first of them, and from there home.
//
// Promises: nobody but who has the secret can make an address that Reverse takes, so the domain of SRS addresses is no way
// to reach other servers; an address is taken for 21 days; two secrets are taken while they are changed. HASH is 40
// bits of an HMAC in base32, over everything behind it, without regard to case, since some servers change that.
//
// Untrusted input: senders (Forward) and recipients (Reverse) of anybody. Both are bounded, and what comes out can stand in
// MAIL FROM and RCPT TO if what went in was read by package receive.
package srs

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxAge    = 21 // days; whoever tries to deliver for so long is alone with it
	maxLocal  = 128
	maxDomain = 253
	hashSize  = 8 // characters of base32
	days      = 1 << 10
)

// Errors of Forward and Reverse.
var (
	ErrNotSRS  = errors.New("not an SRS address")
	ErrForged  = errors.New("the SRS address is not one of ours")
	ErrExpired = fmt.Errorf("the SRS address is older than %d days", maxAge)
	ErrTooLong = errors.New("the sender is too long to be rewritten")
	ErrSender  = errors.New("the sender can't be rewritten")
)

var base = base32.StdEncoding.WithPadding(base32.NoPadding)

// Rewriter rewrites under one domain. Its methods may be called from any goroutine.
type Rewriter struct {
	domain  string
	secrets [][]byte
	now     func() time.Time
}

// New returns a Rewriter. domain is ours, in A-labels; of the secrets the first signs and all are taken.
func New(domain string, secrets []string, now func() time.Time) (*Rewriter, error) {
	if domain == "" || len(secrets) == 0 {
		return nil, errors.New("SRS needs a domain and a secret")
	}
	r := &Rewriter{domain: domain, now: now}
	for _, s := range secrets {
		if s == "" {
			return nil, errors.New("a secret of SRS is empty")
		}
		r.secrets = append(r.secrets, []byte(s))
	}
	return r, nil
}

// Domain returns the domain of the addresses that Forward makes.
func (r *Rewriter) Domain() string { return r.domain }

// Is reports whether a local part, without quotes, looks like SRS.
func Is(local string) bool { return marked(local, "SRS0") || marked(local, "SRS1") }

// marked reports whether local begins with SRS0 or SRS1 and one of the separators that are in use.
func marked(local, mark string) bool {
	return len(local) > len(mark) && strings.EqualFold(local[:len(mark)], mark) && strings.IndexByte("=+-", local[len(mark)]) >= 0
}

// Forward returns the sender of a forwarded message: the local part without quotes, for Domain. local has no quotes either;
// domain is in A-labels. An error means that the sender has to stay as it is.
func (r *Rewriter) Forward(local, domain string) (string, error) {
	if local == "" || !validDomain(domain) || !utf8.ValidString(local) || strings.ContainsAny(local, "\r\n\x00") {
		return "", ErrSender
	}
	var rest, mark string
	switch {
	case marked(local, "SRS0"): // the separator stays: its server may insist on it
		mark, rest = "SRS1=", domain+"="+local[len("SRS0"):]
	case marked(local, "SRS1"):
		_, inner, ok := strings.Cut(local[len("SRS1="):], "=")
		if !ok || inner == "" {
			return "", ErrSender
		}
		mark, rest = "SRS1=", inner
	default:
		mark, rest = "SRS0=", r.stamp()+"="+domain+"="+local
	}
	out := mark + hash(r.secrets[0], mark, rest) + "=" + rest
	if len(out) > maxLocal {
		return "", ErrTooLong
	}
	return out, nil
}

// Reverse returns where mail for an SRS address of ours goes: the sender before Forward, local part without quotes. local is
// what stands before our domain, without quotes.
func (r *Rewriter) Reverse(local string) (original, domain string, err error) {
	if !Is(local) {
		return "", "", ErrNotSRS
	}
	mark := strings.ToUpper(local[:4]) + "="
	have, rest, ok := strings.Cut(local[len(mark):], "=")
	if !ok || len(local) > 2*maxLocal || !r.signed(have, mark, rest) {
		return "", "", ErrForged
	}
	if mark == "SRS1=" {
		domain, original, ok = strings.Cut(rest, "=")
		original = "SRS0" + original
		if !ok || !marked(original, "SRS0") {
			return "", "", ErrForged
		}
	} else {
		var stamp string
		if stamp, rest, ok = strings.Cut(rest, "="); !ok {
			return "", "", ErrForged
		}
		if domain, original, ok = strings.Cut(rest, "="); !ok || original == "" {
			return "", "", ErrForged
		}
		if !r.fresh(stamp) {
			return "", "", ErrExpired
		}
	}
	domain = strings.ToLower(domain)
	if !validDomain(domain) {
		return "", "", ErrForged
	}
	return original, domain, nil
}

// hash signs what follows it, without regard to case.
func hash(secret []byte, mark, rest string) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(strings.ToLower(mark + rest)))
	return base.EncodeToString(h.Sum(nil))[:hashSize]
}

func (r *Rewriter) signed(have, mark, rest string) bool {
	have = strings.ToUpper(have)
	found := 0
	for _, secret := range r.secrets {
		found |= subtle.ConstantTimeCompare([]byte(have), []byte(hash(secret, mark, rest)))
	}
	return found == 1
}

// stamp is the day in two characters of base32; it comes round after 1024 days.
func (r *Rewriter) stamp() string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	day := r.now().Unix() / (24 * 60 * 60) % days
	return string([]byte{digits[day>>5], digits[day&31]})
}

// fresh reports whether a stamp is of the last 21 days, or of tomorrow: clocks differ.
func (r *Rewriter) fresh(stamp string) bool {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	if len(stamp) != 2 {
		return false
	}
	stamp = strings.ToUpper(stamp)
	high, low := strings.IndexByte(digits, stamp[0]), strings.IndexByte(digits, stamp[1])
	if high < 0 || low < 0 {
		return false
	}
	today := int(r.now().Unix() / (24 * 60 * 60) % days)
	age := (today - (high<<5 | low) + days) % days
	return age <= maxAge || age == days-1
}

func validDomain(name string) bool {
	if name == "" || len(name) > maxDomain {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
