// Package units reads and writes the two kinds of quantity that a person writes in sluice.toml: a length of time and a
// number of octets.
//
// A Duration is what time.ParseDuration takes, and "d" for a day of 24 hours: "90s", "15m", "5d", "1d12h". A Size is a
// number of octets, or a number with B, KB, MB or GB, which are powers of 1024 (RULES D1): "65536", "64KB", "1.5GB".
// Neither is ever negative, and neither wraps: what does not fit in 63 bits is an error.
//
// Both are written so that reading gives the same value back, in the largest unit that says it without a fraction.
//
// The package imports the standard library only, so that storage may use it as well as the pipeline.
package units

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Day is what "d" stands for: 24 hours, whatever the clocks do.
const Day = 24 * time.Hour

// Duration is a length of time that was written down by a person.
type Duration time.Duration

// Of makes a Duration of the standard library's.
func Of(d time.Duration) Duration { return Duration(d) }

// Std returns the standard library's form.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// ParseDuration reads a duration as in Go, plus "d". A bare number other than 0 is refused: it has no unit.
func ParseDuration(s string) (Duration, error) {
	text := strings.TrimSpace(s)
	if text == "" {
		return 0, errors.New("the duration is empty")
	}
	if strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		return 0, fmt.Errorf("the duration %q has a sign", clip(s))
	}
	if n, err := decimal(text); err == nil && n != 0 {
		return 0, fmt.Errorf("%q has no unit", clip(s))
	}
	days, rest, err := leadingDays(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: %w", clip(s), err)
	}
	var std time.Duration
	if rest != "" {
		std, err = time.ParseDuration(rest)
		if err != nil || strings.ContainsAny(rest, "+-") { // "5d-3h": a sign behind the days
			return 0, fmt.Errorf("%q is not a duration", clip(s))
		}
	}
	total := days + std
	if total < 0 {
		return 0, fmt.Errorf("the duration %q is too long", clip(s))
	}
	return Duration(total), nil
}

// leadingDays takes "5d" or "1.5d" off the front of text.
func leadingDays(text string) (days time.Duration, rest string, err error) {
	number, rest, found := strings.Cut(text, "d")
	if !found {
		return 0, text, nil
	}
	n, err := decimal(number)
	if err != nil {
		return 0, "", err
	}
	if n > float64(math.MaxInt64/int64(Day)) {
		return 0, "", errors.New("too long")
	}
	if whole, errInt := strconv.ParseInt(number, 10, 64); errInt == nil {
		return time.Duration(whole) * Day, rest, nil
	}
	return time.Duration(n * float64(Day)), rest, nil
}

// String writes the duration so that ParseDuration reads the same one.
func (d Duration) String() string {
	std := time.Duration(d)
	if std == 0 {
		return "0s"
	}
	if std < 0 {
		return std.String()
	}
	var b strings.Builder
	if days := std / Day; days > 0 {
		fmt.Fprintf(&b, "%dd", days)
		std %= Day
	}
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Hour, "h"}, {time.Minute, "m"}} {
		if n := std / unit.length; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			std %= unit.length
		}
	}
	if std > 0 {
		b.WriteString(std.String())
	}
	return b.String()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is a number of octets.
type Size int64

// The units that a Size may be written in.
const (
	KB Size = 1 << 10
	MB Size = 1 << 20
	GB Size = 1 << 30
)

var sizeUnits = [...]struct {
	name  string
	octet Size
}{{"GB", GB}, {"MB", MB}, {"KB", KB}, {"B", 1}}

// ParseSize reads a number of octets, or a number followed by B, KB, MB or GB in either case; powers of 1024.
func ParseSize(s string) (Size, error) {
	text := strings.ToUpper(strings.TrimSpace(s))
	if text == "" {
		return 0, errors.New("the size is empty")
	}
	if strings.HasPrefix(text, "-") || strings.HasPrefix(text, "+") {
		return 0, fmt.Errorf("the size %q has a sign", clip(s))
	}
	unit := Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(rest), u.octet
			break
		}
	}
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		if whole > math.MaxInt64/int64(unit) {
			return 0, fmt.Errorf("the size %q is too large", clip(s))
		}
		return Size(whole) * unit, nil
	}
	n, err := decimal(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size", clip(s))
	}
	n *= float64(unit)
	if n >= math.MaxInt64 {
		return 0, fmt.Errorf("the size %q is too large", clip(s))
	}
	return Size(n), nil
}

// Int64 returns the number of octets.
func (s Size) Int64() int64 { return int64(s) }

// String writes the size in the largest unit that needs no fraction.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if s%u.octet == 0 {
			return strconv.FormatInt(int64(s/u.octet), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) // not reached: everything divides by one
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// decimal reads digits with at most one point among them: no sign, no exponent, no "inf", no "0x".
func decimal(text string) (float64, error) {
	if text == "" || strings.Trim(text, "0123456789.") != "" {
		return 0, errors.New("not a number")
	}
	return strconv.ParseFloat(text, 64)
}

// clip keeps what is quoted in an error short.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
