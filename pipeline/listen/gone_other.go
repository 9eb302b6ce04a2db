//go:build !linux

package listen

// Gone reports whether the client has closed its side; elsewhere than on Linux that is not looked for.
func (c *Conn) Gone(unread, underTLS bool) bool { return c.closed.Load() }
