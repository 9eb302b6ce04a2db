// Package wire is the plugin protocol as octets: the generated code of
// plugin.proto, the handshake, and the conversion between wire and sdk types.
// It is for sdk/serve, sdk/sdktest and pipeline/pluginhost; authors of plugins
// import sdk and sdk/serve.
//
// What the From functions read comes from the other process and
// is not trusted: they refuse enum values that they do not know, and leave
// what only the host can judge (recipients, field names, limits) to it.
package wire

//go:generate sh generate.sh
