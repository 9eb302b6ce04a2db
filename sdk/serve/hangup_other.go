//go:build !linux

package serve

import "net"

// hungUp cannot tell here; the question's deadline ends what waits.
func hungUp(net.Conn) bool { return false }
