package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// errElsewhere is a place that a plugin was not given.
var errElsewhere = errors.New("it is not in the directory PLUGIN_UNIX_SOCKET_DIR")

// ownPath returns the path of what a plugin calls its socket, which has to lie in the directory that it was given. Anything else could
// be somebody else's socket, our own for administration, say, to which we would write what strangers send.
func ownPath(dir, socket string) (string, error) {
	path := filepath.Clean(socket) // and no other: in the one as it is written ".." may climb out of where a link leads to
	if filepath.Dir(path) != filepath.Clean(dir) {
		return "", errElsewhere
	}
	return path, nil
}

// dialOwn connects to a plugin's socket at a path from ownPath, and never to where a link leads that the plugin puts in its place,
// now or later: what was looked at is what is connected to.
func dialOwn(ctx context.Context, path string) (net.Conn, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "connect to", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("connect to %s: %w", path, errNoSocket)
	}
	d := net.Dialer{Timeout: dialTime}
	return d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd))
}

// errNoSocket is something else at the place of a socket.
var errNoSocket = errors.New("what the plugin calls its socket is none")
