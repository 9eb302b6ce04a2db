// Package dial is how the shipped plugins reach the daemons that they ask. It reads the
// two forms that a daemon's place has in settings, "unix:/path" and "tcp:host:port";
// connects within the question's time; keeps connections for the next question; and
// repeats a question once when a kept connection turns out to be dead.
//
//	at, err := dial.Parse("address", settings.Address, s.Dir)  // *sdk.SettingError
//	pool := dial.NewPool(at, dial.Options{Idle: 8})
//	body := dial.NewReplay(m.Content, 64<<10)
//	err = pool.Do(ctx, body.Rewind, func(c *dial.Conn) error { ... write, read ... })
//
// It promises that nothing waits longer than the context: a connection that Get gave
// has the context's deadline, and its reads and writes fail at once when the context
// is cancelled. It owns the connections; a *Conn belongs to its caller until
// Release or Close. What a daemon says is not looked at here.
//
// Failures are errors with the daemon's place in them, never an opinion: what a
// daemon that is down means for mail is the administrator's on_failure.
package dial

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// maxUnixPath is the longest path of a socket that the kernel takes (unix(7), sun_path).
const maxUnixPath = 107

// Address is where a daemon listens.
type Address struct {
	Network string // "unix" or "tcp"
	Place   string // a path, or host:port
}

// Parse reads "unix:/path" or "tcp:host:port". key is the setting that text is of; the
// error is a *sdk.SettingError. A relative path is taken from dir (Settings.Dir).
func Parse(key, text, dir string) (Address, error) {
	bad := func(problem string) (Address, error) {
		return Address{}, &sdk.SettingError{
			Key: key, Problem: fmt.Sprintf("%q %s, expected \"unix:/path\" or \"tcp:host:port\"", text, problem),
		}
	}
	network, place, ok := strings.Cut(text, ":")
	switch {
	case !ok || network != "unix" && network != "tcp":
		return bad("says no network")
	case network == "unix":
		if place == "" {
			return bad("has no path")
		}
		if !filepath.IsAbs(place) {
			place = filepath.Join(dir, place)
		}
		if len(place) > maxUnixPath {
			return bad(fmt.Sprintf("is a path longer than the %d octets of a socket", maxUnixPath))
		}
		return Address{Network: "unix", Place: place}, nil
	}
	host, port, err := net.SplitHostPort(place)
	if err != nil || host == "" {
		return bad("is no host and port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("has no port between 1 and 65535")
	}
	return Address{Network: "tcp", Place: place}, nil
}

// String returns the form that Parse reads.
func (a Address) String() string { return a.Network + ":" + a.Place }

// Dial connects within limit and the context's time, whichever is less. limit 0 is the
// context's time alone.
func (a Address) Dial(ctx context.Context, limit time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: limit, KeepAlive: 15 * time.Second}
	c, err := d.DialContext(ctx, a.Network, a.Place)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a, err)
	}
	return c, nil
}
