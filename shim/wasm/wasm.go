// Package wasm holds what functions that are WebAssembly modules are written with, one file for each language. A source
// carries its file itself, so that it builds with the language's own tools; the builder adds it where it is missing.
package wasm

import "embed"

//go:embed lambent
var files embed.FS

// Source is the text of lambent.h, lambent.rs, lambent.ts or lambent.go. The last is a package of its own, in a folder
// lambent beside the source, that is imported as the module's path and /lambent.
func Source(name string) string {
	text, err := files.ReadFile("lambent/" + name)
	if err != nil {
		panic(err) // the names are ours
	}
	return string(text)
}
