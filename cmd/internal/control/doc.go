// Package control is the road between `sluice serve` and the other commands: a socket in data_dir.
//
// A request is one HTTP POST of one JSON value to /v1/NAME; the answer is a JSON object a line, {"item": ...} for each
// thing that the handler emits, and {"end": true} or {"error": "..."} as the last one. An answer that ends without its
// last line has been cut off, and the client says so. While the handler has nothing to say there is {"alive": true} every few
// seconds: a client that hears nothing at all gives up, for the server's process is stopped or stuck.
//
// It promises: only the user that the server runs as, and root, get in (the socket is made with mode 0600 in a directory
// of its owner's, and the peer's user is checked besides, SO_PEERCRED), but not the server's plugins and what they start, which run
// as that user (confined.go); the handler's context ends when the client goes away; a socket
// left behind by a crash is replaced; a path too long for a socket's address is reached through its directory's
// descriptor (RULES D5).
//
// It owns data_dir/control.sock. It reads JSON of at most 16 MiB from users who may read everything anyway.
package control
