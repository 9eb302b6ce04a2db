// Package sdk is what the author of a Sluice plugin imports: the words of the
// plugin protocol as Go types, and the interface Plugin. It imports the
// standard library only. A plugin's whole main function is
//
//	func main() { serve.Main(scanner{}) }
//
// with package sdk/serve. PROTOCOL.md, beside this file, describes the same
// contract for other languages.
package sdk
