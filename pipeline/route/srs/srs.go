// Package srs rewrites the sender of mail that is forwarded, so that SPF holds at the next server, and leads bounces
// back (Sender Rewriting Scheme, Meng Weng Wong and Shevek 2003; no RFC).
//
// alice@example.net, forwarded by example.test, sends as SRS0=HASH=DD=example.net=alice@example.test. One whose sender is
// such an address of another server sends as SRS1=HASH=other.test==HASH=DD=example.net=alice@example.test: however many
// servers forward it, a bounce goes to the first of them, and from there home.
//
// Promises: nobody but who has the secret can make an address that Reverse takes, so the domain of SRS addresses is no way
// to reach other servers; an address is taken for 21 days, an SRS1 address for up to 28, and never again; two secrets are
// taken while they are changed. HASH is 40 bits of an HMAC in base32, over everything behind it, without regard to case,
// since some servers change that, and over the time: the day, of which the address says but two characters, or for SRS1,
// which has room for none of ours, the week.
//
// Untrusted input: senders (Forward) and recipients (Reverse) of anybody. Both are bounded, and what comes out can stand in
// MAIL FROM and RCPT TO if what went in was read by package receive.
package srs

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
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
	week      = 7 // days
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
		mark, rest = "SRS0=", stamp(r.today())+"="+domain+"="+local
	}
	when := r.today()
	if mark == "SRS1=" {
		when /= week
	}
	out := mark + hash(r.secrets[0], mark, rest, when) + "=" + rest
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
	if !ok || len(local) > 2*maxLocal {
		return "", "", ErrForged
	}
	if mark == "SRS1=" {
		if !r.signed(have, mark, rest, r.weeks()...) {
			return "", "", ErrForged
		}
		domain, original, ok = strings.Cut(rest, "=")
		original = "SRS0" + original
		if !ok || !marked(original, "SRS0") {
			return "", "", ErrForged
		}
	} else {
		stamp, of, _ := strings.Cut(rest, "=")
		before, after, ok := r.dates(stamp)
		past := ok && r.signed(have, mark, rest, before)
		if !past && (!ok || !r.signed(have, mark, rest, after)) {
			return "", "", ErrForged
		}
		if domain, original, ok = strings.Cut(of, "="); !ok || original == "" {
			return "", "", ErrForged
		}
		if past && r.today()-before > maxAge || !past && after-r.today() > 1 { // clocks differ
			return "", "", ErrExpired
		}
	}
	domain = strings.ToLower(domain)
	if !validDomain(domain) {
		return "", "", ErrForged
	}
	return original, domain, nil
}

// hash signs what follows it, without regard to case, and when that was.
func hash(secret []byte, mark, rest string, when int64) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(strings.ToLower(mark + rest)))
	h.Write(binary.BigEndian.AppendUint64([]byte{0}, uint64(when)))
	return base.EncodeToString(h.Sum(nil))[:hashSize]
}

// signed reports whether have is the hash of one of these times.
func (r *Rewriter) signed(have, mark, rest string, times ...int64) bool {
	have = strings.ToUpper(have)
	found := 0
	for _, secret := range r.secrets {
		for _, when := range times {
			found |= subtle.ConstantTimeCompare([]byte(have), []byte(hash(secret, mark, rest, when)))
		}
	}
	return found == 1
}

// today is the number of the day.
func (r *Rewriter) today() int64 { return r.now().Unix() / (24 * 60 * 60) }

// weeks are those in which an SRS1 address may have been made: that of tomorrow, since clocks differ, and those of the last 21 days.
func (r *Rewriter) weeks() (list []int64) {
	for day := (r.today() + 1) / week; day >= (r.today()-maxAge)/week; day-- {
		list = append(list, day)
	}
	return list
}

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// stamp is a day in two characters of base32; it comes round after 1024 days.
func stamp(day int64) string {
	day %= days
	return string([]byte{digits[day>>5], digits[day&31]})
}

// dates returns the last day up to today, and the first one after it, that have a stamp.
func (r *Rewriter) dates(stamp string) (before, after int64, ok bool) {
	if len(stamp) != 2 {
		return 0, 0, false
	}
	stamp = strings.ToUpper(stamp)
	high, low := strings.IndexByte(digits, stamp[0]), strings.IndexByte(digits, stamp[1])
	if high < 0 || low < 0 {
		return 0, 0, false
	}
	today := r.today()
	before = today - (today-int64(high<<5|low)+days)%days
	return before, before + days, true
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
