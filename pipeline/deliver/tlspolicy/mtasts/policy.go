package mtasts

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Mode is what a policy asks for (RFC 8461 section 5).
type Mode string

// The modes.
const (
	Enforce Mode = "enforce"
	Testing Mode = "testing"
	Off     Mode = "none"
)

// Policy is what a domain asks of those that send mail to it. It is shared and must not be changed.
type Policy struct {
	ID      string // of the TXT record under which it was fetched
	Mode    Mode
	MX      []string // patterns, in lower case and A-labels: "mx.example.net", "*.example.net"
	MaxAge  time.Duration
	Fetched time.Time
	Expires time.Time
}

// Bounds of a policy.
const (
	MaxPolicySize = 64 << 10 // octets; RFC 8461 section 3.3 suggests this
	maxPatterns   = 256
	maxAge        = 31_557_600 // seconds, a year: RFC 8461 section 3.2
)

// Match reports whether host, in lower case, is one of the policy's servers (RFC 8461 section 4.1).
func (p *Policy) Match(host string) bool {
	for _, pattern := range p.MX {
		suffix, wild := strings.CutPrefix(pattern, "*.")
		if !wild {
			if host == pattern {
				return true
			}
			continue
		}
		// The star is one label, no more and no less.
		label, rest, found := strings.Cut(host, ".")
		if found && label != "" && rest == suffix {
			return true
		}
	}
	return false
}

// Lines are the lines of the policy as they stand in a TLS report (RFC 8460 section 4.4, policy-string).
func (p *Policy) Lines() []string {
	lines := append(make([]string, 0, 3+len(p.MX)), "version: STSv1", "mode: "+string(p.Mode))
	for _, mx := range p.MX {
		lines = append(lines, "mx: "+mx)
	}
	return append(lines, "max_age: "+strconv.FormatInt(int64(p.MaxAge/time.Second), 10))
}

// ParsePolicy reads the body of a policy (RFC 8461 section 3.2). Unknown fields are ignored, of a field that stands there
// twice the first counts, and lines may end in LF or CRLF.
func ParsePolicy(body []byte) (*Policy, error) {
	if len(body) > MaxPolicySize {
		return nil, fmt.Errorf("is longer than %d octets", MaxPolicySize)
	}
	p := &Policy{MaxAge: -1}
	version := ""
	for line := range strings.SplitSeq(string(body), "\n") {
		line = strings.TrimRight(line, "\r \t")
		if line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		name, value = strings.TrimRight(name, " \t"), strings.Trim(value, " \t")
		if !found || name == "" || strings.Trim(name, fieldNameOctets) != "" {
			return nil, fmt.Errorf("has the line %q, which is no field", clip(line))
		}
		if version == "" && name != "version" {
			return nil, errors.New("does not begin with its version")
		}
		switch {
		case name == "version" && version == "":
			if version = value; version != "STSv1" {
				return nil, fmt.Errorf("has version %q", clip(value))
			}
		case name == "mode" && p.Mode == "":
			p.Mode = Mode(value)
		case name == "max_age" && p.MaxAge < 0:
			seconds, err := strconv.ParseUint(value, 10, 64)
			if err != nil || len(value) > 10 {
				return nil, fmt.Errorf("has max_age %q", clip(value))
			}
			p.MaxAge = time.Duration(min(seconds, maxAge)) * time.Second
		case name == "mx":
			if err := p.addMX(value); err != nil {
				return nil, err
			}
		}
	}
	return p, p.complete(version)
}

const fieldNameOctets = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

func (p *Policy) complete(version string) error {
	switch {
	case version == "":
		return errors.New("is empty")
	case p.Mode != Enforce && p.Mode != Testing && p.Mode != Off:
		return fmt.Errorf("has mode %q", clip(string(p.Mode)))
	case p.MaxAge < 0:
		return errors.New("has no max_age")
	case len(p.MX) == 0 && p.Mode != Off:
		return errors.New("has no mx")
	}
	return nil
}

// addMX takes one pattern. U-labels are not allowed (RFC 8461 section 3.2 has A-labels), are seen, and have one meaning only.
func (p *Policy) addMX(value string) error {
	if len(p.MX) == maxPatterns {
		return fmt.Errorf("has more than %d mx", maxPatterns)
	}
	name, wild := strings.CutPrefix(strings.ToLower(strings.TrimSuffix(value, ".")), "*.")
	if strings.ContainsFunc(name, func(r rune) bool { return r > '~' }) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return fmt.Errorf("has mx %q", clip(value))
		}
		name = ascii
	}
	if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return fmt.Errorf("has mx %q", clip(value))
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("has mx %q", clip(value))
		}
	}
	if wild {
		name = "*." + name
	}
	p.MX = append(p.MX, name)
	return nil
}

// ParseRecord finds the id in the TXT records of _mta-sts.DOMAIN (RFC 8461 section 3.1). An empty id means that the
// domain has no policy; the error says why, if there is something that looks like one.
func ParseRecord(texts []string) (id string, err error) {
	var record string
	count := 0
	for _, text := range texts {
		if rest, found := strings.CutPrefix(text, "v=STSv1"); found && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";") {
			record = strings.TrimLeft(rest, " \t")[1:]
			count++
		}
	}
	switch {
	case count == 0:
		return "", nil
	case count > 1:
		return "", errors.New("there is more than one v=STSv1 record")
	}
	for field := range strings.SplitSeq(record, ";") {
		if field = strings.Trim(field, " \t"); field == "" {
			continue
		}
		name, value, found := strings.Cut(field, "=")
		switch {
		case !found || name == "" || value == "":
			return "", fmt.Errorf("the record has the field %q", clip(field))
		case name == "id" && id == "":
			if len(value) > 32 || strings.Trim(value, idOctets) != "" {
				return "", fmt.Errorf("the record has the id %q", clip(value))
			}
			id = value
		}
	}
	if id == "" {
		return "", errors.New("the record has no id")
	}
	return id, nil
}

const idOctets = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

func clip(s string) string { return s[:min(len(s), 100)] }
