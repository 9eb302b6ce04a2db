// Package conformance finds out whether a plugin keeps the promises of sdk/PROTOCOL.md: it is `sluice plugin check`.
//
// It starts the plugin as the server does, enclosed in the same way, and speaks the protocol's frames itself, because most
// of what it tries no honest host would do: it cancels in the middle, goes on sending after the answer, mixes in frames of
// other questions, resets lanes, asks about 50 MB and 10,000 recipients, kills the process and starts it again. A plugin that
// names sockets of its own, for direct lanes or a shared connection, is asked there too, and has to answer as on a lane of gRPC.
//
// # What it promises
//
// Run ends within Options.Limit and a few seconds for cleaning up, whatever the plugin does; what could not be checked by
// then is reported as failed. It leaves no process and no file behind. Each promise of the protocol is one check, and a
// failed one says what was sent, what was expected, what was seen, and which section of PROTOCOL.md says so.
//
// What holds for every answer (is the verdict valid, are its changes announced, was there exactly one answer) is observed
// during all checks, and reported as checks of its own at the end: a plugin with one fault fails one check.
//
// # What it does not do
//
// It has no opinion about opinions: an error answer to a strange message is an answer. It doesn't ask for the same verdict
// twice, and it doesn't look inside: a plugin may pass and still be useless.
//
// The plugin is untrusted: its output is read always and kept within bounds, its answers are limited as in the server.
package conformance
