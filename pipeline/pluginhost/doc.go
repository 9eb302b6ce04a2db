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
// A process is one run of a plugin. A lane is a slot: the right to have one question at a time with the plugin. Where
// the plugin can be asked so, small questions of all lanes travel on one connection, the link; the others, and all of a plugin
// that has no link, on a stream of the lane's own, of gRPC or a direct one. A slot whose question was not answered within a second of
// its Cancel is lost until the plugin shows that the handler ended: on the link by the late answer, on a stream,
// which is reset, by starting a new handler (sends headers). A suspect is a message that was in a
// process when it died; it is asked about again alone in a cell, a second
// process that has first answered a harmless control question. What dies on the control
// is a broken plugin; what dies on the suspect convicts it (RULES C3).
//
// # What go-plugin does here
//
// Its Client starts a process through our runner, reads the handshake line and
// negotiates the version. Its pings, Kill, stderr parser and stdio carriage are not
// used, each for a trap that is named where we do it ourselves.
//
// # Decisions
//
// The suspect is asked after a control question, because "the process died twice with this message alone
// in it" says nothing about the message when the process dies with every message. Without the control
// an always-crashing plugin would put all mail into quarantine, whatever on_crash says.
//
// A slot is won back by evidence, the headers of a new handler, because a client of gRPC is never told when
// a handler whose stream it reset has returned. sdk/serve refuses a lane while the old handler runs; a worker pool
// lets it wait.
//
// Small questions are sent by the asking goroutine: on the link nobody waits, and on a stream it is less than what grpc takes without waiting. Larger
// ones by a goroutine of their own, so that Ask keeps its time while a plugin does not read.
//
// A plugin's socket has to be a unix socket in the directory that we made: a TCP port is open to everybody on the
// machine, and another path may be somebody else's socket.
//
// # Reload
//
// Host.Reload is all or nothing: new versions start first, beside the old ones where both allow it (Manifest.Overlap), and
// if one does not start nothing has changed; what cannot start beside is checked before. Old versions answer messages that began with them, until nobody has asked for
// Options.Linger; who asks later is led to the successor. See reload.go.
//
// # Check
//
// Check starts plugins for `sluice check`, beside a server that runs the same ones, and lets them look at their settings. They
// have no state directory then, and are configured only if they say that they know what a check is. See check.go.
//
// # Breaker and canary
//
// A plugin that fails always is not waited for (breaker.go); a second version can be asked about a share of the mail, and is given
// up by itself (canary.go).
//
// # What encloses a plugin
//
// Always: a process group, the parent's death, no_new_privs, an environment made from nothing, no core files, 4096 descriptors, files
// of 1 GiB, `memory` of data. With Landlock: files (its program, the system's, its own directories); from version 6 on signals and
// abstract unix sockets of others. With plugin_user: everything that a user of its own means, unix sockets in the file system
// included, and 1024 processes and threads of that user together (RLIMIT_NPROC counts a user's, so that it means nothing
// without). Where the system has delegated a cgroup of version 2 to us (systemd: Delegate=yes): memory.max and pids.max for each
// plugin, and cgroup.kill, which no child escapes. Missing says what a system lacks.
//
// # What is missing
//
// As the server's user a plugin can connect to unix sockets in the file system that this user may open; our own for administration
// turns plugins away by itself (cmd/internal/control). Without a cgroup, children of a plugin are killed with its process group, and those that left the
// group by the TMPDIR in their environment; if the server itself is killed the kernel ends the plugin's first process and the
// next start its children; a child that hides its TMPDIR lives on. RLIMIT_CPU is not used: it is a sum over the months that a plugin
// lives. The network is free. TMPDIR is on the system's disk: one file has 1 GiB at most, but there may be many. A script is run by name after its
// digest was checked.
package pluginhost
