package wire

// The handshake of go-plugin, as PROTOCOL.md describes it for other languages.
const (
	// ProtocolVersion is the version of plugin.proto: the second field of the
	// handshake line. A host accepts this one and the one before, see Versions.
	ProtocolVersion = 1

	// CookieKey and CookieValue are put into a plugin's environment. They keep a
	// person from starting a plugin by hand; they are no secret.
	CookieKey   = "SLUICE_PLUGIN"
	CookieValue = "b2c9e34d-the-question-comes-first"

	// WatchStdin is set to "1" in the environment when standard input is a pipe
	// that ends when the host is gone.
	WatchStdin = "SLUICE_WATCH_STDIN"

	// SocketDir is the environment variable with the directory of a plugin's sockets.
	SocketDir = "PLUGIN_UNIX_SOCKET_DIR"

	// ServiceName is what go-plugin and the health service call the plugin.
	ServiceName = "plugin"

	// MaxChunk is the largest Chunk.data, in octets.
	MaxChunk = 256 << 10

	// ShutdownMethod is go-plugin's request to end the process.
	ShutdownMethod = "/plugin.GRPCController/Shutdown"
)

// Versions are those that a host offers and accepts, highest first: this one and the one
// before it, once there is one.
func Versions() []int { return versions(ProtocolVersion) }

func versions(newest int) []int {
	if newest == 1 {
		return []int{1}
	}
	return []int{newest, newest - 1}
}
