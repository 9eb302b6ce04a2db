// Package pluginhost runs plugins: it starts each in a process of its own,
// configures it, asks it questions, watches it, replaces it when it dies or
// hangs, and stops it. It is where the plugin protocol (sdk/PROTOCOL.md) and
// RULES C1 to C4 meet.
//
// # What it promises
//
// Ask returns within the question's time, whatever the plugin does. Its error is
// always a *Failure whose Kind says what went wrong; what that means for a message
// is the pipeline's affair. Content is not read any more once Ask has returned.
// A plugin can neither crash nor block nor fill the server: its output is read
// always and logged at a bounded rate, its answers are bounded and checked here,
// and nothing in this package waits for it without an end.
//
// # What it owns
//
// The plugin's processes (each the leader of a process group of its own, killed
// when its leader ends), the directory with its socket, and its directory below
// Options.StateDir.
//
// # Words
//
// A process is one run of a plugin. A lane is one gRPC stream of questions; a slot
// is the right to have a lane. A lane that did not answer a Cancel within a second is
// reset and its slot is lost until the plugin shows that the old handler ended, which
// it does by starting a new one (sends headers). A suspect is a message that was in a
// process when it died; it is asked about again alone in a cell, a second
// process that has first answered a harmless control question. What dies on the control
// is a broken plugin; what dies on the suspect convicts it (RULES C3).
//
// # What go-plugin does here
//
// Its Client starts a process through our runner, reads the handshake line and
// negotiates the version. Its pings, Kill, stderr parser and stdio carriage are not
// used, each for a trap that is named where we do it ourselves.
package pluginhost
