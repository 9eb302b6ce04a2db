// Package config is the only reader of sluice.toml.
//
// It promises: every problem of a file is found in one run and reported as
//
//	FILE:LINE: key: what is wrong, what was expected
//
// whether it is a key that does not exist (with "did you mean" for a near miss), a value of the wrong type, a value that
// a room of the house refuses, or two values that do not go together. Nothing is ever ignored silently: what this version
// cannot do yet is an error or a warning, never an unused key. A file with an error changes nothing; Load returns no
// Config for it.
//
// It owns the top-level keys and the tables that belong to no single room (listeners, domains, TLS, relays, logging);
// each stage owns its Config struct, with toml tags, a doc tag with the key's meaning, DefaultConfig and Validate, and
// this package reads the TOML into it. Three more tags are understood on string fields: `sluice:"path"` (relative to the
// file), `sluice:"secret"` (@FILE or $NAME) and `oneof:"a b c"`.
//
// BurntSushi/toml parses. It gives no public position for a key (its issue 462), so positions come from a probe: a value
// decoded as toml.Primitive remembers its place, and decoding it into a type whose UnmarshalTOML fails returns a
// ParseError with that place. That is also why tables have names here: inside an array of tables the place is wrong.
//
// Input is the administrator's, not a stranger's; still it is bounded (1 MiB) and fuzzed.
package config
