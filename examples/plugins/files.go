// Package plugins holds the examples as files: `sluice plugin new` writes copies of them, so that what a newcomer begins
// with is what the tests run.
package plugins

import "embed"

// Files are the examples that are beginnings of other plugins: scanner (Go), python and javascript. The names are theirs in
// this directory.
//
//go:embed scanner/main.go scanner/main_test.go
//go:embed python/scanner.py python/plugin_pb2.py python/test_scanner.py python/plugin.toml python/README.md
//go:embed javascript/scanner.js javascript/scanner.test.js javascript/package.json javascript/package-lock.json
//go:embed javascript/plugin.proto javascript/plugin.toml javascript/README.md
var Files embed.FS
