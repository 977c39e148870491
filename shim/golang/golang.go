// Package golang is the helper for functions that are HTTP servers written in Go: one function, [Listener],
// in one file that such a function carries itself.
package golang

import (
	_ "embed"
	"strings"
)

//go:embed listen.go
var source string

// Source is the text of listen.go for a package of that name.
func Source(pkg string) string {
	return strings.Replace(source, "package golang", "package "+pkg, 1)
}
